"""``python -m cgcl_fast.train [METHOD] [options]``: train a method on photographs or on the built-in streets.

``METHOD --help`` explains every option. Exit status: 0 if the training is done; 1 if it could not continue (a loss that
is not finite, a full disk, missing images, another process that ended); 2 for wrong options or data; 129, 130 or 143 if
a closed terminal (SIGHUP), Ctrl-C or SIGTERM ended it, after saving: ``--resume`` continues.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from cgcl_fast import _start
from cgcl_fast._command import UsageError, as_usage_error, one_line, run
from cgcl_fast._files import check_regular
from cgcl_fast._heap import keep_freed_memory
from cgcl_fast._initial import take_weights
from cgcl_fast._judged import SetEvaluation, is_due, set_evaluation_of
from cgcl_fast._networks import OTHER_WAY
from cgcl_fast._train_course import course_of, newest_checkpoint, stage_to_go_on
from cgcl_fast._train_data import Data, build_data
from cgcl_fast._train_options import RunOptions, Start, read_start, save_config
from cgcl_fast._train_report import describe, log_into, messages, report, save_environment
from cgcl_fast.engine import (
    Course,
    LoaderError,
    Options,
    Stage,
    Trainer,
    alone_in,
    make_accelerator,
    seed_all,
    set_tf32,
    slow_precision,
)
from cgcl_fast.engine.graphs import MOST_KINDS, obstacle
from cgcl_fast.engine.schedule import Schedule
from cgcl_fast.methods import Method
from cgcl_fast.metrics import Evaluation, StyleEvaluation, evaluation_of, style_evaluation_of, style_table, table
from cgcl_fast.metrics.comparison import higher_is_better, set_table
from cgcl_fast.networks.files import generator_bytes

logger = logging.getLogger("cgcl_fast")


def train(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    with messages() as early, ExitStack() as held:
        start = read_start(arguments)
        with as_usage_error():
            accelerator, without_graphs = build_accelerator(start.run)
            hold_folder(start.output, start.resume, accelerator, held)
            data = build_data(start.run, start.kind, start.config, accelerator)
            set_up_device(accelerator.device, data.sizes, start.run.tf32)
            method, taken, measures = build_method(start, data, accelerator)
        stage, phase, found = take_up(start, data)
        with as_usage_error():
            course, schedule = build_course(start, data, method, stage)
            start.output.mkdir(parents=True, exist_ok=True)
            check_regular(start.output / "train.log", missing_ok=True)
        if accelerator.is_main_process:
            log_into(start.output / "train.log", early)
            save_config({**start.plain, "ranges": data.ranges}, start.output)
            save_environment(start.output, accelerator, start.run.precision)
            describe(start, data, method, course, accelerator.device, without_graphs)
            for line in filter(None, (taken, phase, slow_precision(accelerator.device, start.run.precision))):
                logger.warning(line)
        trainer = build_trainer(
            start, data, method, course, schedule, measures, stage=stage, found=found, accelerator=accelerator
        )
        del found  # the trainer drops it after loading
        return fit(trainer, start, measures)


def build_accelerator(options: RunOptions) -> tuple[Accelerator, str | None]:
    """The devices and processes of the run, and why its steps are not CUDA graphs; None if they are.

    Raises:
        ValueError: the device, precision or graph mode is not available here.
    """
    accelerator = make_accelerator(
        device=options.device, precision=options.precision, accumulate=options.accumulate, timeout=options.timeout
    )
    return accelerator, obstacle(options.graphs, accelerator)


def set_up_device(device: torch.device, sizes: int, tf32: bool) -> None:
    """Set how a GPU multiplies float32 and chooses convolutions, for ``sizes`` different image sizes.

    On a CPU, let the command keep freed memory.
    """
    if device.type == "cpu" and _start.started:
        keep_freed_memory()
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu and sizes <= MOST_KINDS  # each new size is benchmarked
    if on_gpu:  # the same switch also affects CPUs
        set_tf32(tf32)


def hold_folder(output: Path, resume: bool, accelerator: Accelerator, held: ExitStack) -> None:
    """Lock the run's folder against other trainings, before anything in it is read.

    Raises:
        UsageError: it is not a folder, another training uses it, or it holds a run that is not to be resumed.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output: {output} is no folder")
    used: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            held.enter_context(alone_in(output))
        except OSError as error:
            used = [f"--output: {one_line(error)}"]
    if broadcast_object_list(used)[0] is not None:
        raise UsageError(used[0])
    if not resume and any((output / "checkpoints").glob("step_*.pt")):
        raise UsageError(f"--output: {output} already holds a run: go on with --resume, or name another folder")


