"""A method with two tiny networks and a data set of noise, for testing the engine, and a command that trains them.

``python toy_run.py FOLDER STEPS fresh|resume|plain [kill STEP]``
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import Dataset

from cgcl_fast.data import DataError, build_loader
from cgcl_fast.data.unpaired import collate
from cgcl_fast.engine import Options, Trainer, leave_group, linear_decay, make_accelerator
from cgcl_fast.methods import OptimizerSpec, Phase


class Toy(nn.Module):
    """G and D with every source of randomness that a method may use, a buffer moved by a hook, and a shared result."""

    generator_name = "G"
    backward_name = None

    def __init__(self, trouble: tuple[str, int] = ("", 0)) -> None:
        super().__init__()
        self.G = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 3, 3, padding=1))
        self.D = nn.Conv2d(3, 1, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.trouble = trouble
        self.seen: list[list[str]] = []
        self.progress: list[float] = []

    def choose(self, progress: float) -> dict:
        self.progress.append(progress)
        return {}

    def prepare(self, batch: dict) -> dict:
        self.seen.append(batch["A_paths"])
        return batch

    def begin(self, batches: list[dict], shared: list[dict]) -> None:
        for part in shared:
            part["parts"] = len(batches)

    def phases(self) -> list[Phase]:
        spec = OptimizerSpec(1e-2, (0.5, 0.999))
        return [
            Phase("discriminator", ("D",), self.loss_d, spec),
            Phase("generator", ("G",), self.loss_g, spec, frozen=("D",), keeps=("colour",), after=self.after),
        ]

    def translate_once(self, batch: dict, shared: dict) -> torch.Tensor:
        if "fake" not in shared:
            shared["fake"] = self.G(batch["A"] + 0.1 * (torch.randn(3, 1, 1) + random.random() + np.random.rand()))
        return shared["fake"]

    def loss_d(self, batch: dict, shared: dict) -> dict:
        self.calls += 1
        kind, at = self.trouble
        if kind in ("kill", "term") and int(self.calls) == at:
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        fake = self.translate_once(batch, shared).detach()
        loss = (self.D(fake) ** 2).mean() + ((self.D(batch["B"]) - 1) ** 2).mean()
        if kind == "nan" and int(self.calls) == at:
            loss = loss * float("nan")
        return {"loss": loss}

    def loss_g(self, batch: dict, shared: dict) -> dict:
        assert not any(p.requires_grad for p in self.D.parameters())
        fake = self.translate_once(batch, shared)
        shared["colour"] = fake.detach().mean((0, 2, 3))
        adversarial = ((self.D(fake) - 1) ** 2).mean()
        identity = (self.G(batch["B"]) - batch["B"]).abs().mean()
        return {"loss": adversarial + identity, "adversarial": adversarial.detach(), "identity": identity.detach()}

    def after(self, batches: list[dict], kept: list[dict]) -> None:
        assert not torch.is_grad_enabled() and len(batches) == len(kept)
        for part in kept:
            assert part.keys() == {"parts", "colour"} and part["parts"] == len(kept)
            self.mean.lerp_(part["colour"], 0.1)

    def translate(self, image: torch.Tensor) -> torch.Tensor:
        return self.G(image)

    def samples(self, batch: dict) -> dict:
        torch.rand(5), random.random(), np.random.rand()  # a sample may draw; the training must not notice
        return {"source": batch["A"], "translated": self.G(batch["A"])}


class Plain(Toy):
    """A Toy without chance, whose losses are means over the batch: the steps are the same however it is divided."""

    hooks = translated = 0

    def translate_once(self, batch: dict, shared: dict) -> torch.Tensor:
        self.translated += "fake" not in shared
        shared.setdefault("fake", self.G[0](batch["A"]))
        return self.G[3](shared["fake"])

    def loss_d(self, batch: dict, shared: dict) -> dict:
        self.calls += 1
        fake = self.translate_once(batch, shared).detach()
        return {"loss": self.D(batch["B"]).square().mean() + (self.D(fake) - 1).square().mean()}

    def loss_g(self, batch: dict, shared: dict) -> dict:
        return {"loss": self.D(self.translate_once(batch, shared)).square().mean()}

    def after(self, batches: list[dict], kept: list[dict]) -> None:
        self.hooks += 1
        assert len(batches) == len(kept)


class Noise(Dataset):
    """Items are a function of (epoch, index), as if each epoch had its own augmentation. ``gone``: one that is not
    there, and the error that is in its place."""

    def __init__(self, gone: tuple[int, int] | None = None, error: type[Exception] = DataError) -> None:
        self.gone = gone
        self.error = error

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if self.gone == (epoch, index):
            raise self.error("the data are gone")
        image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(epoch * 1000 + index)) * 2 - 1
        return {"A": image[0], "B": image[1], "A_paths": f"{epoch}/{index}", "B_paths": f"{epoch}/{index}"}


def make_trainer(
    folder: Path,
    steps: int,
    *,
    trouble: tuple[str, int] = ("", 0),
    batch_size: int = 2,
    accumulate: int = 1,
    kind: type[Toy] = Toy,
    data: Noise | None = None,
    workers: int = 0,
    precision: str = "fp32",
    ema_decay: float = 0.0,
    **more: Any,
) -> Trainer:
    torch.manual_seed(5)
    method = kind(trouble)
    accelerator = make_accelerator(device="cpu", precision=precision, accumulate=accumulate)
    rank, world = accelerator.process_index, accelerator.num_processes
    random.seed(7 + rank), np.random.seed(7), torch.manual_seed(7 + rank)
    loader = build_loader(
        data or Noise(), batch_size=batch_size, seed=3, num_workers=workers, rank=rank, replicas=world
    )
    options = Options(
        steps=steps, save_every=3, log_every=1, precision=precision, accumulate=accumulate, ema_decay=ema_decay
    )
    return Trainer(
        method,
        loader,
        folder,
        options,
        schedule=linear_decay(steps, steps // 2),
        sample_batch=collate([Noise()[0, index] for index in range(3)]),
        config={"method": "toy"},
        generator_file=lambda module: safetensors.torch.save(
            {k: v.contiguous() for k, v in module.state_dict().items()}
        ),
        accelerator=accelerator,
        **more,
    )


if __name__ == "__main__":
    trouble = (sys.argv[4], int(sys.argv[5])) if len(sys.argv) > 4 else ("", 0)
    more: dict[str, Any] = {"kind": Plain, "ema_decay": 0.5} if sys.argv[3] == "plain" else {}
    trainer = make_trainer(Path(sys.argv[1]), int(sys.argv[2]), trouble=trouble, **more)
    trainer.fit(resume=sys.argv[3] == "resume")
    del trainer
    leave_group()
