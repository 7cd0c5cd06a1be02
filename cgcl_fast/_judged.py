"""The subject of ``evaluate RUN``: a run's generators, their directions of translation, and its test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cgcl_fast._command import UsageError
from cgcl_fast._generator import find_generator
from cgcl_fast._networks import OTHER_WAY
from cgcl_fast._pretrained import read_about
from cgcl_fast._translator import Translator
from cgcl_fast._yaml import read_yaml
from cgcl_fast.data import Reading, UnpairedDataset, open_test_images
from cgcl_fast.data.needs import DataNeeds
from cgcl_fast.data.random import item_random
from cgcl_fast.data.values import values_from_dict
from cgcl_fast.engine import CheckpointError
from cgcl_fast.metrics.comparison import FIGURES, SET_FIGURES, Judges, compare, higher_is_better, load_judges
from cgcl_fast.metrics.distances import DISTANCES
from cgcl_fast.metrics.evaluation import AFTER
from cgcl_fast.metrics.feature_distances import NEIGHBOURS
from cgcl_fast.metrics.features import Alone, FeatureSet, Transform, features_of
from cgcl_fast.metrics.image_sets import DomainImages
from cgcl_fast.metrics.weights import WeightFiles
from cgcl_fast.networks import StyledGenerator


@dataclass(frozen=True)
class Source:
    """Where test images come from and how they are prepared.

    Attributes:
        data: the data folder; None: the built-in streets.
        size, preprocess, load_size: see :class:`Preprocess`.
        seed: seed of the streets.
        limit: maximum number of images per domain; None: all.
        most_pixels: larger images are left out.
    """

    data: Path | None
    size: int = 256
    preprocess: str = "resize_and_crop"
    load_size: int | None = None
    seed: int = 0
    limit: int | None = None
    most_pixels: int = 179 * 10**6


def config_of(checkpoint: Path) -> dict[str, Any]:
    """The options of the run that ``checkpoint`` belongs to: a run's folder, a file in its ``checkpoints``, or a folder
    to share, which adds the "step". Empty for any other file.

    Raises:
        ValueError: the options cannot be read.
    """
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            found = read_yaml(folder / "config.yaml")
            return found if isinstance(found, dict) else {}
    about = read_about(checkpoint if checkpoint.is_dir() else checkpoint.parent)
    options = about.get("options")
    return {**options, "step": about.get("step")} if isinstance(options, dict) else {}


def source_of(config: Mapping[str, Any], **given: Any) -> Source:
    """The test images of a run, prepared as in its training except where ``given`` overrides it. Without a run (empty
    ``config``) only ``given`` counts.

    Raises:
        UsageError: neither says where images are.
    """
    known = {name: value for name, value in given.items() if value is not None}
    if "data" not in config and "data" not in known:
        raise UsageError(
            "--data: needed with a generator without its run: a folder with testA and testB, or of its domains"
        )
    own: dict[str, Any] = {name: config[name] for name in ("data", "size", "load_size", "seed") if name in config}
    own["preprocess"] = "none" if config.get("method") == "sincut" else config.get("preprocess", "resize_and_crop")
    if "preprocess" in known or "size" in known:
        own.pop("load_size", None)
    found = {**own, **known}
    data = found.pop("data", None)
    return Source(data=None if data is None else Path(data), **found)


@dataclass(frozen=True)
class Way:
    """One direction of translation with its test images.

    Attributes:
        source, target: names of the domains, for people.
        translator: translates to ``target``.
        dataset: the test images.
        keys: names of source and target in ``dataset``.
    """

    source: str
    target: str
    translator: Translator
    dataset: UnpairedDataset
    keys: tuple[str, str]

    @property
    def styled(self) -> StyledGenerator | None:
        """The generator, if it has styles."""
        generator = self.translator.generator
        return generator if isinstance(generator, StyledGenerator) else None

    def translate(self, images: Tensor, styles: Tensor | None = None) -> Tensor:
        """Translate (B, C, H, W) to (B, C', H, W) on the CPU, by default in the generator's own style if it has one."""
        generator = self.styled
        if generator is None:
            return self.translator.translate(images, self.translator.generator)
        return self.translator.translate(images, lambda x: generator(x, self.translator.domain, styles))

    def random_styles(self, seed: int, places: Sequence[int | str]) -> Tensor | None:
        """One random style per place, a function of seed, domains and place; None if there are no styles."""
        generator = self.styled
        if generator is None:
            return None
        drawn = []
        for place in places:
            number = int(item_random(seed, "style", self.source, self.target, place).random() * 2**53)
            drawn.append(generator.random_style(1, torch.Generator().manual_seed(number)))
        return torch.cat(drawn)


def find_ways(
    checkpoint: Path, direction: str | None, source: Source, device: torch.device, precision: str
) -> tuple[list[Way], Path]:
    """All pairs of domains that a generator translates between, and the generator's file.

    Args:
        direction: AtoB or BtoA, for a method with two generators: only this one; None: both.

    Raises:
        CheckpointError: there is no generator.
        ValueError: the images are missing or do not fit the generator.
    """
    generator, file = find_generator(checkpoint, direction)
    if isinstance(generator, StyledGenerator):
        values = values_from_dict(getattr(generator, "ranges", None) or {})
        channels = int(generator.config["input_nc"])
        readings = {name: Reading(channels, values.get(name), source.most_pixels) for name in generator.domains}
        needs = DataNeeds(random_pairs=generator.reads_references, multiple=1)
        return ways_of_styled(
            generator, open_tests(source, generator.domains, readings, needs), device, precision
        ), file
    ways = [_one_way(generator, source, device, precision)]
    if direction is None:
        try:
            back, _ = find_generator(checkpoint, OTHER_WAY[str(generator.direction)])
            ways.append(_one_way(back, source, device, precision))
        except CheckpointError:  # the method translates one way only
            pass
    return ways, file


def ways_of_styled(
    generator: StyledGenerator, dataset: UnpairedDataset, device: torch.device, precision: str
) -> list[Way]:
    """Every ordered pair of different domains."""
    names = generator.domains
    translators = {name: Translator(generator, device, precision, name) for name in names}
    pairs = [(one, other) for one in names for other in names if one != other]
    return [Way(*pair, translators[pair[1]], dataset, pair) for pair in pairs]


def _one_way(generator: nn.Module, source: Source, device: torch.device, precision: str) -> Way:
    direction = str(generator.direction)
    translator = Translator(generator, device, precision, most_pixels=source.most_pixels)
    readings = {
        "A": translator.reading,
        "B": Reading(translator.channels, translator.target, source.most_pixels),
    }
    dataset = open_tests(source, ("A", "B"), readings, DataNeeds(multiple=1), direction)
    return Way(direction[0], direction[-1], translator, dataset, ("A", "B"))


def open_tests(
    source: Source,
    domains: Sequence[str],
    readings: Mapping[str, Reading],
    needs: DataNeeds,
    direction: str = "AtoB",
) -> UnpairedDataset:
    """The test images; see :func:`open_test_images`.

    Raises:
        ValueError: there are none; the message is one line.
    """
    return open_test_images(
        source.data,
        domains=domains,
        size=source.size,
        load_size=source.load_size,
        preprocess=source.preprocess,
        seed=source.seed,
        limit=source.limit,
        readings=readings,
        needs=needs,
        direction=direction,
    )


class Samples(nn.Module):
    """Gives a generator the interface of a method that :class:`cgcl_fast.metrics.Evaluation` uses."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.generator = way.translator.generator

    def samples(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Columns of sources, translations and truths; in the style of the batch's references if it has any."""
        generator, way = self.way.styled, self.way
        if generator is None or not generator.reads_references:
            columns = {"source": batch["A"], "translated": way.translate(batch["A"])}
            return {**columns, "truth": batch["truth"]} if "truth" in batch else columns
        columns = {"source": batch["A"]}
        for index, name in enumerate(generator.domains):
            if f"truth_{name}" in batch:
                style = generator.style_of(batch[f"reference_{name}"], index)
                columns[name] = way.translator.translate(batch["A"], partial(generator, domain=index, style=style))
                columns[f"{name} truth"] = batch[f"truth_{name}"]
        return columns


EvalMetrics = tuple[Literal["lite0", "fid", "kid", "is", "precision"], ...]


def check_evaluations(eval_every: int | None, save_every: int | None, best_by: str) -> None:
    """Check the options of evaluation during training.

    Raises:
        ValueError: an evaluation would not coincide with a save, or ``best_by`` is no figure of the training.
    """
    if eval_every is not None and save_every is not None and eval_every % save_every:
        raise ValueError(f"eval_every: expected a multiple of save_every, {save_every}, got {eval_every}")
    if higher_is_better(best_by) is None or (best_by in FIGURES and best_by not in SET_FIGURES):
        figures = ", ".join((*(f"{name}/{AFTER}" for name in DISTANCES), *SET_FIGURES))
        raise ValueError(f"best_by: expected one of {figures}, got {best_by!r}")
    if best_by in FIGURES and eval_every is None:
        raise ValueError(f"best_by: {best_by} is there with eval_every")


def is_due(step: int, steps: int, every: int | None) -> bool:
    """Whether the set is evaluated at this step: every ``every`` steps and at the last; never if ``every`` is None."""
    return every is not None and (step % every == 0 or step == steps)


class SetEvaluation:
    """Computes the set figures of ``evaluate`` (such as FID) for a method in training: "NAME/SOURCE to TARGET" for each
    pair of domains, and their mean under the figure's own name.

    Args:
        dataset: the test images.
        judges: the networks of the figures, on the device.
        direction: AtoB or BtoA, for a method without named domains.
        seed: seed of the random styles.
        batch_size: number of images per batch.
    """

    def __init__(
        self, dataset: UnpairedDataset, judges: Judges, *, direction: str, seed: int = 0, batch_size: int = 16
    ) -> None:
        self.dataset = dataset
        self.judges = judges
        self.direction = direction
        self.seed = seed
        self.batch_size = batch_size
        self._real: dict[str, FeatureSet | None] = {}

    def __call__(self, method: Any) -> dict[str, float]:
        """The figures of ``method`` with its current weights."""
        sums: dict[str, list[float]] = {}
        figures: dict[str, float] = {}
        for way in self._ways(method):
            key = way.keys[1]
            if key not in self._real:
                self._real[key] = self._features(way, key)
            generated, real = self._features(way, way.keys[0], self._translation(way)), self._real[key]
            assert generated is not None and real is not None
            for name, value in compare(generated, real, self.judges).items():
                sums.setdefault(name, []).append(value)
                figures[f"{name}/{way.source} to {way.target}"] = value
        return {**{name: sum(values) / len(values) for name, values in sums.items()}, **figures}

    def _ways(self, method: Any) -> list[Way]:
        generator, device = getattr(method, method.generator_name), next(method.parameters()).device
        if isinstance(generator, StyledGenerator):
            return ways_of_styled(generator, self.dataset, device, "fp32")
        names = (self.direction[0], self.direction[-1])
        return [Way(*names, Translator(generator, device), self.dataset, ("A", "B"))]

    def _translation(self, way: Way) -> Transform:
        return lambda batch, numbers: way.translate(batch, way.random_styles(self.seed, [f"{n} 0" for n in numbers]))

    def _features(self, way: Way, key: str, transform: Transform | None = None) -> FeatureSet | None:
        return features_of(
            DomainImages(self.dataset, key),
            self.judges.networks,
            Alone(way.translator.device),
            batch_size=self.batch_size,
            transform=transform,
        )


def set_evaluation_of(
    config: Mapping[str, Any],
    dataset: UnpairedDataset,
    metrics: Sequence[str],
    device: torch.device,
) -> SetEvaluation:
    """The evaluation of a training on its test images.

    Args:
        config: the options of the training.
        dataset: the training images.

    Raises:
        ValueError: a figure is not available here, or there are too few images; the message is one line.
    """
    judges = load_judges(metrics, WeightFiles(config.get("features")), device)
    for name, reason in judges.skipped.items():
        raise ValueError(f"eval_metrics: {name}: {reason}")
    needs = DataNeeds(random_pairs=dataset.needs.random_pairs, multiple=1)
    direction = str(config["direction"])
    readings = getattr(dataset, "readings", {})
    tests = open_tests(source_of(config), dataset.domains, readings, needs, direction)
    few = min((tests.count(domain), domain) for domain in tests.domains)
    least = 1 + (NEIGHBOURS if "precision" in metrics else 1)
    if few[0] < least:
        raise ValueError(f"eval_every: needs at least {least} test images of each domain, got {few[0]} of {few[1]}")
    return SetEvaluation(tests, judges, direction=direction, seed=int(config["seed"]))
