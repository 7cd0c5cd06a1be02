"""The figures by name: what ``python -m cgcl_fast.figures`` draws for a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cgcl_fast._run import Run
from cgcl_fast.data import UnpairedDataset
from cgcl_fast.figures.attention import attention, attention_figure
from cgcl_fast.figures.components import components_figure
from cgcl_fast.figures.curves import losses_figure, metrics_figure, read_curves
from cgcl_fast.figures.features import DoesNotFitError, features, projected_features
from cgcl_fast.figures.grad_cam import grad_cam, grad_cam_figure
from cgcl_fast.figures.instances import find_instances, instances_figure, translate_instances
from cgcl_fast.figures.memory import memory_assignments, memory_figure
from cgcl_fast.figures.similarity import similarity_figure
from cgcl_fast.figures.style_codes import style_codes, style_codes_figure
from cgcl_fast.figures.styles import between, in_styles, styles_figure
from cgcl_fast.methods.mguit import MGUIT
from cgcl_fast.networks import StyledGenerator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = Iterator[tuple[str, "Figure"]]
"""Pairs of a file name without suffix and a figure."""


@dataclass
class Subject:
    """The subject of figures.

    Args:
        run: the run.
        others: more runs, for curves.
        data: a folder to use instead of the run's data.
        count: how many images to show, in figures that show several.
        codes: images per domain whose codes are embedded in the plane; for MGUIT's contents, six times as many pixels.
        points: queries of the similarity, as fractions of width and height.
        seed: of styles and layouts.
    """

    run: Run
    others: Sequence[Path] = ()
    data: Path | None = None
    count: int = 4
    codes: int = 100
    points: Sequence[tuple[float, float]] = ((0.3, 0.35), (0.6, 0.7))
    seed: int = 0

    @cached_property
    def dataset(self) -> UnpairedDataset:
        return self.run.test_images(self.data)

    @cached_property
    def batch(self) -> dict[str, Any]:
        return self.dataset.sample_batch(self.count)

    @property
    def target(self) -> int:
        """The target domain in figures of features: of two domains the second, otherwise night if there is one."""
        domains = self.run.method.domains
        return domains.index("night") if "night" in domains else 1

    @property
    def title(self) -> str:
        return f"{self.run.kind}, step {self.run.step}"

    def generator(self) -> StyledGenerator:
        """
        Raises:
            DoesNotFitError: the method has no styles.
        """
        method = self.run.method
        generator = getattr(method, method.generator_name)
        if not isinstance(generator, StyledGenerator):
            raise DoesNotFitError("styles")
        return generator

    def targets(self) -> Iterator[tuple[int, str]]:
        """The target domains: of two only the second, because test images are from the first."""
        domains = self.run.method.domains
        yield from enumerate(domains) if len(domains) > 2 or "A_domain" in self.batch else [(1, domains[1])]


def _curves(subject: Subject) -> Drawn:
    folders = [subject.run.folder, *subject.others]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    empty = True
    for file, draw, name in (("log", losses_figure, "losses"), ("metrics", metrics_figure, "metrics")):
        there = {
            name: read_curves(folder / f"{file}.jsonl")
            for name, folder in zip(names, folders, strict=True)
            if (folder / f"{file}.jsonl").exists()
        }
        figure = draw(there, title=f"{', '.join(names)}: {name}")
        if figure is not None:
            empty = False
            yield name, figure
    if empty:
        raise DoesNotFitError("lines in log.jsonl")


def _similarity(subject: Subject) -> Drawn:
    layers = projected_features(subject.run.method, subject.batch["A"][:1], subject.target)
    yield "similarity", similarity_figure(layers, subject.points, title=f"{subject.title}: similarity to a query")


def _components(subject: Subject) -> Drawn:
    layers = features(subject.run.method, subject.batch["A"][:2], subject.target)
    yield "components", components_figure(layers, title=f"{subject.title}: principal components of features")


def _attention(subject: Subject) -> Drawn:
    maps = attention(subject.run.method, subject.batch["A"])
    yield "attention", attention_figure(maps, title=f"{subject.title}: how often positions are drawn")


def _style_codes(subject: Subject) -> Drawn:
    codes = style_codes(subject.run.method, subject.dataset, subject.codes)
    yield "style_codes", style_codes_figure(codes, seed=subject.seed, title=f"{subject.title}: style codes, t-SNE")


def _memory(subject: Subject) -> Drawn:
    method, domains = subject.run.method, subject.run.method.domains
    if not isinstance(method, MGUIT):
        raise DoesNotFitError("a memory")
    batch = subject.dataset.sample_batch(max(8, subject.count))
    assignments = memory_assignments(method, [batch[name] for name in domains], 6 * subject.codes, subject.seed)
    yield "memory", memory_figure(assignments, seed=subject.seed, title=f"{subject.title}: items of the memory, t-SNE")


def _grad_cam(subject: Subject) -> Drawn:
    explanation = grad_cam(subject.run.method, subject.batch["A"])
    names = tuple(subject.run.method.domains[k] for k in subject.batch["A_domain"].tolist())
    yield "grad_cam", grad_cam_figure(explanation, names, title=f"{subject.title}: what D tells domains by")


def _styles(subject: Subject) -> Drawn:
    generator = subject.generator()
    styles = generator.random_style(6, torch.Generator().manual_seed(subject.seed))
    for domain, name in subject.targets():
        translations = in_styles(generator, subject.batch["A"], domain, styles)
        names = [f"style {n}" for n in range(len(styles))]
        figure = styles_figure(subject.batch["A"], translations, names, title=f"{subject.title}: to {name}")
        yield f"styles_{name}", figure


def _interpolation(subject: Subject) -> Drawn:
    generator = subject.generator()
    domain = subject.target
    start, end = _ends(generator, subject, domain)
    styles = between(start, end, 7)
    translations = in_styles(generator, subject.batch["A"], domain, styles)
    names = [f"{n / (len(styles) - 1):.2f}" for n in range(len(styles))]
    title = f"{subject.title}: to {subject.run.method.domains[domain]}, from style to style"
    yield "interpolation", styles_figure(subject.batch["A"], translations, names, title=title)


def _ends(generator: StyledGenerator, subject: Subject, domain: int) -> tuple[Tensor, Tensor]:
    """The two of eight random styles that are farthest apart: similar ones would show nothing."""
    styles = generator.random_style(8, torch.Generator().manual_seed(subject.seed))
    distances = torch.cdist(styles.flatten(1), styles.flatten(1))
    first, second = divmod(int(distances.argmax()), len(styles))
    return styles[first], styles[second]


def _instances(subject: Subject) -> Drawn:
    method = subject.run.method
    if not hasattr(method, "G_o"):
        raise DoesNotFitError("a generator of instances")
    instances, names = find_instances(subject.dataset)
    translated = translate_instances(method, instances)
    yield (
        "instances",
        instances_figure(instances, translated, method.domains, names, title=f"{subject.title}: instances by G_o"),
    )


FIGURES: dict[str, Callable[[Subject], Drawn]] = {
    "curves": _curves,
    "similarity": _similarity,
    "components": _components,
    "attention": _attention,
    "style_codes": _style_codes,
    "memory": _memory,
    "grad_cam": _grad_cam,
    "styles": _styles,
    "interpolation": _interpolation,
    "instances": _instances,
}
"""Each yields its figures, or raises :class:`DoesNotFitError`."""
