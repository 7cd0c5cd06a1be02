"""Trainings of the cases in tests/methods/graph_cases.py, with and without graphs, and everything they leave."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.engine import Options, Trainer, make_accelerator, rng_state, seed_all
from cgcl_fast.engine.fitting import full_state
from cgcl_fast.engine.graphs import Recorder, StepGraphs

sys.path.insert(0, str(Path(__file__).parent.parent / "methods"))

from graph_cases import batch_of, method_of  # noqa: E402


class Batches:
    """A loader of the batches of a case, every fourth of other images than the three before."""

    epoch = 0

    def __init__(self, case: str, sizes: tuple[int, ...], pinned: bool) -> None:
        self.case = case
        self.sizes = sizes
        self.pinned = pinned
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            batch = batch_of(self.case, self.position, self.sizes[self.position % len(self.sizes)])
            self.position += 1
            yield {k: v.pin_memory() if self.pinned and isinstance(v, Tensor) else v for k, v in batch.items()}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def close(self) -> None:
        pass


def trainer_of(
    case: str,
    folder: Path,
    steps: int = 20,
    *,
    graphs: str = "off",
    recorder: Recorder | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    accumulate: int = 1,
    sizes: tuple[int, ...] = (32,),
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Trainer:
    """A trainer of the case from its first step, with weights of ``dtype``; ``recorder`` in place of that of CUDA."""
    accelerator = make_accelerator(device=device, precision=precision, accumulate=accumulate)
    trainer = Trainer(
        method_of(case).to(dtype),
        Batches(case, sizes, pinned=device == "cuda"),
        folder,
        Options(
            steps=steps,
            save_every=5,
            log_every=4,
            precision=precision,
            accumulate=accumulate,
            graphs=graphs,
            **more,
        ),
        schedule=lambda step: 0.9**step,
        sample_batch=batch_of(case),
        config={},
        generator_file=lambda generator: b"",
        accelerator=accelerator,
    )
    if recorder is not None:
        trainer.graphs = StepGraphs(trainer._run, accelerator.device, recorder, required=True)
    seed_all(3)
    trainer.method.train()
    return trainer


def train(trainer: Trainer, steps: int = 20) -> list[dict[str, float]]:
    """The losses of each step, of which none is read before the last has been made."""
    batches = iter(trainer.loader)
    losses = []
    for _ in range(steps):
        parts = [next(batches) for _ in range(trainer.options.accumulate)]
        losses.append(trainer.train_step(parts))
        trainer.step += 1
    return [{name: float(value) for name, value in found.items()} for found in losses]


def everything(trainer: Trainer) -> dict[str, Any]:
    """All that a training has changed."""
    return {
        "method": {name: value for name, value in trainer.method.state_dict().items()},
        "optimizers": [full_state(running.optimizer) for running in trainer.phases],
        "rates": [[float(group["lr"]) for group in running.optimizer.param_groups] for running in trainer.phases],
        "rng": rng_state(),
        "ema": {} if trainer.average is None else dict(trainer.average.networks.state_dict()),
    }
