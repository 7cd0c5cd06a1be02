"""Writing and reading the files: TorchScript, ``torch.export``, AOTInductor, ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgcl_fast._extras import require
from cgcl_fast.exporting.checking import TRACED
from cgcl_fast.exporting.interface import METADATA, Interface, StyledExport

OPSET = 18
"""The version of ONNX's operators: the first with all that is needed, so that old runtimes read the file."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of the names of such files.
        write: writes an interface to a path.
        load: reads a path; the result takes and gives the interface's tensors.
        describe: reads the metadata of a path, JSON.
        packages: modules of the extra ``export`` that are needed.
    """

    suffix: str
    write: Callable[[Interface, Path], None]
    load: Callable[[Path], Callable[..., Tensor]]
    describe: Callable[[Path], str]
    packages: tuple[str, ...] = ()


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of what is so on purpose: sides that are compared while tracing, TorchScript's age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def write_torchscript(interface: Interface, path: Path) -> None:
    """Traced, so that it calls the operators that C++ programs know without Python. What ``forward`` takes is in the
    metadata; ``multiple`` is a buffer, and of a generator with styles ``default_style(domain)`` a method."""
    example = interface.example(*TRACED)
    inputs = {"forward": example}
    if isinstance(interface.module, StyledExport):
        inputs["default_style"] = (example[1],)
    with _quiet():
        traced = torch.jit.trace_module(interface.module, inputs, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={METADATA: interface.metadata})


def load_torchscript(path: Path) -> Callable[..., Tensor]:
    with _quiet():
        return torch.jit.load(str(path))


def describe_torchscript(path: Path) -> str:
    files = {METADATA: ""}
    with _quiet():
        torch.jit.load(str(path), _extra_files=files)
    return _text(files[METADATA])


@torch.no_grad()
def exported_program(interface: Interface) -> torch.export.ExportedProgram:
    # The innermost map of a U-Net may be one pixel wide or high. Without this setting the program would refuse such
    # images: the exporter assumes that a side which is not one where it traces never is.
    setting = {"backed_size_oblivious": interface.least == interface.multiple}
    with _quiet(), torch.fx.experimental._config.patch(setting):  # type: ignore[attr-defined]
        return torch.export.export(
            interface.module, interface.example(*TRACED), dynamic_shapes=interface.dynamic_shapes(), strict=False
        )


def write_program(interface: Interface, path: Path) -> None:
    torch.export.save(exported_program(interface), str(path), extra_files={METADATA: interface.metadata})


def load_program(path: Path) -> Callable[..., Tensor]:
    return torch.export.load(str(path)).module()


def describe_program(path: Path) -> str:
    files = {METADATA: ""}
    torch.export.load(str(path), extra_files=files)
    return _text(files[METADATA])


def write_package(interface: Interface, path: Path) -> None:
    """Compiled for this kind of processor; needs a C++ compiler."""
    options = {"aot_inductor.metadata": {METADATA: interface.metadata}}
    with _quiet():
        torch._inductor.aoti_compile_and_package(
            exported_program(interface), package_path=str(path), inductor_configs=options
        )


def load_package(path: Path) -> Callable[..., Tensor]:
    return torch._inductor.aoti_load_package(str(path))


def describe_package(path: Path) -> str:
    return torch._inductor.aoti_load_package(str(path)).get_metadata()[METADATA]


def write_onnx(interface: Interface, path: Path) -> None:
    require("onnxscript", "export")
    from cgcl_fast.exporting.onnx_operators import translation_table

    with _quiet():
        program = torch.onnx.export(
            exported_program(interface),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=interface.inputs,
            output_names=["translation"],
            custom_translation_table=translation_table(),
        )
        assert program is not None
        program.model.metadata_props[METADATA] = interface.metadata
        program.save(str(path), external_data=False)


def load_onnx(path: Path) -> Callable[..., Tensor]:
    session = require("onnxruntime", "export").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*tensors: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def describe_onnx(path: Path) -> str:
    session = require("onnxruntime", "export").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map[METADATA]


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content


FORMATS = {
    "torchscript": Format(".pt", write_torchscript, load_torchscript, describe_torchscript),
    "torch-export": Format(".pt2", write_program, load_program, describe_program),
    "aoti": Format(".pt2", write_package, load_package, describe_package),
    "onnx": Format(".onnx", write_onnx, load_onnx, describe_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
