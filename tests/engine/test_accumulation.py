"""A step of several parts equals the step of one batch with all their images: weights, queues, pools, memories.

Random draws are the same for every image here, so that they do not depend on the division into parts, and everything is
in float64, so that only rounding differs.

``python test_accumulation.py`` prints the largest difference of every case, with Adam's own ε;
``python test_accumulation.py FILE``, in each of several processes, trains on their share and writes the weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from graph_runs import trainer_of
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cgcl_fast.engine import Trainer, leave_group
from cgcl_fast.methods import METHODS

from graph_cases import CASES, batch_of, method_of  # isort: skip  graph_runs says where it is

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS, STEPS, SIZE = 2, 3, 16

ALL = {"num_patches": 1024, "importance": 1.0}
"""Scores of D differ by nothing but rounding at the borders of a map, and the order that they give by all: positions
are chosen by attention out of as many as there are."""
COMPARABLE: dict[str, dict[str, Any]] = {
    "cut, all negatives, attention, dropout": {"num_patches": 1024},
    "enco": ALL,
    "enco, decoupled, fresh draws": ALL,
}
OF_THE_BATCH: dict[str, dict[str, Any]] = {
    "cut, flips, no adversary": {"negatives": "internal"},
    "sincut": {"lambda_nce": 0.0, "minibatch_stddev": False},
    "sincut, as published": {"lambda_nce": 0.0},
    "enco, cosine, two projectors": {**ALL, "loss": "infonce"},
    "enco, as its later code": {**ALL, "loss": "infonce", "predictor_norm": False},
    "cyclegan, batch norm": {"norm_g": "instance", "norm_d": "instance"},
    "mguit, the authors' terms": {"memory_loss": "contrastive"},
}
"""Cases with terms in which the images of a batch see each other: negatives out of the batch, StyleGAN2's channel of
the spread of a minibatch, BatchNorm, and a softmax over all pixels of the batch. With these options they have none."""


class SameForAllImages(TorchFunctionMode):
    """Draws that depend on the step, and on the shape without its first dimension, which is that of the images."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.rand_like, torch.randn_like):
            draw = torch.rand if func is torch.rand_like else torch.randn
            return self.drawn(draw, args[0].shape, args[0].dtype)
        if func in (torch.rand, torch.randn):
            shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
            return self.drawn(func, shape, kwargs.get("dtype"))
        if func is torch.randint:
            most, shape = args
            return (self.drawn(torch.rand, shape, torch.float64) * most).long()
        if func is torch.randperm:
            return torch.randperm(args[0], generator=self.generator())
        if func is F.dropout:
            return args[0] * (self.drawn(torch.rand, args[0].shape, args[0].dtype) < 0.5) / 0.5
        return func(*args, **kwargs)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.step)

    def drawn(self, draw: Any, shape: Any, dtype: torch.dtype | None) -> Tensor:
        return draw(torch.Size(shape)[1:], dtype=dtype, generator=self.generator()).expand(shape).clone()


