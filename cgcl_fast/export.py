"""``python -m cgcl_fast.export --checkpoint RUN_OR_FILE --format FORMAT --output FILE``: for other programs.

The formats are torchscript (for C++ programs with libcgcl_fast.so too), torch-export (for ``torch.export.load``), aoti
(compiled by AOTInductor, for ``torch._inductor.aoti_load_package``) and onnx (for onnxruntime and others; of standard
operators alone). The file takes images of any batch and size, and of MGUIT, CGL and CGCL the domain and the style too;
it says so itself, as JSON. It is compared with the generator on three sizes before it gets its name. Exit status: 0
when it was written, 1 when it could not be or differs, 2 for wrong options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast._files import check_regular
from cgcl_fast._generator import find_generator
from cgcl_fast.data.formats import printable
from cgcl_fast.exporting import export_generator, largest_difference


@dataclass
class ExportOptions:
    """Export.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, a published latest_net_G.pth, or a
            folder of cgcl_fast.hub or its name on the Hugging Face Hub.
        format: torchscript, torch-export, aoti or onnx; the last needs the extra "export".
        output: The file to write.
        direction: AtoB or BtoA, for a method with a generator of each way (cyclegan); if not given, that of the
            training. Generators with named domains take the domain as an input instead.
    """

    checkpoint: Path
    format: Literal["torchscript", "torch-export", "aoti", "onnx"]
    output: Path
    direction: Literal["AtoB", "BtoA"] | None = None


def export(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.export", description=__doc__)
    parser.add_class_arguments(ExportOptions, None)
    parser.add_argument("--overwrite", action="store_true", help="Replace the file if it is there already.")
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    overwrite = parsed.pop("overwrite")
    with as_usage_error():
        options = ExportOptions(**parsed)
        output = printable(options.output)
        if options.output.is_dir():
            raise UsageError(f"--output: {output} is a folder; name a file in it")
        if options.output.exists() and not overwrite:
            raise UsageError(f"--output: {output} would be overwritten (--overwrite allows it)")
        check_regular(options.output, missing_ok=True)
        generator, file = find_generator(options.checkpoint, options.direction)
        if options.output.exists() and options.output.samefile(file):
            raise UsageError(f"--output: {output} is the checkpoint itself; name another file")
        options.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    found = export_generator(generator, options.format, options.output)
    for each in found:
        batch, _, height, width = each.shape
        to = f" to {each.domain}" if each.domain else ""
        print(f"{batch} x {width}x{height}{to}: largest difference from eager {each.largest:.1e}")
    size = options.output.stat().st_size / 1e6
    print(
        f"{output}: {options.format} of {printable(file)}, {size:.1f} MB, largest difference "
        f"{largest_difference(found):.1e}"
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run(export, arguments)


if __name__ == "__main__":
    sys.exit(main())
