"""The training loop: batches, phases, optimisers, a schedule and checkpoints. It runs any method."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from cgcl_fast._weights import is_finite
from cgcl_fast.networks.memory_format import weights_in_fast_format
from cgcl_fast.nn.per_process import per_process_modules, state_for

from .casting import cast_together
from .checkpoint import CheckpointError, Checkpoints, does_not_fit
from .compiling import compile_networks
from .device import make_accelerator, peak_memory
from .ema import GeneratorAverage
from .files import alone_in, remove_leftovers
from .fitting import check_adam, check_module, check_numbers, full_state, load_state, regrouped
from .graphs import Choices, CudaRecorder, Part, StepGraphs, obstacle, to_device
from .log import RunLog
from .processes import gathered
from .rng import check_rng_state, preserved_rng, rng_state, seed_all, set_rng_state
from .schedule import Schedule
from .signals import StopSignals
from .stages import Stage, stage_in

if TYPE_CHECKING:
    from cgcl_fast.methods.base import Method, Phase

Batch = dict[str, Any]
Evaluate = Callable[["Method"], Mapping[str, float]]


class Loader(Protocol):
    """Batches with a position that can be saved: :class:`cgcl_fast.data.ResumableLoader`.

    Each pass yields the rest of an epoch, as dicts with float32 tensors (B, C, H, W) in [-1, 1]; for a GPU they are in
    pinned memory, from which a batch is copied without waiting for the previous step. A state taken while a batch is in
    use counts that batch as done. If the loader raises, the trained steps are saved and the training ends.
    """

    @property
    def epoch(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]: ...

    def load_state_dict(self, state: dict[str, int]) -> None: ...

    def close(self) -> None: ...


class NonFiniteError(RuntimeError):
    """A loss or a weight became NaN or infinite."""


class LoaderError(RuntimeError):
    """The loader failed to give a batch. In a single process the last finished step has been saved."""


@dataclass(frozen=True)
class Options:
    """Options of the training loop, the same for all methods.

    Attributes:
        steps: total number of optimiser steps.
        save_every: steps between checkpoints (and sample grids).
        log_every: steps between lines of the loss log.
        keep: how many of the newest checkpoints to keep.
        precision: fp32, bf16 or fp16 (mixed precision: weights stay float32).
        accumulate: batches whose gradients are averaged for one step.
        ahead: steps added to the step count when the method's progress (0 to 1) is computed (:meth:`Stage.ahead`).
        compile: compile the networks with torch.compile.
        graphs: "auto" replays each step as one CUDA graph if possible; "on" raises an error if not; "off" never does.
        ema_decay: decay of the exponential moving average of the generators' weights; with it sample grids, figures and
            generator files are those of the average (:class:`GeneratorAverage`). 0: no average.
    """

    steps: int
    save_every: int = 1000
    log_every: int = 10
    keep: int = 3
    precision: str = "fp32"
    accumulate: int = 1
    ahead: int = 0
    compile: bool = False
    graphs: str = "auto"
    ema_decay: float = 0.0


@dataclass
class _Inputs:
    """The arguments of a phase's forward for one part of a step. They are one opaque object because DDP copies
    containers among its arguments, and what a phase puts into ``shared`` must reach the next phase."""

    batch: Batch
    shared: dict[str, Any]

    def kept(self, names: Collection[str]) -> dict[str, Any]:
        return {name: value for name, value in self.shared.items() if name in names}


class _PhaseModule(nn.Module):
    """A phase as a module that owns the parameters it trains and has one forward: what DDP wraps, so that each gradient
    is reduced once."""

    def __init__(self, method: Method, phase: Phase, cast: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: getattr(method, name) for name in phase.networks})
        self.loss = phase.loss
        # Those that a gradient reaches, in this phase or another; in a tuple, since they are not all trained here.
        self.cast = tuple(n for n in method.children() if any(p.requires_grad for p in n.parameters())) if cast else ()

    def forward(self, inputs: _Inputs) -> dict[str, Tensor]:
        if not self.cast:
            return self.loss(inputs.batch, inputs.shared)
        device = next(self.parameters()).device.type
        with cast_together(self.cast, torch.get_autocast_dtype(device)):
            return self.loss(inputs.batch, inputs.shared)


@dataclass
class _RunningPhase:
    phase: Phase
    module: nn.Module
    optimizer: Any  # accelerate's wrapper around Adam
    rates: tuple[float, ...]  # of the optimizer's groups, before the schedule
    factor: float = 1.0  # the schedule's, which the groups have now

    def scale_rates(self, factor: float) -> None:
        """Set the learning rates in place, because a CUDA graph reads them from their memory."""
        if factor != self.factor:
            for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
                group["lr"].fill_(rate * factor)
            self.factor = factor


@dataclass(frozen=True)
class Outcome:
    """How :meth:`Trainer.fit` ended.

    Attributes:
        step: the step reached.
        signal: the signal that ended it early; None: the training is complete.
        checkpoint, grid: the last files written; None if there are none, and in all processes but the main one.
        figures: those of the last evaluation; empty if there was none.
    """

    step: int
    signal: int | None
    checkpoint: Path | None
    grid: Path | None
    figures: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def _frozen(networks: list[nn.Module]) -> Iterator[None]:
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Trainer:
    """Trains a method.

    Args:
        method: the method; each step runs its phases in order.
        loader: the batches of this process, one for each accumulated part of a step.
        folder: the run folder; gets ``log.jsonl``, ``metrics.jsonl``, ``checkpoints/``, ``samples/``, ``tensorboard/``.
        options: see :class:`Options`.
        schedule: factor of the learning rates at a step.
        sample_batch: the images of the sample grids.
        config: plain containers from which the method can be rebuilt; saved in each checkpoint.
        generator_file: gives the content of a safetensors file for a generator.
        backward_file: the same for the generator of the opposite direction, for a method that has one.
        found: the newest checkpoint, (file, state), if it has already been read: ``fit`` resumes from it.
        stage: stage of the run; None: the first, and a checkpoint of other data, batch size or accumulation is refused.
        evaluate: computes figures of the method for ``metrics.jsonl``. Called at every save, in evaluation mode without
            gradients; the random numbers that it draws do not change the training.
        best: name of the figure that decides which checkpoint is the best.
        least: whether lower is better.
        accelerator: from :func:`make_accelerator`; by default made with the options' precision.
    """

    def __init__(
        self,
        method: Method,
        loader: Loader,
        folder: Path,
        options: Options,
        *,
        schedule: Schedule,
        sample_batch: Batch,
        config: Mapping[str, Any],
        generator_file: Callable[[nn.Module], bytes],
        backward_file: Callable[[nn.Module], bytes] | None = None,
        stage: Stage | None = None,
        found: tuple[Path, dict[str, Any]] | None = None,
        evaluate: Evaluate | None = None,
        best: str | None = None,
        least: bool = False,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.options = options
        self.accelerator = accelerator or make_accelerator(precision=options.precision, accumulate=options.accumulate)
        self.method = method.to(self.accelerator.device)
        weights_in_fast_format(self.method, self.accelerator.device)
        self.loader = loader
        self.folder = folder
        self.schedule = schedule
        self.sample_batch = to_device(sample_batch, self.accelerator.device)
        self.config = dict(config)
        self.generator_file = generator_file
        self.backward_file = backward_file
        self.stage = stage
        self.found = found
        self.evaluate = evaluate
        self.best = best
        self.least = least
        self.checkpoints = Checkpoints(folder / "checkpoints", options.keep)
        # Before anything is compiled or wrapped, of which a copy would be one too.
        self.average = GeneratorAverage(self.method, options.ema_decay) if options.ema_decay else None
        self.phases = [self._prepare(phase) for phase in method.phases()]
        self.graphs: StepGraphs | None = None
        if obstacle(options.graphs, self.accelerator) is None:
            required = options.graphs == "on"
            self.graphs = StepGraphs(self._run, self.accelerator.device, CudaRecorder(), required=required)
        if options.compile:
            compile_networks(method)
        self.step = 0
        self.saved: Path | None = None
        self._saved_step: int | None = None
        self.figures: dict[str, float] = {}
        self._pending: list[tuple[int, dict[str, Tensor]]] = []

    def _prepare(self, phase: Phase) -> _RunningPhase:
        # A compiler casts by itself; several processes: see `cast_together`.
        cast = self.options.precision != "fp32" and not self.options.compile and self.accelerator.num_processes == 1
        module = _PhaseModule(self.method, phase, cast)
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, network in module.networks.items():
            by_rate.setdefault(phase.optimizer.lr_of(name), []).extend(network.parameters())
        groups = [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
        kind = self.accelerator.device.type
        adam = torch.optim.Adam(
            groups,
            betas=phase.optimizer.betas,
            weight_decay=phase.optimizer.weight_decay,
            fused=kind in ("cpu", "cuda"),
            capturable=kind == "cuda",  # a CUDA graph or none: the same numbers
        )
        module, optimizer = self.accelerator.prepare(module, adam)
        for rate, group in zip(by_rate, optimizer.param_groups, strict=True):
            group["lr"] = torch.tensor(rate, device=self.accelerator.device)
        return _RunningPhase(phase, module, optimizer, tuple(by_rate))

    # -------------------------------------------------------------------------------------------------------- the loop

    def fit(self, *, resume: bool = False) -> Outcome:
        """Train to ``options.steps``; with ``resume`` from the newest checkpoint that can be read.

        Raises:
            FileNotFoundError: nothing to resume.
            CheckpointError: a checkpoint could not be read or written.
            LoaderError: the loader gives no more batches.
            NonFiniteError: a loss or a weight is NaN or infinite; nothing of that step is saved.
            InUseError: another process trains in the folder.
            ValueError: a trainer made later in this process has changed Accelerate's global options.
        """
        precision, accumulate = self.accelerator.mixed_precision, self.accelerator.gradient_accumulation_steps
        precision = {"no": "fp32"}.get(precision, precision)
        if (precision, accumulate) != (self.options.precision, self.options.accumulate):
            raise ValueError(
                f"accelerator: expected {self.options.precision} and accumulate {self.options.accumulate}, got "
                f"{precision} and {accumulate}: end a training before the trainer of the next one is made"
            )
        with ExitStack() as entered:
            if self.accelerator.is_main_process:
                entered.enter_context(alone_in(self.folder))
                remove_leftovers(self.folder)
            return self._fit(resume)

    def _fit(self, resume: bool) -> Outcome:
        options, main = self.options, self.accelerator.is_main_process
        if resume:
            self._resume()
        log = RunLog(self.folder, start=self.step if resume else None, total=options.steps) if main else None
        batches = self._endless()
        since, images = time.perf_counter(), 0
        self.method.train()
        with StopSignals() as stop:
            try:
                if not resume:
                    self._save(log)
                while self.step < options.steps:
                    done = self.loader.state_dict()
                    try:
                        fetched = [next(batches) for _ in range(options.accumulate)]
                    except (OSError, ValueError, RuntimeError, MemoryError) as error:
                        self._data_ended(error, done, log)
                    losses = self.train_step(fetched)
                    self.step += 1
                    self._pending.append((self.step, losses))
                    batch_size = len(next(v for v in fetched[0].values() if isinstance(v, Tensor)))
                    images += batch_size * options.accumulate * self.accelerator.num_processes

                    last = self.step == options.steps
                    log_due = last or self.step == 1 or self.step % options.log_every == 0
                    save_due = last or self.step % options.save_every == 0
                    # Reading a loss waits for the device: nothing to wait for on a CPU, done in bulk elsewhere. All
                    # processes must read at the same steps, so a signal alone decides only where there is one process.
                    stopping = stop.received is not None and self.accelerator.num_processes == 1
                    if log_due or save_due or stopping or self.accelerator.device.type == "cpu":
                        values, stopping = self._read_losses(stop.received is not None)
                        rate = images / (time.perf_counter() - since)
                        if log is not None:
                            log.progress(self.step, values, rate)
                            if log_due:
                                rates = {f"lr/{r.phase.name}": r.rates[0] * r.factor for r in self.phases}
                                rates["images_per_second"] = round(rate, 3)
                                if (memory := peak_memory(self.accelerator.device)) is not None:
                                    rates["memory_mb"] = round(memory, 1)
                                log.scalars(self.step, {"epoch": self.loader.epoch, **values, **rates})
                        if log_due:
                            since, images = time.perf_counter(), 0
                    if save_due or stopping:
                        pause = time.perf_counter()
                        self._save(log)
                        since += time.perf_counter() - pause
                    if stopping and not last:
                        number = stop.received or signal.SIGTERM  # the latter where another process was asked
                        return Outcome(self.step, number, self.saved, log.last_grid if log else None, self.figures)
            except OSError as error:  # a full disk, mostly
                if log is None:  # it has no files of the run: what it met is its own
                    raise
                what = f"{error.filename or self.folder}: {error.strerror or error}"
                raise CheckpointError(f"step {self.step}: {what}; {self._last_good()}") from error
            finally:
                self.loader.close()
                if log is not None:
                    log.close()
        return Outcome(self.step, None, self.saved, log.last_grid if log else None, self.figures)

    def _data_ended(self, error: Exception, done: dict[str, int], log: RunLog | None) -> NoReturn:
        """Save the last finished step, at which the loader's state was ``done``, and raise a LoaderError."""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        said = f"step {self.step}: the data have come to an end: {reason}"
        # Other processes are in the middle of their next step, and have nothing that would be worth saving.
        if self.accelerator.num_processes == 1 and self._saved_step != self.step:
            try:
                if self._pending:
                    self._read_losses(False)
                self._save(log, done)
            except (CheckpointError, NonFiniteError, OSError) as second:
                raise LoaderError(f"{said}; {second}") from error
        raise LoaderError(f"{said}; {self._last_good()}") from error

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def train_step(self, parts: list[Batch]) -> dict[str, Tensor]:
        """One optimiser step of every phase on the batches ``parts``. Several parts give the step of one batch with all
        their images, as far as losses are means over images: each phase runs on all parts and updates its networks with
        the mean gradient before the next phase begins.

        Returns:
            "phase/loss name" -> detached scalar, the mean over the parts.

        Raises:
            CaptureError: the step cannot be captured, and ``options.graphs`` is "on".
        """
        factor = self.schedule(self.step)
        for running in self.phases:
            running.scale_rates(factor)
        ahead = self.options.ahead
        choices = self.method.choose((self.step + ahead) / (self.options.steps + ahead))
        tensors = [
            {name: value for name, value in self.method.prepare(part).items() if isinstance(value, Tensor)}
            for part in parts
        ]
        if self.graphs is not None:
            return self.graphs(tensors, choices)
        return self._run([to_device(part, self.accelerator.device) for part in tensors], choices)

    def _run(self, parts: Sequence[Part], choices: Choices) -> dict[str, Tensor]:
        """The step on batches that are on the device: exactly what a CUDA graph records."""
        losses: dict[str, Tensor] = {}
        done = self.accelerator.step
        inputs = [_Inputs(dict(part), dict(choices)) for part in parts]
        self.method.begin([part.batch for part in inputs], [part.shared for part in inputs])
        kept = {*inputs[0].shared, *(name for running in self.phases for name in running.phase.keeps)}
        # Phases go through the parts in alternating order: the last part of one phase is the first of the next, which
        # then finds all of its intermediate results. The last phase follows the loader's order.
        order = inputs if len(self.phases) % 2 else inputs[::-1]
        try:
            for running in self.phases:
                losses |= self._run_phase(running, order, kept)
                order = order[::-1]
                if running.phase.after is not None:
                    with torch.no_grad():
                        running.phase.after([part.batch for part in inputs], [part.kept(kept) for part in inputs])
            if self.average is not None:
                self.average.update()
        except BaseException:  # for example a failed capture, after which the step is run without a graph
            self.accelerator.step = done
            for running in self.phases:
                running.optimizer.optimizer.zero_grad()
            raise
        return losses

    def _run_phase(self, running: _RunningPhase, parts: Sequence[_Inputs], kept: Collection[str]) -> dict[str, Tensor]:
        """Run one phase on all parts and update its networks. All parts but the last drop what need not be kept."""
        phase = running.phase
        found: list[dict[str, Tensor]] = []
        with _frozen([getattr(self.method, name) for name in phase.frozen]):
            for part in parts:
                # Processes exchange their gradients at the last part.
                with self.accelerator.accumulate(running.module):
                    losses = running.module(part)
                    self.accelerator.backward(losses["loss"])
                found.append({name: value.detach() for name, value in losses.items()})
                if part is not parts[-1]:
                    part.shared = part.kept(kept)
        if phase.optimizer.clip:
            self.accelerator.unscale_gradients(running.optimizer)
            for name, most in phase.optimizer.clip.items():
                nn.utils.clip_grad_norm_(getattr(self.method, name).parameters(), most)
        running.optimizer.step()
        running.optimizer.zero_grad()
        means = found[0] if len(found) == 1 else {n: torch.stack([x[n] for x in found]).mean(0) for n in found[0]}
        return {f"{phase.name}/{name}": value for name, value in means.items()}

    def _read_losses(self, stop: bool) -> tuple[dict[str, float], bool]:
        """The losses of the newest step, averaged over processes, after checking all steps since the last call; and
        whether any process was asked to stop, so that all stop at the same step."""
        newest = self._pending[-1][1]
        names = sorted({name for _, losses in self._pending for name in losses})
        absent = torch.zeros((), device=self.accelerator.device)
        table = torch.stack([torch.stack([x.get(name, absent).float() for name in names]) for _, x in self._pending])
        flags = torch.full_like(table[:, :1], float(stop))
        table = self.accelerator.reduce(torch.cat([table, flags], dim=1), "mean")
        steps = [step for step, _ in self._pending]
        self._pending = []
        rows = table.tolist()
        for step, row in zip(steps, rows, strict=True):
            for name, value in zip(names, row, strict=False):
                if not math.isfinite(value):
                    raise NonFiniteError(f"step {step}: the loss {name} is {value}; {self._last_good()}")
        found = dict(zip(names, rows[-1], strict=False))
        return {name: found[name] for name in newest}, rows[-1][-1] > 0

    def _last_good(self) -> str:
        paths = self.checkpoints.paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was saved before"

    # ----------------------------------------------------------------------------------------------- samples and state

    def _evaluate(self, log: RunLog) -> None:
        """Sample grid and figures of the current step."""
        with nullcontext() if self.average is None else self.average.in_place_of_weights(self.method):
            self.method.eval()
            with preserved_rng(), torch.no_grad(), self.accelerator.autocast():
                images = self.method.samples(self.sample_batch)
            log.images(self.step, images)
            if self.evaluate is not None:
                with preserved_rng(), torch.no_grad(), self.accelerator.autocast():
                    self.figures = dict(self.evaluate(self.method))
                log.figures(self.step, self.figures)
        self.method.train()

    def _translating(self, name: str) -> nn.Module:
        """The generator that is saved for use: its moving average, if there is one."""
        return getattr(self.method, name) if self.average is None else self.average.networks[name]

    def _save(self, log: RunLog | None, loader: dict[str, int] | None = None) -> None:
        """Write checkpoint and sample grid of the current step; every process must call it.

        State that differs between processes (queues of keys, pools of images) is saved for every process, and
        :func:`~cgcl_fast.nn.per_process.state_for` distributes it on resume; everything else is saved once.

        Args:
            loader: state of the loader at this step, if the loader has moved on since.
        """
        rng_states = gather_object([rng_state()])
        others: dict[str, list[dict[str, Any]]] = {}
        if self.accelerator.num_processes > 1:  # one part at a time, since all of them may be large
            others = {name: gathered(part.state_dict())[1:] for name, part in per_process_modules(self.method).items()}
        if log is not None:
            self._check_finite(self.method.state_dict())
            for name, states in others.items():
                for process, state in enumerate(states, start=1):
                    self._check_finite({f"{name}.{key} of process {process}": value for key, value in state.items()})
            self._evaluate(log)
            best = self.figures.get(self.best) if self.best is not None else None
            scaler = self.accelerator.scaler
            state = {
                "config": self.config,
                "step": self.step,
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "method": self.method.state_dict(),
                "other_processes": others,
                "optimizers": {running.phase.name: full_state(running.optimizer) for running in self.phases},
                "complete": True,  # an entry in "optimizers" for every parameter
                "scaler": scaler.state_dict() if scaler is not None else {},
                "loader": self.loader.state_dict() if loader is None else loader,
                "rng": rng_states,
                "stage": asdict(self.stage or Stage(self.options.accumulate)),
            }
            if self.average is not None:
                state["ema"] = self.average.networks.state_dict()
            backward = None
            if self.backward_file is not None and self.method.backward_name is not None:
                backward = self.backward_file(self._translating(self.method.backward_name))
            self.saved = self.checkpoints.save(
                state,
                step=self.step,
                generator=self.generator_file(self._translating(self.method.generator_name)),
                backward=backward,
                metric=(self.best, best) if self.best is not None and best is not None else None,
                least=self.least,
            )
        self._saved_step = self.step
        self.accelerator.wait_for_everyone()

    def _check_finite(self, state: Mapping[str, Any]) -> None:
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):  # the extra state of a module
                continue
            if tensor.is_floating_point() and not is_finite(tensor):
                raise NonFiniteError(f"step {self.step}: the weights {name} are not finite; {self._last_good()}")

    def _resume(self) -> None:
        path, state = self.found or self.checkpoints.newest()
        self.found = None
        self.checkpoints.best()  # an unreadable best.json is reported now, not after hours of training
        try:
            state = self._fitted(state)
            self._check(state)
            self.loader.load_state_dict(state["loader"])  # first, since it looks before it changes anything
            self.method.load_state_dict(state["method"])
            rank, here = self.accelerator.process_index, self.accelerator.num_processes
            others = state.get("other_processes", {})
            for name, part in per_process_modules(self.method).items():
                first = {key: state["method"][f"{name}.{key}"] for key in part.state_dict()}
                # Old checkpoints have only the first process's state, which all processes then use.
                part.load_state_dict(state_for(part, [first, *others.get(name, [])], rank, here))
            if self.average is not None and "ema" in state:
                self.average.networks.load_state_dict(state["ema"])
            elif self.average is not None:
                self.average.restart()
            for running in self.phases:
                load_state(running.optimizer, state["optimizers"][running.phase.name])
            if self.graphs is not None:
                self.graphs.forget()
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]
            if self.average is not None and "ema" not in state and self.accelerator.is_main_process:
                warnings.warn(f"{path}: has no average of the generator's weights: it begins with them", stacklevel=2)
            threads = torch.get_num_threads()
            changed = ""
            if len(state["rng"]) == here:
                set_rng_state(state["rng"][rank])
                if state.get("threads", threads) != threads:  # which old checkpoints do not have
                    was = state["threads"]
                    changed = f"{was} threads, now {threads}: goes on, bit for bit only with OMP_NUM_THREADS={was}"
            else:
                seed_all(state["loader"]["seed"], self.step, rank)
                changed = f"{len(state['rng'])} processes, now {here}: goes on, not bit for bit"
            if changed and self.accelerator.is_main_process:
                warnings.warn(f"{path}: was saved with {changed}", stacklevel=2)
        except Exception as error:  # a foreign or modified file fails in many ways
            raise does_not_fit(path, error) from error
        self.saved, self._saved_step = path, self.step

    def _fitted(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint adapted to this run: at the first batch of its stage if a new stage begins, and with optimiser
        groups that match the current learning rates."""
        found = dict(state)
        if self.stage is not None and self.stage != stage_in(state, self.stage.accumulate):
            place = {"epoch": self.stage.epoch, "position": self.stage.position}
            found["loader"] = {**self.loader.state_dict(), **place}
        if isinstance(found["optimizers"], dict):
            optimizers = {running.phase.name: running.optimizer for running in self.phases}
            found["optimizers"] = {
                name: regrouped(one, optimizers[name]) if name in optimizers else one
                for name, one in found["optimizers"].items()
            }
        return found

    def _check(self, state: Mapping[str, Any]) -> None:
        """Raise an error, mostly a ValueError, if a checkpoint does not fit this run; changes nothing."""
        if state["step"] > self.options.steps:
            raise ValueError(f"it is of step {state['step']}, and this run ends at {self.options.steps}")
        for name, kind in (("optimizers", dict), ("scaler", dict), ("rng", list)):
            if not isinstance(state[name], kind):
                raise ValueError(f"{name}: expected a {kind.__name__}, got {type(state[name]).__name__}")
        check_module(state["method"], self.method)
        if self.average is not None and "ema" in state:
            check_module(state["ema"], self.average.networks)
        self._check_others(state.get("other_processes", {}), len(state["rng"]) - 1)
        for running in self.phases:
            name = running.phase.name
            check_adam(
                f"optimizer {name}",
                state["optimizers"][name],
                running.optimizer,
                complete=bool(state.get("complete")),
            )
        if self.accelerator.scaler is not None and state["scaler"]:
            check_numbers("scaler", state["scaler"], self.accelerator.scaler.state_dict())
        check_numbers("loader", state["loader"], self.loader.state_dict())
        for process, saved in enumerate(state["rng"]):
            try:
                check_rng_state(saved)
            except Exception as error:
                raise ValueError(f"random numbers of process {process}: {error}") from error

    def _check_others(self, others: Any, count: int) -> None:
        """Raise an error, mostly a ValueError, unless ``others`` is the per-process state of ``count`` other processes
        as :meth:`_save` writes it. Empty is accepted: old checkpoints do not have it."""
        if not others:
            return
        parts = per_process_modules(self.method)
        if not isinstance(others, dict) or others.keys() != parts.keys():
            raise ValueError(f"other_processes: expected {sorted(parts)}, got {str(others)[:100]}")
        for name, states in others.items():
            if not isinstance(states, list) or len(states) != count:
                raise ValueError(f"other_processes: {name}: expected those of {count} processes")
            for process, found in enumerate(states, start=1):
                try:
                    check_module(found, parts[name])
                except Exception as error:
                    raise ValueError(f"{name} of process {process}: {error}") from error
