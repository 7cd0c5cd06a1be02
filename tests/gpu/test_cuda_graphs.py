"""Steps replayed as CUDA graphs equal steps without, for every method; steps that cannot be captured are not."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("accelerate")  # an image with PyTorch and little else
pytest.importorskip("tensorboard")
pytest.importorskip("torchvision")

from cgcl_fast.engine import CaptureError, Trainer
from cgcl_fast.nn import pad

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "engine"), str(HERE.parent / "methods")]

from engine_checks import assert_same, last_state  # noqa: E402
from graph_cases import CASES, KEYS  # noqa: E402
from graph_runs import everything, train, trainer_of  # noqa: E402

FEW = (
    "cut", "cut, all negatives, attention, dropout", "fastcut", "sincut", "enco", "enco, cosine, two projectors",
    "mguit", "mguit, published update, triplet", "cgl", "cgcl", "cyclegan",
)  # fmt: skip
"""Every method, and the options that run other operations."""


PAD, INTERPOLATE = F.pad, F.interpolate


def padded(x: Tensor, sizes: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """``F.pad`` of parts, whose gradient adds in a fixed order; PyTorch's adds with atomics."""
    if mode not in ("reflect", "replicate"):
        return PAD(x, sizes, mode, value)
    for dim, low, high in ((3, *sizes[:2]), (2, *sizes[2:])):
        n = x.shape[dim]
        if mode == "reflect":
            before, after = x.narrow(dim, 1, low).flip(dim), x.narrow(dim, n - 1 - high, high).flip(dim)
        else:
            before, after = (x.narrow(dim, at, 1).repeat_interleave(k, dim) for at, k in ((0, low), (n - 1, high)))
        x = torch.cat([before, x, after], dim)
    return x


def interpolated(x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **more: Any) -> Tensor:
    """``F.interpolate`` by products with what it makes of unit vectors, for the same reason."""
    if mode != "bilinear":
        return INTERPOLATE(x, size, scale_factor, mode, **more)
    height, width = size or (scale_factor * side for side in x.shape[2:])
    rows, columns = (
        INTERPOLATE(torch.eye(n, device=x.device)[None, None], (n, to), mode=mode, align_corners=False)[0, 0].to(x)
        for n, to in ((x.shape[2], height), (x.shape[3], width))
    )
    return rows.T @ x @ columns


class Pad:
    @staticmethod
    def apply(x: Tensor, size: int) -> Tensor:
        return padded(x, [size] * 4, "reflect")


