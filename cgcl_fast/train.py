"""``python -m cgcl_fast.train [METHOD] [options]``: train a method on photographs or on the built-in streets.

``METHOD --help`` explains every option. Exit status: 0 when the training is done; 1 when it could not go on (a loss
that is not finite, a full disk, images that are gone, another process that ended); 2 for wrong options or data; 129,
130 or 143 when a closed terminal (SIGHUP), Ctrl-C or SIGTERM ended it, after saving: ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from jsonargparse import Namespace

from cgcl_fast import _resume, configs
from cgcl_fast._command import LineFormatter, Parser, UsageError, as_usage_error, bracketed, one_line, run, underscored
from cgcl_fast._files import check_regular
from cgcl_fast._initial import take_weights
from cgcl_fast._judged import EvalMetrics, check_evaluations, is_due, set_evaluation_of
from cgcl_fast._networks import OTHER_WAY
from cgcl_fast._yaml import read_yaml, yaml_text
from cgcl_fast.data import Reading, UnpairedDataset, build_loader, find_domains, open_dataset
from cgcl_fast.data.formats import printable
from cgcl_fast.data.values import PHOTOGRAPH, Values, values_from_dict, values_to_dict
from cgcl_fast.engine import (
    Checkpoints,
    Course,
    LoaderError,
    Options,
    Outcome,
    Stage,
    Trainer,
    alone_in,
    make_accelerator,
    next_stage,
    seed_all,
    set_tf32,
)
from cgcl_fast.engine.checkpoint import does_not_fit
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.engine.graphs import MOST_KINDS, obstacle
from cgcl_fast.engine.stages import stage_in
from cgcl_fast.methods import METHODS, Method
from cgcl_fast.methods.base import channels_of, check_image, check_networks
from cgcl_fast.methods.options import Count, CountOrZero, DecayingConfig, Level, Side, Within, check, lists_of
from cgcl_fast.methods.registry import with_new_names
from cgcl_fast.metrics import evaluation_of, style_evaluation_of, style_table, table
from cgcl_fast.metrics.comparison import higher_is_better, set_table
from cgcl_fast.networks.files import generator_bytes

DEFAULT_METHOD = "cgcl"


@dataclass
class RunOptions:
    """The run.

    Attributes:
        data: Folder with trainA, trainB, testA, testB, or with other names of the domains, or one folder a domain with
            train and test in it, or train and test with one folder a domain in them, or lists of files train_A.txt,
            train_B.txt. Without it: the built-in streets, sunny to night.
        output: Folder of the run, new; runs/METHOD if not given.
        init: Begin with the weights of another training: a run's folder or one of its files, or a published
            latest_net_G.pth, D and F beside it. Step, optimisers and options are new; the networks must be alike.
        direction: AtoB or BtoA: BtoA exchanges the domains of the data, for methods of two domains without names.
        steps: Length of the training in optimiser steps, instead of in epochs; the learning rate decays in the same
            part of them as it would of epochs and decay_epochs.
        epochs: Epochs at the full learning rate (cgl, cgcl: all epochs). The training is so long, and decay_epochs
            longer. The paper's number if not given.
        size: Side of the images in training (sincut: crop_size instead).
        load_size: Side to which images are resized before a random crop of size; if not given, 286/256 of size for
            resize_and_crop, else size.
        preprocess: resize_and_crop, scale_shortside_and_crop, scale_width_and_crop, crop, resize, scale_width or none,
            as in the published CUT and CycleGAN.
        flip: Flip half of the images horizontally.
        range: LOW HIGH, the numbers in the images that become -1 and 1. If not given, 0 to 255 for images of 8 bits;
            for others the least and the greatest number in (256 of) the training images of each domain.
        ranges: The same for each domain by the name of its folder, {A: {low: 0, high: 4095, type: uint16}, ...}; where
            it is not given it is what range or the images say. A run's config keeps it, and translate writes images
            accordingly.
        max_megapixels: Larger images are left out.
        limit: Use no more than this many images of each domain.
        batch_size: Images of each domain a step, in each process (sincut: minibatches of num_crops crops).
        accumulate: Batches that make one step, as one batch of all their images would, in the memory of one.
        seed: Of weights, data order and everything else that is random.
        save_every: Steps between checkpoints and sample grids; a tenth of the run, at most 1000, if not given.
        log_every: Steps between lines of log.jsonl and points in TensorBoard.
        eval_images: Test scenes whose translations are compared with the truth at every save, where it is known; 0 for
            none. Of methods with styles of references a quarter of them are translated in the styles of four
            references each, too.
        eval_every: Steps between comparisons of translations of all test images, as a set, with those of the target
            domain, as evaluate makes them; a multiple of save_every, which is as much if not given. None if not given.
        eval_metrics: Figures of those comparisons: lite0, fid, kid, is, precision; see evaluate.
        best_by: Figure of the checkpoint that is kept as the best: psnr/after, ssim/after, ... where the truth is
            known; frechet_lite0, fid, ... with eval_every.
        keep: Number of newest checkpoints that are kept (and the best, where the truth is known).
        workers: Processes that load data; if not given 4 beside a GPU, on a CPU 1 where PyTorch has several threads.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        graphs: auto replays each step on a GPU as one CUDA graph, which spares the host from issuing its kernels one by
            one, if there is one process and the precision is fp32 or bf16 (with --accumulate and --compile too); the
            result is the same. on demands that; off never does it.
        tf32: On GPUs that have it, multiply float32 as TF32, with 10 bits of mantissa, in convolutions and matrix
            products; false: with all 23 bits in both. It leaves bf16, fp16 and CPUs as they are.
        timeout: Seconds that the processes of a run wait for one that does not answer; the first one's saving and
            measuring must not take longer.
    """

    data: Path | None = None
    output: Path | None = None
    init: Path | None = None
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    steps: Count | None = None
    epochs: Count | None = None
    size: Side = 256
    load_size: Side | None = None
    preprocess: str = "resize_and_crop"
    flip: bool = True
    range: tuple[Level, Level] | None = None
    ranges: dict[str, dict[str, Any]] | None = None
    max_megapixels: Count = 179
    limit: Count | None = None
    batch_size: Count = 1
    accumulate: Count = 1
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    save_every: Count | None = None
    log_every: Count = 10
    eval_images: CountOrZero = 16
    eval_every: Count | None = None
    eval_metrics: EvalMetrics = ("lite0",)
    best_by: str = "psnr/after"
    keep: Count = 3
    workers: Annotated[int, Within(0, 1024)] | None = None
    device: str = "auto"
    precision: str = "fp32"
    graphs: str = "auto"
    tf32: bool = True
    timeout: Annotated[int, Within(1, 10**6)] = 900

    def __post_init__(self) -> None:
        check(self)
        processors = os.cpu_count() or 1
        most = max(16, 4 * processors)
        if self.workers is not None and self.workers > most:
            raise ValueError(f"workers: expected at most {most} beside {processors} processors, got {self.workers}")
        check_evaluations(self.eval_every, self.save_every, self.best_by)


def make_parser(method: str) -> Parser:
    """The options of a method: those of the run, and every field of its config under the field's name. Their defaults
    are the paper's."""
    parser = Parser(
        prog="python -m cgcl_fast.train",
        usage=f"python -m cgcl_fast.train [{{{','.join(METHODS)}}}] [--data DIR] [--output DIR] [options]",
        description=f"Options of {method}{' (the default)' if method == DEFAULT_METHOD else ''}. "
        "Names may be spelled with - or _.",
    )
    parser.add_argument("--config", type=Path, help="YAML file of options, as a run's config.yaml.")
    parser.add_argument(
        "--preset",
        choices=configs.PRESETS,
        help="Options that others override: the paper's full setting, or one small enough to show something on a "
        "laptop's CPU in minutes. Without it: paper with --data, small on the built-in streets.",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the run in --output, at its last checkpoint. "
        "With other data, size, batch size, learning rates or weights of losses it goes on in a new phase of the "
        "training, not bit for bit.",
    )
    parser.add_argument("--compile", action="store_true", help="Compile the networks with torch.compile.")
    parser.add_argument("--method", default=method, choices=sorted(METHODS), help="As METHOD; for config files.")
    parser.add_class_arguments(RunOptions, None, fail_untyped=False)
    parser.add_class_arguments(METHODS[method].Config, None, skip={"epochs"}, fail_untyped=False)
    parser.set_defaults(configs.read(method, "paper"))
    return parser