def parts_of(case: str, step: int, count: int = PARTS) -> list[dict[str, Any]]:
    """The parts of a step, float64; some of their images have no instance."""
    parts = [batch_of(case, count * step + i, SIZE) for i in range(count)]
    return [
        {name: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in part.items()}
        for part in parts
    ]


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch of all their images."""
    of_all = {name: [part[name] for part in parts] for name in parts[0]}
    return {name: torch.cat(x) if isinstance(x[0], Tensor) else sum(x, []) for name, x in of_all.items()}


def trainer_for(case: str, folder: Path, accumulate: int, epsilon: float | None = 1e-3) -> Trainer:
    """A trainer whose Adam has a larger ε: where a gradient is zero but for rounding, as that of a bias before a norm,
    its own makes steps of the rounding."""
    trainer = trainer_of(case, folder, STEPS, accumulate=accumulate, dtype=torch.float64)
    for running in trainer.phases:
        for group in running.optimizer.param_groups:
            group["eps"] = epsilon or group["eps"]
    return trainer


def trained(trainer: Trainer, parts_of_step: Callable[[int], list[dict[str, Any]]]) -> dict[str, Any]:
    """Losses and state after the steps."""
    losses = []
    for step in range(STEPS):
        parts = parts_of_step(step)
        with SameForAllImages(step):
            losses.append(trainer.train_step(parts))
        trainer.step += 1
    return {"losses": losses, "state": trainer.method.state_dict()}


def whole_and_parts(case: str, folder: Path, epsilon: float | None = 1e-3) -> list[dict[str, Any]]:
    """What steps of one batch leave, and what those of its parts do."""
    return [
        trained(trainer_for(case, folder, 1, epsilon), lambda step: [joined(parts_of(case, step))]),
        trained(trainer_for(case, folder, PARTS, epsilon), lambda step: parts_of(case, step)),
    ]


def with_options(monkeypatch: pytest.MonkeyPatch, case: str, options: dict[str, Any]) -> None:
    name, before = CASES[case]
    monkeypatch.setitem(CASES, case, (name, {**before, **options}))


@pytest.mark.parametrize("case", CASES)
def test_parts_are_the_batch_of_their_images(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_options(monkeypatch, case, (COMPARABLE | OF_THE_BATCH).get(case, {}))
    whole, parts = whole_and_parts(case, tmp_path)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", OF_THE_BATCH)
def test_what_looks_at_the_whole_batch_sees_its_part(case: str, tmp_path: Path) -> None:
    """So the exceptions above are no more than there must be."""
    whole, parts = whole_and_parts(case, tmp_path)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(parts["losses"], whole["losses"], rtol=0, atol=1e-4)


def test_every_method_is_looked_at() -> None:
    assert {name for name, _ in CASES.values()} == set(METHODS)


def test_maps_of_several_sizes_update_the_memory_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of other sizes and numbers of images, as --preprocess scale_shortside may give."""
    method = method_of("mguit")
    sizes, generator = ((2, 3, 4), (1, 5, 2)), torch.Generator().manual_seed(0)
    kept = [
        {
            "contents": [torch.randn(b, 8, h, w, generator=generator) for _ in "AB"],
            "styles": [torch.randn(b, 4, h, w, generator=generator) for _ in "AB"],
            "classes": [torch.randint(4, (b, h, w), generator=generator) for _ in "AB"],
        }
        for b, h, w in sizes
    ]
    update = method.G.memory.update
    seen: list[Any] = []
    monkeypatch.setattr(method.G.memory, "update", lambda *maps: (seen.append(maps), update(*maps)))
    method.update_memory([], kept)
    for found, name in zip(seen[0], ("contents", "styles", "classes"), strict=True):
        for d in range(2):
            images = [image for part in kept for image in part[name][d]]
            assert torch.equal(found[d].flatten(-2)[0], torch.cat([image.flatten(-2) for image in images], dim=-1))


# ----------------------------------------------------------------------------------------- scaled losses and processes


def test_all_parts_of_a_phase_have_one_scale_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler as that of fp16, which changes its scale after every other update, finds the same gradients."""
    case = "mguit, the authors' terms"  # which clips gradients, too
    plain = trained(trainer_for(case, tmp_path, PARTS), lambda step: parts_of(case, step))
    trainer = trainer_for(case, tmp_path, PARTS)
    monkeypatch.setattr(trainer.accelerator, "native_amp", True)
    monkeypatch.setitem(
        AcceleratorState._shared_state, "_mixed_precision", "fp16"
    )  # or nothing is unscaled for clipping
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
    for running in trainer.phases:
        running.optimizer = AcceleratedOptimizer(running.optimizer.optimizer, device_placement=False, scaler=scaler)
    scaled = trained(trainer, lambda step: parts_of(case, step))
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-10)
    assert scaler.get_scale() == 16 * 2**STEPS


OF_PROCESSES = "cgcl"


def test_parts_in_two_processes_are_the_batch_of_all_their_images(tmp_path: Path) -> None:
    """With an average over the instances that exist in any of them."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(tmp_path / "state")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launch], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trainer = trainer_for(OF_PROCESSES, tmp_path, 1)
    whole = trained(trainer, lambda step: [joined(parts_of(OF_PROCESSES, step, 2 * PARTS))])["state"]
    for rank in range(2):
        state = torch.load(tmp_path / f"state.{rank}", weights_only=True)
        torch.testing.assert_close(state, dict(whole), rtol=0, atol=1e-10)


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        first, count = PARTS * int(os.environ["RANK"]), PARTS * int(os.environ["WORLD_SIZE"])
        trainer = trainer_for(OF_PROCESSES, Path(sys.argv[1]), PARTS)
        state = trained(trainer, lambda step: parts_of(OF_PROCESSES, step, count)[first : first + PARTS])["state"]
        torch.save(dict(state), f"{sys.argv[1]}.{os.environ['RANK']}")
        del trainer
        leave_group()
        return
    for case, (name, options) in list(CASES.items()):
        CASES[case] = name, {**options, **(COMPARABLE | OF_THE_BATCH).get(case, {})}
        with tempfile.TemporaryDirectory() as folder:
            whole, parts = (found["state"] for found in whole_and_parts(case, Path(folder), None))
        tensors = {k: (v.double() - parts[k].double()).abs() for k, v in whole.items() if isinstance(v, Tensor)}
        worst = max((float(v.max()), k) for k, v in tensors.items() if v.numel())
        print(f"{case:42} {worst[0]:.1e} {worst[1]}")


if __name__ == "__main__":
    main()
