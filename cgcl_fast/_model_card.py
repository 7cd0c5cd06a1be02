"""The model card of a generator: what it is, how to use it, how it was trained and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from torch import nn

from cgcl_fast._networks import OTHER_WAY
from cgcl_fast._pretrained import LIBRARY
from cgcl_fast.data.formats import printable
from cgcl_fast.data.streets import DOMAINS
from cgcl_fast.methods.registry import PAPERS
from cgcl_fast.metrics import DISTANCES
from cgcl_fast.metrics.comparison import FIGURES
from cgcl_fast.metrics.evaluation import AFTER
from cgcl_fast.networks import StyledGenerator
from cgcl_fast.report.charts import number
from cgcl_fast.report.contents import Contents
from cgcl_fast.report.page import BETTER, TITLES, evaluation_rows, figure_rows, shown, style_rows

STREETS = "built-in streets"
"""As ``evaluate`` names them."""
_STREETS = "the built-in street scenes of cgcl_fast, which are rendered"


@dataclass(frozen=True)
class Facts:
    """What a card says that the generator does not.

    Attributes:
        name: on the Hub, or a folder, as the examples have it.
        both_ways: there is a generator of the way back.
        run: of the training, as far as it is known.
        step: of the generator.
        data: words about the images; None: what the options of the run tell.
        license: of the weights, by the Hub's identifier; None: it is not said.
    """

    name: str
    both_ways: bool = False
    run: Contents | None = None
    step: int | None = None
    data: str | None = None
    license: str | None = None


def model_card(generator: nn.Module, facts: Facts) -> str:
    """A card as the Hub reads them: YAML between dashes, then Markdown."""
    from huggingface_hub import ModelCardData  # here, since most commands need none of it

    run = None if facts.run is None else _of_generator(facts.run, facts.step, generator)
    method = None if run is None else run.method
    title = f"{TITLES[method] if method else type(generator).__name__}: {_ways(generator, facts)}"
    paper, link = PAPERS[method] if method else (None, None)
    evaluations = {} if run is None else run.evaluations
    tags = ["image-to-image", "unpaired", "pytorch", *([method] if method else [])]
    if link is not None:
        tags.append(f"arxiv:{link.rpartition('/')[2]}")
    data = ModelCardData(
        library_name=LIBRARY, pipeline_tag="image-to-image", tags=tags, license=facts.license,
        model_name=title, eval_results=_results(run, evaluations, facts) or None,
    )  # fmt: skip
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        _introduction(generator, paper, link),
        _usage(generator, facts),
        *([] if run is None else [_training(run, facts), *_metrics(run, evaluations, facts)]),
    ]
    return "\n\n".join(parts) + "\n"


def _of_generator(run: Contents, step: int | None, generator: nn.Module) -> Contents:
    """The run with only those figures that were measured of the generator of a step."""
    if step is None:
        return replace(run, figures={}, evaluations={})
    of_step = {name: [point for point in points if point[0] == step] for name, points in run.figures.items()}
    trained = {option.name: option.value for option in run.options}.get("direction")
    if not isinstance(generator, StyledGenerator) and _direction(generator) != (trained or "AtoB"):
        of_step = {}  # a training measures its own direction, and this one is the way back
    evaluations = {
        name: content
        for name, content in run.evaluations.items()
        if isinstance(content, Mapping) and _mapping(content.get("protocol")).get("step") == step
    }
    return replace(run, figures={name: p for name, p in of_step.items() if p}, evaluations=evaluations)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _ways(generator: nn.Module, facts: Facts) -> str:
    if isinstance(generator, StyledGenerator):
        return ", ".join(printable(name) for name in generator.domains)
    names = DOMAINS[:2] if facts.run is not None and _of_streets(facts.run) else ("A", "B")
    first, last = names if _direction(generator) == "AtoB" else names[::-1]
    return f"{first} to {last}{' and back' if facts.both_ways else ''}"


def _direction(generator: nn.Module) -> str:
    return str(getattr(generator, "direction", None) or "AtoB")


def _of_streets(run: Contents) -> bool:
    """Whether it was trained on the built-in streets."""
    return all(option.value is None for option in run.options if option.name == "data")


def _introduction(generator: nn.Module, paper: str | None, link: str | None) -> str:
    parameters = sum(p.numel() for p in generator.parameters()) / 1e6
    by = "" if paper is None else f" by the method of {paper}{'' if link is None else f' ([arXiv]({link}))'}"
    return (
        f"A generator for unpaired image-to-image translation, `{type(generator).__name__}` with {parameters:.3f} M "
        f"parameters, trained with {LIBRARY}{by}."
    )


def _usage(generator: nn.Module, facts: Facts) -> str:
    channels = int(_mapping(generator.config).get("input_nc", 3))
    images = f"(B, {channels}, H, W) in [-1, 1], sides of multiples of {getattr(generator, 'multiple', 4)}"
    load, call, more = f"generator = hub.from_pretrained({facts.name!r})", "generator(images)", ""
    if isinstance(generator, StyledGenerator):
        last = len(generator.domains) - 1
        call = f"generator(images, {last}, generator.random_style(len(images)))"
        images += f"; to {generator.domains[last]!r}, in random styles"
        more = f" --domain {quote(generator.domains[last])} --style random"
    elif facts.both_ways:
        load += f"  # direction={OTHER_WAY[_direction(generator)]!r}: the way back"
    return (
        "## Use\n\n```python\nfrom cgcl_fast import hub\n\n"
        f"{load}\ntranslated = {call}  # {images}\n```\n\n"
        "Files are translated, of any size and format, by\n\n"
        f"```\npython -m cgcl_fast.translate --checkpoint {quote(facts.name)} --input photos/ --output translated/"
        f"{more}\n```"
    )


def _data(run: Contents, facts: Facts) -> str:
    given = {option.name: option.value for option in run.options}
    if facts.data is not None:
        return facts.data
    if _of_streets(run):
        return _STREETS
    return _folder(str(given["data"]))


def _folder(path: str) -> str:
    """Its name alone: the rest is of somebody's machine."""
    name = Path(path).name
    return f"images of the folder {printable(name)}" if name not in ("", "..") else "images of a folder"


