"""Exported generators against eager: in each format, of other batches and sizes than those that were traced."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cgcl_fast import exporting, ops
from cgcl_fast.exporting import FORMATS, ExportError, export_generator, interface_of
from cgcl_fast.networks import (
    DisentangledGenerator,
    MGUITGenerator,
    ResnetGenerator,
    StyleGAN2Generator,
    UnetGenerator,
)

DOMAINS = ("sunny", "night", "cloudy", "rainy")

GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "cut": lambda: ResnetGenerator(ngf=4, n_blocks=1),
    "cyclegan": lambda: ResnetGenerator(2, 4, ngf=4, n_blocks=1, antialias=False),
    "unet": lambda: UnetGenerator(ngf=2, n_down=5),
    "sincut": lambda: StyleGAN2Generator(ngf=1, n_blocks=1),
    "cgcl": lambda: DisentangledGenerator(DOMAINS, ngf=4, n_blocks=1, mlp_dim=8),
    "mguit": lambda: MGUITGenerator(ngf=4, n_blocks=1, style_nc=8, items=(2, 3), temperature=0.1),
}

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra export",
)

ONNX = pytest.param("onnx", marks=needs_onnx)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return GENERATORS[name]().eval()


CASES = [
    *(pytest.param(name, "torchscript") for name in GENERATORS),
    *(pytest.param(name, "torch-export") for name in ("unet", "sincut")),
    *(pytest.param(name, "onnx", marks=needs_onnx) for name in ("cyclegan", "cgcl", "mguit")),
    pytest.param("cgcl", "torch-export"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_file_gives_what_eager_gives(name: str, kind: str, tmp_path: Path) -> None:
    generator = made(name)
    file = tmp_path / f"generator{FORMATS[kind].suffix}"
    found = export_generator(generator, kind, file)
    assert len({each.shape[2:] for each in found}) == 3 and {each.shape[0] for each in found} == {1, 2, 3}
    assert exporting.largest_difference(found) < 1e-4

    # Once more by hand: what comes back is no constant, and comes from the file.
    interface = interface_of(generator)
    exported = FORMATS[kind].load(file)
    with torch.no_grad():
        for seed in (11, 12):
            inputs = interface.example(2, 2, 3, domain=seed % max(1, len(interface.domains)), seed=seed)
            expected = interface.eager(*inputs)
            assert expected.std() > 0.01, "a flat image would prove nothing"
            torch.testing.assert_close(exported(*inputs), expected, atol=1e-4, rtol=0)


def test_a_unet_takes_images_of_its_least_size(tmp_path: Path) -> None:
    file = tmp_path / "generator.pt2"
    generator = UnetGenerator(ngf=2, n_down=5).eval()
    export_generator(generator, "torch-export", file)
    exported = FORMATS["torch-export"].load(file)
    for batch, height, width in ((1, 32, 32), (2, 32, 96), (1, 64, 32)):
        x = torch.rand(batch, 3, height, width) * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(exported(x), generator(x), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.compile
def test_a_compiled_package_gives_what_eager_gives(tmp_path: Path) -> None:
    file = tmp_path / "generator.pt2"
    generator = ResnetGenerator(ngf=2, n_blocks=1, n_down=1)
    assert exporting.largest_difference(export_generator(generator, "aoti", file)) < 1e-4
    assert json.loads(FORMATS["aoti"].describe(file))["network"] == "ResnetGenerator"


@pytest.mark.parametrize("kind", ["torchscript", "torch-export", ONNX])
def test_a_file_says_what_it_takes(kind: str, tmp_path: Path) -> None:
    generator = made("cgcl")
    generator.ranges = {"sunny": {"type": "uint8"}}
    file = tmp_path / f"generator{FORMATS[kind].suffix}"
    export_generator(generator, kind, file)
    described = json.loads(FORMATS[kind].describe(file))
    assert [each["name"] for each in described["inputs"]] == ["image", "domain", "style"]
    assert described["inputs"][2]["shape"] == ["B", 8] and described["domains"] == list(DOMAINS)
    assert described["ranges"] == {"sunny": {"type": "uint8"}} and described["multiple"] == 4
    style = torch.tensor(described["default_styles"][2])[None]
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        found = FORMATS[kind].load(file)(x, torch.tensor(2), style)
        torch.testing.assert_close(found, generator(x, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["cgcl", "mguit"])
def test_torchscript_tells_the_default_style(name: str, tmp_path: Path) -> None:
    generator = made(name)
    file = tmp_path / "generator.pt"
    export_generator(generator, "torchscript", file)
    loaded = torch.jit.load(str(file))
    assert loaded.multiple == 4
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        for domain in range(len(generator.domains)):
            style = loaded.default_style(torch.tensor(domain))
            torch.testing.assert_close(loaded(x, torch.tensor(domain), style), generator(x, domain), atol=1e-5, rtol=0)


def test_a_domain_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "generator.pt"
    export_generator(made("cgcl"), "torchscript", file)
    image, _, style = interface_of(made("cgcl")).example(1, 2, 2)
    with pytest.raises((IndexError, RuntimeError), match="out of range"), torch.no_grad():
        FORMATS["torchscript"].load(file)(image, torch.tensor(4), style)


@pytest.mark.parametrize("name", ["cut", "cgcl", "mguit"])
def test_the_generator_stays_as_it_is(name: str, tmp_path: Path) -> None:
    generator = made(name).train().double()
    names = list(generator.state_dict())
    trained = [weight.requires_grad for weight in generator.parameters()]
    export_generator(generator, "torchscript", tmp_path / "generator.pt")
    assert all(module.training for module in generator.modules())
    assert all(weight.dtype == torch.float64 for weight in generator.parameters())
    assert [weight.requires_grad for weight in generator.parameters()] == trained
    assert list(generator.state_dict()) == names


class Broken(nn.Module):
    """A generator that is not the same where it is traced."""

    config = {"input_nc": 3}

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.01 if torch.jit.is_tracing() else x


class Stuck(Broken):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("cannot be\ntraced")
        return x


class Unfinite(Broken):
    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan") if torch.jit.is_tracing() else x


@pytest.mark.parametrize(
    ("generator", "complaint"),
    [
        (Broken(), r"differs from eager by 1.0e-02, more than 1e-03"),
        (Unfinite(), "differs from eager by nan"),
        (Stuck(), r"cannot be exported as torchscript \(.*cannot be traced"),
    ],
)
def test_a_file_that_is_not_the_generator_does_not_stay(generator: nn.Module, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "generator.pt"
    file.write_text("from before")
    with pytest.raises(ExportError, match=complaint) as caught:
        export_generator(generator, "torchscript", file)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["generator.pt"] and file.read_text() == "from before"


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind: expected one of torchscript, torch-export, aoti, onnx, got 'caffe'"):
        export_generator(made("cut"), "caffe", tmp_path / "generator")


def test_another_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="generator: expected one of this package, got Conv2d"):
        export_generator(nn.Conv2d(3, 3, 1), "torchscript", tmp_path / "generator.pt")
    assert not list(tmp_path.iterdir())


class Ops(nn.Module):
    """All that the operators of generators can be asked for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, keys: Tensor, classes: Tensor) -> Tensor:
        if self.name == "norm":
            y = ops.instance_norm(x, eps=1e-3, activation="leaky_relu", residual=x, pad=2)
            return y + ops.instance_norm(x, pad=2, pad_mode="replicate")
        if self.name == "adain":
            return ops.adain(x, scale, shift, activation="relu", residual=x, pad=1, pad_mode="replicate")
        if self.name == "memory":
            return ops.memory_read(x, keys, scale[:1].repeat(5, 1) * keys, temperature=0.2)
        item = torch.tensor([0, 0, 1, 1, 3])
        return ops.memory_read(x, keys, keys, pixel_class=classes, item_class=item)


