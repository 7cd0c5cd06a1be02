"""What ``evaluate RUN`` judges: a run's generators, the ways that they translate, and its test images."""

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
    """Test images, and where they come from.

    Attributes:
        data: the folder; None: the built-in streets.
        size, preprocess, load_size: see :class:`Preprocess`.
        seed: of the streets.
        limit: no more than so many of each domain.
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
    """The options of the run that a run's folder, a file in its ``checkpoints``, or a folder to share is of, the latter
    with the "step"; none of other files.

    Raises:
        ValueError: they cannot be read.
    """
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            found = read_yaml(folder / "config.yaml")
            return found if isinstance(found, dict) else {}
    about = read_about(checkpoint if checkpoint.is_dir() else checkpoint.parent)
    options = about.get("options")
    return {**options, "step": about.get("step")} if isinstance(options, dict) else {}


def source_of(config: Mapping[str, Any], **given: Any) -> Source:
    """The test images of a run, as its training saw them, or as ``given`` says otherwise; ``given`` alone where there
    is no run.

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
    """A translation of test images.

    Attributes:
        source, target: names of the domains, as people know them.
        translator: to ``target``.
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
        """(B, C, H, W) to (B, C', H, W), on the CPU; in the generator's own style if it has one and none is given."""
        generator = self.styled
        if generator is None:
            return self.translator.translate(images, self.translator.generator)
        return self.translator.translate(images, lambda x: generator(x, self.translator.domain, styles))

    def random_styles(self, seed: int, places: Sequence[int | str]) -> Tensor | None:
        """A style for each place, which decides it whatever stands beside it; None: there are none."""
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
    """All pairs of domains that a generator translates between, and the file of the generator.

    Args:
        direction: of a method with a generator of each way, only that one.

    Raises:
        CheckpointError: there is no generator.
        ValueError: the images do not fit it, or are missing.
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
        except CheckpointError:  # a method of one way
            pass
    return ways, file


def ways_of_styled(
    generator: StyledGenerator, dataset: UnpairedDataset, device: torch.device, precision: str
) -> list[Way]:
    """From each domain to each other one."""
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
        ValueError: there are none, one line.
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
    """A generator as :class:`cgcl_fast.metrics.Evaluation` asks it of a method: columns of translations and truths."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.generator = way.translator.generator

    def samples(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """In the style of the references, where the batch has them."""
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
    """Raise a ValueError unless evaluations of a training fall together with its saving, and it is known which figure
    makes a checkpoint the best."""
    if eval_every is not None and save_every is not None and eval_every % save_every:
        raise ValueError(f"eval_every: expected a multiple of save_every, {save_every}, got {eval_every}")
    if higher_is_better(best_by) is None or (best_by in FIGURES and best_by not in SET_FIGURES):
        figures = ", ".join((*(f"{name}/{AFTER}" for name in DISTANCES), *SET_FIGURES))
        raise ValueError(f"best_by: expected one of {figures}, got {best_by!r}")
    if best_by in FIGURES and eval_every is None:
        raise ValueError(f"best_by: {best_by} is there with eval_every")


def is_due(step: int, steps: int, every: int | None) -> bool:
    """Whether the set is evaluated at a step: at every so many, and at the last."""
    return every is not None and (step % every == 0 or step == steps)


class SetEvaluation:
    """Called with a method in training, gives the figures of its translations of test images as a set, as ``evaluate``
    does: the mean over the pairs of domains under a figure's own name, and "NAME/SOURCE to TARGET" of each.

    Args:
        dataset: the test images.
        judges: the networks of the figures, on the device.
        direction: of a method without named domains.
        seed: of random styles.
        batch_size: images at a time.
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
        """The figures of ``method`` in its present state."""
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
    """The evaluation of a training by its test images.

    Args:
        config: its options.
        dataset: its training images.

    Raises:
        ValueError: a figure cannot be had here, or there are no images; one line.
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
