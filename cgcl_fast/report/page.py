"""The page: groups of charts, tables and pictures, filled into ``page.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from cgcl_fast import __version__
from cgcl_fast.metrics import DISTANCES
from cgcl_fast.metrics.comparison import FIGURES
from cgcl_fast.metrics.evaluation import AFTER, BEFORE, TRANSFER
from cgcl_fast.metrics.style import ROWS
from cgcl_fast.report.charts import Line, chart, number
from cgcl_fast.report.contents import Contents
from cgcl_fast.report.pictures import Scene, in_url

TITLES = {"cut": "CUT", "fastcut": "FastCUT", "sincut": "SinCUT", "enco": "EnCo", "mguit": "MGUIT", "cgl": "CGL"}
TITLES |= {"cgcl": "CGCL", "cyclegan": "CycleGAN"}

CLOSER = {True: " (higher is closer)", False: " (lower is closer)"}
BETTER = {True: " (higher is better)", False: " (lower is better)", None: ""}

DRAWN_HERE = ("losses", "metrics")
"""Pictures of ``cgcl_fast.figures`` whose content the page's charts already show."""


def page(contents: Contents, scenes: Sequence[Scene] = (), missing: str = "") -> str:
    """The whole report as HTML, which needs no other file.

    Args:
        contents: of the run.
        scenes: its translations of test images.
        missing: if there are none, why.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=f"{TITLES[contents.method]}, {contents.folder.resolve().name}",
        method=TITLES[contents.method],
        version=__version__,
        run=contents,
        facts=facts(contents),
        scenes=scenes,
        missing=missing,
        groups=groups(contents),
        figures=figure_rows(contents),
        styles=style_rows(contents),
        evaluations=[(name, *evaluation_rows(content)) for name, content in contents.evaluations.items()],
        grid=None if contents.grid is None else (contents.grid.name, url(contents.grid)),
        pictures=[
            (path.stem.replace("_", " "), url(path)) for path in contents.pictures if path.stem not in DRAWN_HERE
        ],
        environment=list(flat(contents.environment)),
        shown=shown,
    )


def facts(contents: Contents) -> list[tuple[str, str]]:
    """The facts that a reader looks for first."""
    given = {option.name: option.value for option in contents.options}
    speed = [value for _, value in contents.log.get("images_per_second", [])]
    memory = [value for _, value in contents.log.get("memory_mb", [])]
    rows = [
        ("steps", f"{contents.step:,}"),
        ("data", Path(given["data"]).name if given.get("data") else "built-in streets"),
        ("size", f"{given.get('size')} px"),
        ("batch", shown(given.get("batch_size"))),
    ]
    if speed:
        rows.append(("images a second, median", number(sorted(speed)[len(speed) // 2])))
    if memory:
        rows.append(("memory, most", f"{number(max(memory))} MB"))
    for name, distance in DISTANCES.items():
        if points := contents.figures.get(f"{name}/{AFTER}"):
            rows.append((f"{distance.title}, last", f"{points[-1][1]:.{distance.digits}f}"))
    return rows


def groups(contents: Contents) -> list[tuple[str, list[tuple[str, Any, str]]]]:
    """Charts by subject: each with title, chart and last value; metrics before losses."""
    truth = []
    for name, distance in DISTANCES.items():
        lines = [
            Line(what.replace("_", " "), contents.figures[f"{name}/{what}"], kind)
            for what, kind in ((AFTER, "main"), (BEFORE, "beside"), (TRANSFER, "other"))
            if f"{name}/{what}" in contents.figures
        ]
        if lines:
            truth.append((f"{distance.title}{CLOSER[distance.higher_is_better]}", lines))
    of_sets = [
        (f"{figure.title}{BETTER[figure.higher_is_better]}", [Line(name, contents.figures[name])])
        for name, figure in FIGURES.items()
        if name in contents.figures
    ]
    groups = [("Distance to the truth", truth), ("Translations as a set", of_sets)]
    named: dict[str, list[tuple[str, list[Line]]]] = {}
    for name, points in contents.log.items():
        subject, _, what = name.rpartition("/")
        title = {"lr": "Learning rate", "": "Speed and memory"}.get(subject, f"Losses of the {subject}")
        named.setdefault(title, []).append((what.replace("_", " "), [Line(what, points)]))
    last = ("Learning rate", "Speed and memory")
    groups += [(title, lines) for title, lines in named.items() if title not in last]
    groups += [(title, named[title]) for title in last if title in named]
    drawn = [
        (title, [(name, chart(name, lines), number(lines[0].points[-1][1])) for name, lines in members])
        for title, members in groups
    ]
    return [(title, members) for title, members in drawn if members]


def figure_rows(contents: Contents) -> list[tuple[str, list[str]]]:
    """The last distances to the truth: untouched, recoloured and translated."""
    rows = []
    for name, distance in DISTANCES.items():
        points = [contents.figures.get(f"{name}/{what}") for what in (BEFORE, TRANSFER, AFTER)]
        if any(points):
            cells = [f"{found[-1][1]:.{distance.digits}f}" if found else "–" for found in points]
            rows.append((f"{distance.title}{CLOSER[distance.higher_is_better]}", cells))
    return rows


def style_rows(contents: Contents) -> list[tuple[str, str]]:
    """The effects of references and random styles, if they were measured."""
    return [
        (title.strip(), form.format(contents.figures[f"style/{name}"][-1][1]))
        for name, title, form in ROWS
        if f"style/{name}" in contents.figures
    ]


def evaluation_rows(content: Any) -> tuple[list[str], list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """From a file of ``evaluate``: names of the metrics of sets, their values for each result, and everything else."""
    results = content.get("results", []) if isinstance(content, Mapping) else []
    known = [each for each in results if isinstance(each, Mapping) and isinstance(each.get("figures"), Mapping)]
    sets = [(str(each.get("of", "")), each["figures"]) for each in known]
    for each, (of, _) in zip(known, list(sets), strict=True):
        if isinstance(each.get("untouched"), Mapping):
            sets.insert([name for name, _ in sets].index(of) + 1, ("untouched", each["untouched"]))
    if sets and isinstance(content.get("mean"), Mapping):
        sets.append(("mean", content["mean"]))
    columns = [name for name in FIGURES if any(name in figures for _, figures in sets)]
    rows = [(of, [shown(figures.get(name)) for name in columns]) for of, figures in sets]
    rest = {name: value for name, value in content.items() if name != "results"} if known else content
    return [FIGURES[name].title for name in columns], rows, flat(rest)


def flat(content: Any, name: str = "") -> list[tuple[str, str]]:
    """JSON as rows: nested names are joined by dots."""
    if isinstance(content, Mapping):
        return [row for key, value in content.items() for row in flat(value, f"{name}.{key}" if name else str(key))]
    if isinstance(content, (list, tuple)) and any(isinstance(each, Mapping) for each in content):
        named = {str(each.get("of", n) if isinstance(each, Mapping) else n): each for n, each in enumerate(content)}
        return flat(named, name)
    return [(name, shown(content))]


def shown(value: Any) -> str:
    """A value in readable form."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(each) for each in value)
    return str(value)


def url(path: Path) -> str:
    return in_url(path.read_bytes(), "png")
