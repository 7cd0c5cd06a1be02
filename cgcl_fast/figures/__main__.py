"""``python -m cgcl_fast.figures RUN [RUN...]``: draw what a run has learned, and the curves of one or more runs.

All figures that fit the method of the first RUN are written to its folder figures/, or to --output. Exit status: 0 if
all were drawn, 1 if one could not be written, 2 for wrong options or data, or a missing package.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

from cgcl_fast._command import Parser, UsageError, as_usage_error, bracketed, run, underscored
from cgcl_fast._extras import require
from cgcl_fast._run import open_run
from cgcl_fast.data.formats import printable
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.figures.catalogue import FIGURES, Subject
from cgcl_fast.figures.features import DoesNotFitError
from cgcl_fast.methods.options import Count, Share, Within, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class FiguresOptions:
    """Figures.

    Attributes:
        output: Folder for the figures; figures/ in the first run if not given. Files of the same names are replaced.
        figures: Which ones, of curves, similarity, components, attention, style_codes, memory, grad_cam, styles,
            interpolation and instances; all that fit if not given.
        data: Folder of data in the place of the run's own, or of the built-in streets, with which it was trained.
        images: Test images that are shown, where a figure shows several.
        codes: Images of each domain whose style codes are laid out by t-SNE; of MGUIT six times as many pixels.
        point: X Y of the query of the similarity, as fractions of width and height; two queries if not given.
        seed: Of styles and layouts.
        format: png, pdf or svg.
        dpi: Dots per inch of a png.
    """

    output: Path | None = None
    figures: tuple[str, ...] = ()
    data: Path | None = None
    images: Annotated[int, Within(1, 64)] = 4
    codes: Count = 100
    point: tuple[Share, Share] | None = None
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    format: Literal["png", "pdf", "svg"] = "png"
    dpi: Annotated[int, Within(20, 1200)] = 130

    def __post_init__(self) -> None:
        check(self)
        for name in self.figures:
            if name not in FIGURES:
                raise ValueError(f"figures: expected some of {', '.join(FIGURES)}, got {name!r}")


def command(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.figures", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a run; more for their curves.")
    parser.add_class_arguments(FiguresOptions, None)
    parsed = parser.parse_args(bracketed(underscored(_joined(arguments)), {"figures"})).as_dict()
    runs = parsed.pop("runs")
    with as_usage_error():
        options = FiguresOptions(**parsed)
        for other in runs[1:]:
            if not (other / "log.jsonl").exists():
                raise UsageError(f"RUN: {printable(other)} holds no run (no log.jsonl)")
        first = open_run(runs[0])
        subject = Subject(first, runs[1:], options.data, options.images, options.codes, seed=options.seed)
        if options.point is not None:
            subject.points = [options.point]
        output = options.output or first.folder / "figures"
        output.mkdir(parents=True, exist_ok=True)
    require("matplotlib", "figures")
    return _draw(subject, options, output)


def _draw(subject: Subject, options: FiguresOptions, output: Path) -> int:
    reasons: dict[str, list[str]] = {}
    for name in options.figures or FIGURES:
        with as_usage_error():
            try:
                for file, figure in FIGURES[name](subject):
                    path = output / f"{file}.{options.format}"
                    content = _bytes_of(figure, options)
                    write_atomically(path, partial(_write, content=content))
                    print(printable(path), flush=True)
            except DoesNotFitError as error:
                reasons.setdefault(str(error), []).append(name)
    if reasons:
        lacks = "; ".join(f"{', '.join(names)} (no {reason})" for reason, names in reasons.items())
        lacks = lacks.replace("(no a ", "(no ").replace("(no an ", "(no ")
        print(f"not of this {subject.run.kind}: {lacks}", file=sys.stderr)
        if options.figures and sum(map(len, reasons.values())) == len(options.figures):
            return 2
    return 0


def _bytes_of(figure: Figure, options: FiguresOptions) -> bytes:
    """The file of a figure, in memory: matplotlib only accepts the system's or Python's own files."""
    content = io.BytesIO()
    figure.savefig(content, format=options.format, dpi=options.dpi)
    return content.getvalue()


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join ``--point X Y`` to one value."""
    joined = list(arguments)
    for at, argument in enumerate(joined):
        if argument == "--point" and len(joined) > at + 2 and not joined[at + 1].startswith("["):
            joined[at : at + 3] = [f"--point=[{joined[at + 1]},{joined[at + 2]}]"]
    return joined


def main(arguments: Sequence[str] | None = None) -> int:
    return run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