@dataclass(frozen=True)
class Measures:
    """Measurements at every save: the method's translations, if the truth is known, and its styles; and at every
    ``eval_every`` steps its translations as a set."""

    translations: Evaluation | None = None
    styles: StyleEvaluation | None = None
    sets: SetEvaluation | None = None
    eval_every: int | None = None

    def __call__(self, method: Method, step: int, steps: int) -> dict[str, float]:
        sets = self.sets if is_due(step, steps, self.eval_every) else None
        found = [each(method) for each in (self.translations, self.styles, sets) if each is not None]
        return {name: value for figures in found for name, value in figures.items()}

    def show(self, figures: Mapping[str, float]) -> None:
        """On stdout."""
        if figures and self.translations is not None:
            print(table(figures, self.translations.scenes))
        if figures and self.styles is not None:
            print(style_table(figures, self.styles))
        if figures and self.sets is not None:
            print(set_table(figures))


def build_method(start: Start, data: Data, accelerator: Accelerator) -> tuple[Method, str, Measures]:
    """The method with its initial weights, a line about their origin, and its measurements.

    Raises:
        ValueError, CheckpointError: the initial weights do not fit, or the images cannot be measured.
    """
    options = start.run
    measured = options.eval_images if accelerator.is_main_process else 0
    translations = evaluation_of(data.dataset, measured) if measured else None
    sets = None
    if options.eval_every and accelerator.is_main_process:
        sets = set_evaluation_of(start.plain, data.dataset, options.eval_metrics, accelerator.device)
    seed_all(options.seed)  # the same weights in every process
    method = start.kind(start.config)
    taken = "" if options.init is None or start.resume else take_weights(method, options.init)
    styles = style_evaluation_of(data.dataset, method, measured) if measured else None
    seed_all(options.seed + accelerator.process_index)
    return method, taken, Measures(translations, styles, sets, options.eval_every)


def take_up(start: Start, data: Data) -> tuple[Stage, str, tuple[Path, dict[str, Any]] | None]:
    """Where the run continues: its stage, a line about it if it is new, and the checkpoint; None for a new run.

    Raises:
        UsageError: there is no checkpoint.
        CheckpointError: none can be read, or it does not fit.
    """
    if not start.resume:
        return Stage(start.run.accumulate), "", None
    found = newest_checkpoint(start.output / "checkpoints")
    return *stage_to_go_on(found, data.loader.state_dict(), start.run.accumulate, start.changed), found


def build_course(start: Start, data: Data, method: Method, stage: Stage) -> tuple[Course, Schedule]:
    """The length of the run, and the factor of the learning rates at each step. Also tells the loader where full views
    start.

    Raises:
        ValueError: the lengths do not fit each other.
    """
    config, loader = start.config, data.loader
    course = course_of(start.run, config, len(loader), stage)
    schedule = method.schedule(course.own_steps) or course.schedule(
        policy=config.lr_policy, interval=config.lr_interval
    )
    if start.kind.needs(config).full_view_in_decay:
        in_stage = (course.full_steps - stage.step) * start.run.accumulate
        loader.sampler.full_view_from = stage.epoch * len(loader) + stage.position + in_stage
    return course, schedule


def build_trainer(
    start: Start, data: Data, method: Method, course: Course, schedule: Schedule, measures: Measures, **more: Any
) -> Trainer:
    """The run's trainer, which saves with each checkpoint how to rebuild the method; ``more`` are its arguments from
    the engine."""
    options, kind, steps = start.run, start.kind, course.own_steps
    forth = None if kind.named_domains else options.direction
    trainer = Trainer(
        method,
        data.loader,
        start.output,
        Options(
            steps=steps,
            save_every=options.save_every or options.eval_every or max(1, min(1000, steps // 10)),
            log_every=options.log_every,
            keep=options.keep,
            precision=options.precision,
            accumulate=options.accumulate,
            ahead=course.ahead,
            compile=start.compile,
            graphs=options.graphs,
            ema_decay=options.ema_decay,
        ),
        schedule=schedule,
        sample_batch=data.sample_batch,
        config={
            "method": start.method,
            "config": asdict(start.config),
            "direction": options.direction,
            "ranges": data.ranges,
        },
        generator_file=partial(generator_bytes, ranges=data.ranges, direction=forth),
        backward_file=None
        if kind.backward_name is None
        else partial(generator_bytes, ranges=data.ranges, direction=OTHER_WAY[options.direction]),
        evaluate=lambda method: measures(method, trainer.step, steps),
        best=options.best_by,
        least=higher_is_better(options.best_by) is False,
        **more,
    )
    return trainer


def fit(trainer: Trainer, start: Start, measures: Measures) -> int:
    """Train, and print the outcome. Returns the exit status.

    Raises:
        LoaderError: the data has ended; other errors are the trainer's.
    """
    try:
        outcome = trainer.fit(resume=start.resume)
    except LoaderError as error:
        raise LoaderError(f"{error}; --resume goes on from it") from error
    if trainer.accelerator.is_main_process:
        hung_up = outcome.signal == getattr(signal, "SIGHUP", 0)  # nobody may be left to read a message
        with suppress(*([OSError] if hung_up else [])):
            report(outcome, trainer.options.steps, start.output)
            measures.show(outcome.figures)
    return 0 if outcome.signal is None else 128 + outcome.signal


def main(arguments: Sequence[str] | None = None) -> int:
    return run(train, arguments)


if __name__ == "__main__":
    sys.exit(main())
