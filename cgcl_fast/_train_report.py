"""Messages of ``train``: on stderr and in ``train.log``; on stdout what is about to happen, and the outcome."""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import torch
from accelerate import Accelerator

from cgcl_fast import configs
from cgcl_fast._command import LineFormatter
from cgcl_fast._train_data import Data
from cgcl_fast._train_options import Start
from cgcl_fast.data.formats import printable
from cgcl_fast.data.values import PHOTOGRAPH, values_from_dict
from cgcl_fast.engine import Course, Outcome
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods import Method
from cgcl_fast.methods.options import DecayingConfig
from cgcl_fast.metrics.protocol import machine, versions

logger = logging.getLogger("cgcl_fast")


@contextmanager
def messages() -> Iterator[logging.handlers.MemoryHandler]:
    """Send the package's log messages to stderr, and keep them until there is a run folder for a log file."""
    early = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    logger.addHandler(early)
    on_stderr = logging.StreamHandler()
    on_stderr.setFormatter(LineFormatter())
    logger.addHandler(on_stderr)
    try:
        yield early
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()


def log_into(path: Path, early: logging.handlers.MemoryHandler) -> None:
    """From now on, write log messages to a file, too; the earlier ones first."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(LineFormatter())
    logger.addHandler(file)
    early.setTarget(file)
    early.flush()
    logger.removeHandler(early)


def save_environment(folder: Path, accelerator: Accelerator, precision: str) -> None:
    """``environment.json``: versions and hardware of the run's last start."""
    environment = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **machine(accelerator),
        "precision": precision,
        "versions": versions(),
    }
    text = json.dumps(environment, indent=1) + "\n"
    write_atomically(folder / "environment.json", lambda file: file.write(text.encode()))


def describe(
    start: Start, data: Data, method: Method, course: Course, device: torch.device, without_graphs: str | None
) -> None:
    """Print what is about to happen."""
    _describe_data(start, data)
    run, config = start.run, start.config
    trained = {name for phase in method.phases() for name in phase.networks}
    parameters = sum(p.numel() for name in trained for p in getattr(method, name).parameters())
    precision = run.precision
    if device.type == "cuda":
        precision += ", float32 multiplied " + ("as TF32" if run.tf32 else "in full")
    what = "images" if start.kind.needs(config).crops is None else "minibatches of crops"
    print(
        f"{start.method}: {parameters / 1e6:.3f} M parameters, {len(data.dataset)} {what} an epoch, "
        f"{course.own_steps} steps on {device}, {precision}; run folder {printable(start.output)}",
        flush=True,
    )
    if isinstance(config, DecayingConfig):
        rising = f"rises until step {course.start_of(course.warmup_epochs)}, " if course.warmup_epochs else ""
        decays = config.lr_policy == "linear" and course.full_steps < course.own_steps
        full = f"is full until step {course.full_steps}, then decays to zero" if decays else "is constant"
        print(f"learning rate: {rising}{full}", flush=True)
    if run.ema_decay:
        print(f"sample grids, figures and saved generators: of the average of the weights, decay {run.ema_decay:g}")
    if device.type == "cuda":
        graphs = "each step is one CUDA graph, all of it"
        print(graphs if without_graphs is None else f"no CUDA graphs: {without_graphs}", flush=True)


def _describe_data(start: Start, data: Data) -> None:
    if start.run.data is None:
        ways = {"AtoB": "sunny to night", "BtoA": "night to sunny"}
        named = getattr(start.config, "domains", None)
        print(f"no --data: built-in streets, {', '.join(named) if named else ways[start.run.direction]}")
    else:
        print(*data.dataset.summary(), sep="\n")
    if start.preset == "small":
        small = configs.read(start.method, "small")
        chosen = " ".join(f"{name}={start.plain[name]}" for name in small if start.plain[name] is not None)
        print(f"small preset (any option overrides it; --preset paper is the full setting): {chosen}")
    for domain, values in values_from_dict(data.ranges or {}).items():
        if values != PHOTOGRAPH:
            print(f"domain {domain}: images of {values.type}, {values.low:g} to {values.high:g} become -1 to 1")


def report(outcome: Outcome, steps: int, output: Path) -> None:
    """Print where the results are."""
    folder = printable(output)
    if outcome.signal is not None:
        print(f"stopped at step {outcome.step} of {steps} and saved; --resume --output {folder} goes on")
    elif outcome.grid is None:
        print(f"nothing to do: this run is at step {outcome.step}; --steps N with more steps goes on")
    if outcome.grid is not None:
        print(f"sample grid: {printable(outcome.grid)}")
    print(f"checkpoint: {printable(str(outcome.checkpoint))}")