def split_method(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """METHOD is the one argument that is no option and no option's value: the first, or one after a flag or a value."""
    rest = list(arguments)
    for index, argument in enumerate(rest):
        before = rest[index - 1] if index else ""
        value = before.startswith("--") and "=" not in before and before not in ("--resume", "--compile")
        if not argument.startswith("-") and not value:
            if argument not in METHODS:
                raise UsageError(f"METHOD must be one of {', '.join(METHODS)}, got {argument!r}")
            return rest.pop(index), rest
    return None, rest


def read_options(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{path}: must hold options as 'name: value', got {type(found).__name__}")
    for name in ("method", "output"):
        if not isinstance(found.get(name, ""), str):
            raise UsageError(f"{path}: {name} must be a name, got {type(found[name]).__name__}")
    for name in ("config", "resume"):
        if name in found:
            raise UsageError(f"{path}: {name} is for the command line only")
    return with_new_names(found)


def with_epochs_of_now(saved: dict[str, Any], default: int) -> dict[str, Any]:
    """Options of a run, in which ``epochs`` may be those of the whole training: so it was before there was lr_policy,
    and the rate decayed in the part of them that decay_epochs were of ``default`` and those."""
    epochs, decay = saved.get("epochs"), saved.get("decay_epochs")
    if "lr_policy" in saved or not (isinstance(epochs, int) and isinstance(decay, int) and epochs > 0 <= decay):
        return saved
    decaying = round(epochs * decay / (default + decay))
    return {**saved, "epochs": max(1, epochs - decaying), "decay_epochs": decaying}


def resolve(arguments: Sequence[str]) -> Namespace:
    """All options: given ones over the config file over those of the resumed run or the preset over the paper's; and
    as "changed" what of a resumed run's begins a new phase of it.

    Raises:
        UsageError: a wrong option, or with ``--resume`` one that cannot change.
    """
    method, rest = split_method(underscored(arguments))
    # A first look, for the options that decide what the others are and what their defaults are.
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--config", type=Path)
    look.add_argument("--output", type=Path)
    look.add_argument("--resume", action="store_true")
    try:
        first, _ = look.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UsageError(one_line(error)) from error
    from_file: dict[str, Any] = {}
    if first.config is not None:
        from_file = read_options(first.config)
        method = method or from_file.get("method")
        first.output = first.output or from_file.get("output")
    output = Path(first.output or Path("runs") / (method or DEFAULT_METHOD))

    saved: dict[str, Any] = {}
    if first.resume:
        if not (output / "config.yaml").exists():
            raise UsageError(f"--resume: {output} holds no run to resume (no config.yaml)")
        saved = read_options(output / "config.yaml")
        if method is not None and saved.get("method") != method:
            raise UsageError(f"--resume: {output} holds a run of {saved.get('method')}, not of {method}")
        method = saved.get("method")
    method = method or DEFAULT_METHOD
    if method not in METHODS:
        raise UsageError(f"METHOD must be one of {', '.join(METHODS)}, got {method!r}")
    saved = with_epochs_of_now(saved, METHODS[method].Config().epochs)

    parser = make_parser(method)
    in_file = parser.parse_object(from_file, defaults=False).as_dict()
    lists = lists_of(METHODS[method].Config) | lists_of(RunOptions)
    in_line = parser.parse_args(bracketed(rest, lists), defaults=False).as_dict()
    given = {**in_file, **in_line}
    given.pop("config", None)
    if given.get("method", method) != method:
        raise UsageError(f"the config file is for {given['method']}, not for {method}")
    if in_line.get("epochs") is not None:
        if in_line.get("steps") is not None:
            raise UsageError("--steps and --epochs exclude each other")
        given["steps"] = None
    if saved and given.get("init") is not None:
        raise UsageError("--resume and --init exclude each other: one goes on with a run, the other starts a new one")
    if saved and "preset" in given:
        raise UsageError(f"--resume: the run in {output} goes on with its own options, not with a preset's")
    if not saved:
        given.setdefault("preset", "paper" if given.get("data") else "small")
    base = saved or configs.read(method, given["preset"])
    if saved and isinstance(saved.get("ranges"), dict) and isinstance(given.get("ranges"), dict):
        given["ranges"] = with_ranges_of(saved["ranges"], given["ranges"])
    if given.get("epochs") is not None:  # of a preset's or a run's steps nothing is left
        given.setdefault("steps", None)
    options = parser.parse_object({**base, **given, "output": str(output)})
    if saved:
        before = parser.parse_object({**saved, "output": str(output)})
        options.changed = _resume.changes(before.as_dict(), options.as_dict(), given.keys() - {"resume"})
    return options


def with_ranges_of(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The ranges of a run, and those of them that are given in its place: the same ones in other words are the run's.

    Raises:
        UsageError: what is given is no range.
    """
    try:
        before, now = values_from_dict(saved), values_from_dict(given)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    return saved if before == {**before, **now} else {**saved, **given}


TRANSIENT = ("changed", "config", "preset", "resume")
"""Of one start of a run, not of the run."""


def save_config(options: Namespace, folder: Path) -> None:
    """``config.yaml``: every option with its value, in the form that ``--config`` reads."""
    values = {name: value for name, value in options.as_dict().items() if name not in TRANSIENT}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    text = yaml_text(json.loads(json.dumps(plain)))
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))


def train(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    logger = logging.getLogger("cgcl_fast")
    # What the data layer says of unreadable files goes to stderr and, once there is a run folder, into train.log.
    early = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    logger.addHandler(early)
    on_stderr = logging.StreamHandler()
    on_stderr.setFormatter(LineFormatter())
    logger.addHandler(on_stderr)
    try:
        options = resolve(arguments)
        with ExitStack() as entered:
            return _train(options, early, entered)
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()


def _train(options: Namespace, early: logging.handlers.MemoryHandler, entered: ExitStack) -> int:
    kind, output = METHODS[options.method], options.output
    with as_usage_error():
        RunOptions(**{field.name: options[field.name] for field in fields(RunOptions)})  # checks them
        if "domains" in options and not options.domains:
            options.domains = find_domains(options.data)
        values = {f.name: options[f.name] for f in fields(kind.Config)}
        config = kind.Config(**{n: value for n, value in values.items() if n != "epochs" or value is not None})
        if options.direction == "BtoA" and kind.named_domains:
            raise UsageError(
                f"direction: {options.method} learns all ways between its domains; translate takes --domain NAME"
            )
        check_networks(kind, config)
        needs = kind.needs(config)
        accelerator = make_accelerator(
            device=options.device,
            precision=options.precision,
            accumulate=options.accumulate,
            timeout=options.timeout,
        )
        without_graphs = obstacle(options.graphs, accelerator)
        if output.exists() and not output.is_dir():
            raise UsageError(f"--output: {output} is no folder")
        used: list[Any] = [None]
        if accelerator.is_main_process:  # before anything in the folder is read
            try:
                entered.enter_context(alone_in(output))
            except OSError as error:
                used = [f"--output: {one_line(error)}"]
        if broadcast_object_list(used)[0] is not None:
            raise UsageError(used[0])
        rank, world = accelerator.process_index, accelerator.num_processes
        checkpoints = output / "checkpoints"
        if not options.resume and any(checkpoints.glob("step_*.pt")):
            raise UsageError(f"--output: {output} already holds a run: go on with --resume, or name another folder")
        if options.size < needs.multiple:  # not to be rounded to 256 pixels where 64 were asked for
            raise ValueError(f"size: expected at least {needs.multiple} for these networks, got {options.size}")
        domains = getattr(config, "domains", kind.domains)
        dataset = open_dataset(
            options.data,
            domains=domains,
            needs=needs,
            size=options.size,
            load_size=options.load_size,
            preprocess=options.preprocess,
            flip=options.flip,
            limit=options.limit,
            seed=options.seed,
            direction=options.direction,
            readings=readings_of(options, domains, channels_of(config)),
            span=options.range,
        )
        options.ranges = values_to_dict(by_folder(dataset.values, options.direction)) or None
        sizes = dataset.check_sizes(config.least_size(), options.batch_size)
        check_image(dataset[0], config)
        on_gpu = accelerator.device.type == "cuda"
        torch.backends.cudnn.benchmark = on_gpu and sizes <= MOST_KINDS  # each new size is tried out anew
        if on_gpu:  # the same switch is for CPUs too
            set_tf32(options.tf32)
        loader = build_loader(
            dataset,
            batch_size=options.batch_size,
            seed=options.seed,
            num_workers=default_workers(on_gpu) if options.workers is None else options.workers,
            pin_memory=on_gpu,
            rank=rank,
            replicas=world,
        )
        sample_batch = dataset.sample_batch()
        measures = options.eval_images > 0 and accelerator.is_main_process
        evaluation = evaluation_of(dataset, options.eval_images) if measures else None
        sets = None
        if options.eval_every and accelerator.is_main_process:
            sets = set_evaluation_of(options.as_dict(), dataset, options.eval_metrics, accelerator.device)
        seed_all(options.seed)  # the same weights in every process
        method = kind(config)
        taken = "" if options.init is None or options.resume else take_weights(method, options.init)
        styles = style_evaluation_of(dataset, method, options.eval_images) if measures else None
        seed_all(options.seed + rank)

    stage, phase, found = Stage(options.accumulate), "", None
    if options.resume:
        found = newest_checkpoint(checkpoints)
        stage, phase = stage_to_go_on(options, found, loader.state_dict())
    with as_usage_error():
        decay_epochs = getattr(config, "decay_epochs", 0)
        whole = options.steps or max(1, (config.epochs + decay_epochs) * len(loader) // options.accumulate)
        ahead = 0 if options.steps else stage.ahead(len(loader))
        course = Course(whole, config.epochs, decay_epochs, getattr(config, "warmup_epochs", 0), ahead)
        steps = course.own_steps
        schedule = method.schedule(steps) or course.schedule(policy=config.lr_policy, interval=config.lr_interval)
        if needs.full_view_in_decay:
            in_stage = (course.full_steps - stage.step) * options.accumulate
            loader.sampler.full_view_from = stage.epoch * len(loader) + in_stage
        output.mkdir(parents=True, exist_ok=True)
        check_regular(output / "train.log", missing_ok=True)
    if accelerator.is_main_process:
        file = logging.FileHandler(output / "train.log", encoding="utf-8")
        file.setFormatter(LineFormatter())
        logging.getLogger("cgcl_fast").addHandler(file)
        early.setTarget(file)
        early.flush()
        logging.getLogger("cgcl_fast").removeHandler(early)
        save_config(options, output)
        describe(options, method, dataset, course, accelerator.device, without_graphs)
        for line in filter(None, (taken, phase)):
            logging.getLogger("cgcl_fast").warning(line)

    forth = None if kind.named_domains else options.direction
    back = None if kind.backward_name is None else getattr(method, kind.backward_name)
    trainer = Trainer(
        method,
        loader,
        output,
        Options(
            steps=steps,
            save_every=options.save_every or options.eval_every or max(1, min(1000, steps // 10)),
            log_every=options.log_every,
            keep=options.keep,
            precision=options.precision,
            accumulate=options.accumulate,
            ahead=ahead,
            compile=options.compile,
            graphs=options.graphs,
        ),
        schedule=schedule,
        sample_batch=sample_batch,
        config={
            "method": options.method,
            "config": asdict(config),
            "direction": options.direction,
            "ranges": options.ranges,
        },
        generator_file=partial(generator_bytes, ranges=options.ranges, direction=forth),
        backward_file=None
        if back is None
        else lambda: generator_bytes(back, options.ranges, direction=OTHER_WAY[options.direction]),
        stage=stage,
        found=found,
        evaluate=lambda method: {
            name: value
            for each in (evaluation, styles, sets if is_due(trainer.step, steps, options.eval_every) else None)
            if each is not None
            for name, value in each(method).items()
        },
        best=options.best_by,
        least=higher_is_better(options.best_by) is False,
        accelerator=accelerator,
    )
    del found  # the trainer lets go of it once it has taken it up
    try:
        outcome = trainer.fit(resume=options.resume)
    except LoaderError as error:
        raise LoaderError(f"{error}; --resume goes on from it") from error
    if accelerator.is_main_process:
        hung_up = outcome.signal == getattr(signal, "SIGHUP", 0)  # there may be nobody left to tell
        with suppress(*([OSError] if hung_up else [])):
            report(outcome, steps, output)
            if outcome.figures and evaluation is not None:
                print(table(outcome.figures, evaluation.scenes))
            if outcome.figures and styles is not None:
                print(style_table(outcome.figures, styles))
            if outcome.figures and sets is not None:
                print(set_table(outcome.figures))
    return 0 if outcome.signal is None else 128 + outcome.signal


def by_folder(values: Mapping[str, Values], direction: str) -> dict[str, Values]:
    """What is of the domains of a data set that was opened with ``direction`` as of the folders' names, or the other
    way round."""
    if direction == "AtoB":
        return dict(values)
    return {domain: values[other] for domain, other in (("A", "B"), ("B", "A")) if other in values}


def readings_of(options: Namespace, domains: Sequence[str], channels: tuple[int, int]) -> dict[str, Reading]:
    """How the images of each domain are read, the first with the first number of channels; of A and B as they
    are after ``direction`` has exchanged them."""
    stated = values_from_dict(options.ranges or {})
    if options.range is not None and options.data is None:
        raise ValueError(f"range: the built-in streets are photographs of 8 bits, got {options.range}")
    if unknown := stated.keys() - set(domains):
        raise ValueError(f"ranges: expected domains among {', '.join(domains)}, got {', '.join(sorted(unknown))}")
    stated = by_folder(stated, options.direction)
    most = options.max_megapixels * 10**6
    return {
        domain: Reading(channels[0 if number == 0 else 1], stated.get(domain), most)
        for number, domain in enumerate(domains)
    }


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that ``--resume`` goes on from, and its file.

    Raises:
        UsageError: there is none.
        CheckpointError: none can be read.
    """
    try:
        return Checkpoints(folder).newest()
    except FileNotFoundError as error:
        raise UsageError(f"--resume: {error}; start without --resume") from error


def stage_to_go_on(options: Namespace, found: tuple[Path, dict[str, Any]], loader: dict[str, int]) -> tuple[Stage, str]:
    """The stage that a resumed run goes on with, and what is to be said if it is a new phase of the training.

    Raises:
        CheckpointError: the checkpoint is of something else.
    """
    path, state = found
    try:
        stage = next_stage(state, loader, options.accumulate)
        left_out = stage != stage_in(state, options.accumulate)
    except Exception as error:  # what is in a file of another program, or a changed one, fails in many ways
        raise does_not_fit(path, error) from error
    return stage, _resume.said(options.changed, state["step"], left_out)


def default_workers(on_gpu: bool) -> int:
    """Beside a GPU, enough to keep it fed; on a CPU one, since what prepares a batch is Python on one thread, for which
    the others would wait; none where there is but one thread to share."""
    return 4 if on_gpu else int(torch.get_num_threads() > 1)


def describe(
    options: Namespace,
    method: Method,
    dataset: UnpairedDataset,
    course: Course,
    device: torch.device,
    without_graphs: str | None,
) -> None:
    """What is about to happen, on stdout."""
    if options.data is None:
        ways = {"AtoB": "sunny to night", "BtoA": "night to sunny"}
        domains = ", ".join(options.domains) if "domains" in options else ways[options.direction]
        print(f"no --data: built-in streets, {domains}")
    else:
        print(*dataset.summary(), sep="\n")
    if options.preset == "small":
        small = configs.read(options.method, "small")
        chosen = " ".join(f"{name}={options[name]}" for name in small if options[name] is not None)
        print(f"small preset (any option overrides it; --preset paper is the full setting): {chosen}")
    for domain, values in values_from_dict(options.ranges or {}).items():
        if values != PHOTOGRAPH:
            print(f"domain {domain}: images of {values.type}, {values.low:g} to {values.high:g} become -1 to 1")
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    precision = options.precision
    if device.type == "cuda":
        precision += ", float32 multiplied " + ("as TF32" if options.tf32 else "in full")
    what = "images" if type(method).needs(method.config).crops is None else "minibatches of crops"
    print(
        f"{options.method}: {parameters / 1e6:.3f} M parameters, {len(dataset)} {what} an epoch, "
        f"{course.own_steps} steps on {device}, {precision}; run folder {printable(options.output)}",
        flush=True,
    )
    if isinstance(method.config, DecayingConfig):
        rising = f"rises until step {course.start_of(course.warmup_epochs)}, " if course.warmup_epochs else ""
        decays = method.config.lr_policy == "linear" and course.full_steps < course.own_steps
        full = f"is full until step {course.full_steps}, then decays to zero" if decays else "is constant"
        print(f"learning rate: {rising}{full}", flush=True)
    if device.type == "cuda":
        graphs = "each step is one CUDA graph, all of it"
        print(graphs if without_graphs is None else f"no CUDA graphs: {without_graphs}", flush=True)


def report(outcome: Outcome, steps: int, output: Path) -> None:
    """Where the results are, on stdout."""
    folder = printable(output)
    if outcome.signal is not None:
        print(f"stopped at step {outcome.step} of {steps} and saved; --resume --output {folder} goes on")
    elif outcome.grid is None:
        print(f"nothing to do: this run is at step {outcome.step}; --steps N with more steps goes on")
    if outcome.grid is not None:
        print(f"sample grid: {printable(outcome.grid)}")
    print(f"checkpoint: {printable(str(outcome.checkpoint))}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run(train, arguments)


if __name__ == "__main__":
    sys.exit(main())