def run_by_onnx(module: nn.Module, inputs: dict[str, Tensor], file: Path) -> list[Tensor]:
    """What onnxruntime makes of a module that is exported with the package's table of operators."""
    import onnxruntime

    from cgcl_fast.exporting.onnx_operators import translation_table

    table = translation_table()
    program = torch.onnx.export(
        module, tuple(inputs.values()), dynamo=True, verbose=False, opset_version=18, custom_translation_table=table
    )
    program.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})
    return [torch.from_numpy(each) for each in found]


@needs_onnx
@pytest.mark.parametrize("name", ["norm", "adain", "memory", "memory of classes"])
def test_operators_in_onnx(name: str, tmp_path: Path) -> None:
    B, C, H, W = 2, 4, 6, 5
    inputs = {
        "x": torch.randn(B, C, H, W),
        "scale": torch.randn(B, C),
        "shift": torch.randn(B, C),
        "keys": torch.randn(5, C).index_fill(0, torch.tensor(1), 0),  # the cosine with a vector of zeros is 0
        "classes": torch.randint(3, (B, H, W)),  # of which 2 has no item
    }
    (found,) = run_by_onnx(Ops(name), inputs, tmp_path / "op.onnx")
    torch.testing.assert_close(found, Ops(name)(*inputs.values()), atol=2e-5, rtol=2e-5)


@needs_onnx
@pytest.mark.parametrize("size", [(6, 5), (2, 3), (7, 2)])
def test_blurs_in_onnx(size: tuple[int, int], tmp_path: Path) -> None:
    class Blurs(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return ops.blur_down(x), ops.blur_up(x)

    x = torch.randn(2, 3, *size)
    for found, expected in zip(run_by_onnx(Blurs(), {"x": x}, tmp_path / "op.onnx"), Blurs()(x), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)