@pytest.fixture
def same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits each time, as far as PyTorch can."""
    monkeypatch.setattr(F, "pad", padded)
    monkeypatch.setattr(F, "interpolate", interpolated)
    monkeypatch.setattr(pad, "_ReflectPad", Pad)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def run(case: str, folder: Path, **options: Any) -> tuple[Trainer, list[dict[str, float]]]:
    trainer = trainer_of(case, folder, device="cuda", **options)
    try:
        return trainer, train(trainer)
    except CaptureError as error:  # with all that led to it
        pytest.fail("".join(traceback.format_exception(error)))


def assert_as_eager(case: str, folder: Path, found: Any, expected: Any, **options: Any) -> None:
    """The same bits, if without graphs they are the same each time; close, if they are not."""
    try:
        assert_same(found, expected)
    except AssertionError as difference:
        trainer, losses = run(case, folder, **options)
        try:
            assert_same([losses, everything(trainer)], expected)
        except AssertionError:
            warnings.warn(f"{case}: without graphs, two runs differ; compared with tolerance", stacklevel=1)
            for ours, theirs in zip(found[0], expected[0], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
        else:
            raise difference


@pytest.mark.parametrize("case", FEW)
def test_twenty_steps_are_those_without_graphs(case: str, tmp_path: Path, same_bits: None) -> None:
    graphed, losses = run(case, tmp_path, graphs="on")
    eager, expected = run(case, tmp_path)
    assert graphed.graphs is not None and graphed.graphs.recorded == KEYS.get(case, 1)
    assert_as_eager(case, tmp_path, [losses, everything(graphed)], [expected, everything(eager)])


@pytest.mark.parametrize(
    "options", [{"accumulate": 2}, {"precision": "bf16"}, {"sizes": (32, 48)}, {"ema_decay": 0.9}], ids=str
)
def test_parts_precision_and_sizes(options: dict[str, Any], tmp_path: Path, same_bits: None) -> None:
    graphed, losses = run("cut", tmp_path, graphs="on", **options)
    eager, expected = run("cut", tmp_path, **options)
    assert graphed.graphs is not None and graphed.graphs.recorded == len(options.get("sizes", "1"))
    assert_as_eager("cut", tmp_path, [losses, everything(graphed)], [expected, everything(eager)], **options)


@pytest.mark.parametrize("case", ["cut", "sincut", "mguit", "cgcl", "cyclegan"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_methods_are_captured_as_they_are(
    case: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the operations and algorithms of a training, whose bits differ from run to run."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    trainer = trainer_of(case, tmp_path, device="cuda", graphs="on", precision=precision)
    try:
        losses = train(trainer, 6)
    except CaptureError as error:
        pytest.fail("".join(traceback.format_exception(error)))
    assert trainer.graphs is not None and trainer.graphs.recorded == 1
    assert all(torch.tensor(list(found.values())).isfinite().all() for found in losses)


@pytest.mark.parametrize("case", ["cyclegan", "cut, all negatives, attention, dropout"])
@pytest.mark.parametrize("first", ["on", "off"])
def test_a_checkpoint_goes_on_with_graphs_and_without(case: str, first: str, tmp_path: Path, same_bits: None) -> None:
    second = "off" if first == "on" else "on"
    trainer_of(case, tmp_path / "parts", 10, device="cuda", graphs=first).fit()
    trainer_of(case, tmp_path / "parts", 20, device="cuda", graphs=second).fit(resume=True)
    trainer_of(case, tmp_path / "whole", 20, device="cuda").fit()
    found, expected = last_state(tmp_path / "parts"), last_state(tmp_path / "whole")
    try:
        assert_same(found, expected)
    except AssertionError:
        trainer_of(case, tmp_path / "again", 20, device="cuda").fit()
        try:
            assert_same(last_state(tmp_path / "again"), expected)
        except AssertionError:
            for name, value in expected["method"].items():
                if isinstance(value, Tensor):
                    torch.testing.assert_close(found["method"][name], value, rtol=1e-2, atol=1e-3)
        else:
            raise


def read(x: Tensor) -> None:
    x.sum().item()


def draw_and_read(x: Tensor) -> None:
    torch.rand_like(x).sum().item()


def use_up(x: Tensor) -> None:
    if torch.cuda.is_current_stream_capturing():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")


@pytest.mark.parametrize("plant", [read, draw_and_read, use_up])
def test_a_step_that_cannot_be_captured_is_run_without(
    plant: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_bits: None
) -> None:
    """As if there had been no attempt: no step is lost or done twice, and the generators go on."""

    def planted(graphs: str) -> Trainer:
        trainer = trainer_of("cut, all negatives, attention, dropout", tmp_path, device="cuda", graphs=graphs)
        contrast = trainer.method.contrast

        def with_plant(shared: dict[str, Any], n: int) -> Tensor:
            plant(shared["output"])
            return contrast(shared, n)

        monkeypatch.setattr(trainer.method, "contrast", with_plant)
        return trainer

    trainer = planted("auto")
    with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph") as caught:
        losses = train(trainer)
    said = [str(warning.message) for warning in caught if "captured" in str(warning.message)]
    print(said)
    assert len(said) == 1 and "CUDA" in said[0] and trainer.graphs is not None and trainer.graphs.recorded == 0
    rng = torch.cuda.get_rng_state()
    expected = train(planted("off"))
    assert torch.equal(torch.cuda.get_rng_state(), rng)
    for ours, theirs in zip(losses, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    with pytest.raises(CaptureError, match="--graphs auto or off goes on without"):
        train(planted("on"))
    torch.rand(3, device="cuda")  # the generator is not left in the capture
    assert trainer_of("cut", tmp_path, device="cuda", graphs="on").graphs is not None


def test_graphs_after_a_failed_capture(tmp_path: Path) -> None:
    """Another trainer of the same process can capture."""
    trainer = trainer_of("fastcut", tmp_path, device="cuda", graphs="on")
    train(trainer, 20)
    assert trainer.graphs is not None and trainer.graphs.recorded == 2


def test_cases_are_named_as_they_are() -> None:
    assert set(FEW) <= set(CASES)
