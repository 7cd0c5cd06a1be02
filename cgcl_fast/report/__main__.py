"""``python -m cgcl_fast.report RUN``: a run as one HTML file, which opens from disk and needs no other file.

It contains the run's options, curves, test images beside their translations to every domain, in the style of a
reference and in random styles, metrics and drawings from the run's folder, messages and environment. Exit status: 0, or
2 if the folder is not a run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgcl_fast._command import Parser, UsageError, as_usage_error, one_line, run, underscored
from cgcl_fast._run import open_run
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import CheckpointError
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods.options import CountOrZero, check
from cgcl_fast.report.contents import read_contents
from cgcl_fast.report.page import page
from cgcl_fast.report.pictures import Scene, translations


@dataclass
class ReportOptions:
    """The report.

    Attributes:
        run: Folder of a run.
        output: The HTML file; report.html in the run's folder if not given.
        images: Test images that are translated; 0 for none.
        styles: Random styles of each domain that they are translated in, for a method with styles.
    """

    run: Path
    output: Path | None = None
    images: CountOrZero = 6
    styles: CountOrZero = 2

    def __post_init__(self) -> None:
        check(self)


def report(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.report", description=__doc__)
    parser.add_argument("run", type=Path, help="Folder of a run.")
    parser.add_class_arguments(ReportOptions, None, skip={"run"})
    options = ReportOptions(**parser.parse_args(underscored(arguments)).as_dict())
    with as_usage_error():
        contents = read_contents(options.run)
        output = options.output or options.run / "report.html"
        if output.is_dir():
            raise UsageError(f"--output: {printable(output)} is a folder")
    scenes, missing = scenes_of(options) if options.images else ([], "--images 0: none were translated.")
    if missing and options.images:
        print(f"without test images: {missing}", file=sys.stderr)
    text = page(contents, scenes, missing)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda file: file.write(text.encode()))
    print(f"report: {printable(output)} ({len(text) / 1e6:.1f} MB)")
    return 0


def scenes_of(options: ReportOptions) -> tuple[list[Scene], str]:
    """Test images of the run with their translations; or none, and why. The rest of the report is useful without."""
    try:
        run = open_run(options.run)
        generator = getattr(run.method, run.method.generator_name)
        return translations(generator, run.test_images().sample_batch(options.images), options.styles), ""
    except (CheckpointError, OSError, ValueError) as error:
        return [], one_line(error)


def main(arguments: Sequence[str] | None = None) -> int:
    return run(report, arguments)


if __name__ == "__main__":
    sys.exit(main())