def _judged(content: Mapping[str, Any], run: Contents, facts: Facts) -> tuple[str, str]:
    """The images that a file of ``evaluate`` is of, which need not be those of the training: kind and words."""
    data = {option.name: option.value for option in run.options}.get("data")
    of = _mapping(content.get("protocol")).get("data", data)
    if of == data or (data is None and of == STREETS):
        return ("streets" if data is None else "folder"), _data(run, facts)
    return ("streets", _STREETS) if of == STREETS else ("folder", _folder(str(of)))


def _training(run: Contents, facts: Facts) -> str:
    given = {option.name: option.value for option in run.options}
    other = [
        f"`{option.name}` {shown(option.value)} (the paper's: {shown(option.default) or 'none'})"
        for option in run.options
        if option.changed and option.value is not None  # epochs, where the run is so many steps long
    ]
    rows = [
        ("method", f"`{run.method}`"),
        ("data", _data(run, facts)),
        ("images", f"{shown(given.get('size'))} pixels, {shown(given.get('preprocess'))}"),
        ("steps", "–" if facts.step is None else f"{facts.step:,}"),
        ("batch", shown(given.get("batch_size"))),
        ("other than the paper's", "; ".join(other) or "nothing"),
    ]
    if given.get("ema_decay"):
        rows.insert(-1, ("weights", f"exponential moving average, decay {given['ema_decay']:g}"))
    return "## Training\n\n" + _table(["", ""], rows)


def _metrics(run: Contents, evaluations: Mapping[str, Any], facts: Facts) -> list[str]:
    """What was measured of this generator, while it was trained and by ``evaluate``."""
    parts, step = [], facts.step
    if rows := figure_rows(run):
        head = ["distance of test scenes to the truth", "untouched", "colour transfer", "translated"]
        parts.append(_table(head, [(title, *cells) for title, cells in rows]))
    of_sets = [
        (f"{figure.title}{BETTER[figure.higher_is_better]}", number(run.figures[name][-1][1]))
        for name, figure in FIGURES.items()
        if name in run.figures
    ]
    if of_sets:
        parts.append(_table(["translations as a set", ""], of_sets))
    if rows_of_styles := style_rows(run):
        parts.append(_table(["what references and random styles change", ""], rows_of_styles))
    for content in evaluations.values():
        titles, rows, _ = evaluation_rows(content)
        if titles:
            title = f"`cgcl_fast.evaluate`, {_judged(content, run, facts)[1]}"
            parts.append(_table([title, *titles], [(of, *cells) for of, cells in rows]))
    return [f"## Metrics at step {step:,}", *parts] if parts and step is not None else []


def _results(run: Contents | None, evaluations: Mapping[str, Any], facts: Facts) -> list[Any]:
    """The same for the Hub's own tables: of each figure one number, of each data set."""
    if run is None:
        return []
    from huggingface_hub import EvalResult

    found = {name: run.figures[f"{name}/{AFTER}"][-1][1] for name in DISTANCES if f"{name}/{AFTER}" in run.figures}
    found |= {name: run.figures[name][-1][1] for name in FIGURES if name in run.figures}
    own = ("streets" if _of_streets(run) else "folder", _data(run, facts))
    of_data = {own: found}
    for content in evaluations.values():
        results = [_mapping(each).get("figures") for each in content.get("results", [])]
        mean = content.get("mean") or (results[0] if len(results) == 1 else None)
        of_this = of_data.setdefault(_judged(content, run, facts), {})
        of_this |= {name: value for name, value in _mapping(mean).items() if name in FIGURES}
    titles = {name: distance.title for name, distance in DISTANCES.items()}
    titles |= {name: figure.title for name, figure in FIGURES.items()}
    return [
        EvalResult(
            task_type="image-to-image", dataset_type=kind, dataset_name=words,
            dataset_config=None if (kind, words) == own else words,  # folders without it would be taken for one
            metric_type=name, metric_name=titles[name], metric_value=value,
        )
        for (kind, words), figures in of_data.items()
        for name, value in figures.items()
    ]  # fmt: skip


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(printable(cell).replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), f"|{' --- |' * len(head)}", *(line(row) for row in rows)])
