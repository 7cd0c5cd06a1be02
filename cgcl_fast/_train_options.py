"""The options of ``train``: from the command line, files and presets, with their checks."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonargparse import Namespace

from cgcl_fast import _resume, configs
from cgcl_fast._command import Parser, UsageError, as_usage_error, bracketed, one_line, underscored
from cgcl_fast._judged import EvalMetrics, check_evaluations
from cgcl_fast._renamed import new_name
from cgcl_fast._yaml import read_yaml, yaml_text
from cgcl_fast.data import find_domains
from cgcl_fast.data.values import values_from_dict
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods import METHODS, Method
from cgcl_fast.methods.base import check_networks
from cgcl_fast.methods.options import Count, CountOrZero, Level, Side, Within, check, lists_of
from cgcl_fast.methods.registry import with_new_names

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
            latest_net_G.pth, D and F beside it, or of a generator's folder of cgcl_fast.hub or its name on the Hugging
            Face Hub. Step, optimisers and options are new; the networks must be alike.
        direction: AtoB or BtoA: BtoA exchanges the domains of the data, for methods of two domains without names.
        steps: Length of the training in optimiser steps instead of epochs. The decay of the learning rate keeps the
            proportion given by epochs and decay_epochs.
        epochs: Epochs at the full learning rate (cgl, cgcl: all epochs), before decay_epochs more. By default as in the
            paper.
        size: Side of the images in training (sincut: crop_size instead).
        load_size: Side to which images are resized before a random crop of size; by default 286/256 of size for
            resize_and_crop, else size.
        preprocess: resize_and_crop, scale_shortside_and_crop, scale_width_and_crop, crop, resize, scale_width or none,
            as in the published CUT and CycleGAN.
        flip: Flip half of the images horizontally.
        range: LOW HIGH, the numbers in the images that map to -1 and 1. By default 0 to 255 for 8-bit images; for
            others the smallest and the largest number in (256 of) the training images of each domain.
        ranges: The same per domain, by the name of its folder, {A: {low: 0, high: 4095, type: uint16}, ...}; missing
            ones are as for range. A run's config keeps it, and translate writes images accordingly.
        max_megapixels: Larger images are left out.
        limit: Use no more than this many images of each domain.
        batch_size: Images of each domain a step, in each process (sincut: minibatches of num_crops crops).
        accumulate: Batches that make one step, as one batch of all their images would, in the memory of one.
        ema_decay: Decay of the exponential moving average (EMA) of the generator's weights, such as 0.999. Sample
            grids, figures and saved generators are of the average then, and translate, evaluate and export take it. 0,
            as in the papers: no average.
        seed: Of weights, data order and everything else that is random.
        save_every: Steps between checkpoints and sample grids; a tenth of the run, at most 1000, if not given.
        log_every: Steps between lines of log.jsonl and points in TensorBoard.
        eval_images: Test scenes whose translations are compared with the truth at every save, if it is known; 0 for
            none. For methods with styles of references, a quarter of them are also translated in the styles of four
            references each.
        eval_every: Steps between evaluations of all translated test images as a set, against those of the target
            domain, as by evaluate. A multiple of save_every, which by default is equal to it. By default none.
        eval_metrics: Metrics of those evaluations: lite0, fid, kid, is, precision; see evaluate.
        best_by: Metric that decides which checkpoint is kept as the best: psnr/after, ssim/after, ... if the truth is
            known; frechet_lite0, fid, ... with eval_every.
        keep: Number of newest checkpoints to keep (and the best, if the truth is known).
        workers: Processes that load data; by default 4 beside a GPU, and on a CPU 1 if PyTorch has several threads.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
        graphs: auto replays each step on a GPU as one CUDA graph, which saves the host from launching kernels one by
            one, for one process in fp32 or bf16 (also with --accumulate and --compile); the result is the same. on
            requires it; off never does it.
        tf32: On GPUs that support it, multiply float32 as TF32, with 10 bits of mantissa, in convolutions and matrix
            products; false: with all 23 bits in both. No effect on bf16, fp16 and CPUs.
        timeout: Seconds that the processes of a run wait for each other; saving and measuring by the first process must
            not take longer.
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
    ema_decay: Annotated[float, Within(0, 1, without=1)] = 0.0
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
    """The parser of a method's options: those of the run, and every field of its config under the field's name.
    Defaults are the paper's."""
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
    """Split off METHOD: the only argument that is neither an option nor an option's value, at the beginning or after a
    flag or a value.

    Not a jsonargparse subcommand, which cannot be omitted, come after options, or come from a config file.
    """
    rest = list(arguments)
    for index, argument in enumerate(rest):
        before = rest[index - 1] if index else ""
        value = before.startswith("--") and "=" not in before and before not in ("--resume", "--compile")
        if not argument.startswith("-") and not value:
            if argument not in METHODS:
                raise UsageError(f"METHOD must be one of {', '.join(METHODS)}, got {argument!r}")
            return rest.pop(index), rest
    return None, rest


def _with_new_names(arguments: Sequence[str]) -> list[str]:
    """Options of the command line under their present names."""
    return [
        f"--{new_name(name)}{equals}{value}" if argument.startswith("--") else argument
        for argument in arguments
        for name, equals, value in [argument.removeprefix("--").partition("=")]
    ]


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
    try:
        return with_new_names(found)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def with_epochs_of_now(saved: dict[str, Any], default: int) -> dict[str, Any]:
    """Options of a run in today's form. In runs from before lr_policy, ``epochs`` is the whole training, of which the
    learning rate decays in the share that decay_epochs has of ``default`` plus decay_epochs."""
    epochs, decay = saved.get("epochs"), saved.get("decay_epochs")
    if "lr_policy" in saved or not (isinstance(epochs, int) and isinstance(decay, int) and epochs > 0 <= decay):
        return saved
    decaying = round(epochs * decay / (default + decay))
    return {**saved, "epochs": max(1, epochs - decaying), "decay_epochs": decaying}


@dataclass(frozen=True)
class _Look:
    """What decides which options exist, and their values if not given.

    Attributes:
        method: its name.
        output: the run's folder.
        from_file: options of the config file.
        saved: options of the run to continue; empty for a new one.
    """

    method: str
    output: Path
    from_file: dict[str, Any]
    saved: dict[str, Any]


def _look_at(method: str | None, arguments: Sequence[str]) -> _Look:
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--config", type=Path)
    look.add_argument("--method")
    look.add_argument("--output", type=Path)
    look.add_argument("--resume", action="store_true")
    try:
        first, _ = look.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(one_line(error)) from error
    if method and first.method and first.method != method:
        raise UsageError(f"--method: expected METHOD, {method}, got {first.method}")
    from_file = {} if first.config is None else read_options(first.config)
    method = method or first.method or from_file.get("method")
    output = Path(first.output or from_file.get("output") or Path("runs") / (method or DEFAULT_METHOD))
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
    return _Look(method, output, from_file, with_epochs_of_now(saved, METHODS[method].Config().epochs))


def resolve(arguments: Sequence[str]) -> Namespace:
    """All options. Precedence: command line, config file, resumed run or preset, paper defaults. "changed" holds the
    options that start a new phase of a resumed run.

    Raises:
        UsageError: a wrong option, or with ``--resume`` one that cannot change.
    """
    method, rest = split_method(_with_new_names(underscored(arguments)))
    look = _look_at(method, rest)
    parser, saved, output = make_parser(look.method), look.saved, look.output
    in_file = parser.parse_object(look.from_file, defaults=False).as_dict()
    lists = lists_of(METHODS[look.method].Config) | lists_of(RunOptions)
    in_line = parser.parse_args(bracketed(rest, lists), defaults=False).as_dict()
    given = {**in_file, **in_line}
    given.pop("config", None)
    _check_together(look, given, in_line)
    if in_line.get("epochs") is not None:
        given["steps"] = None
    if not saved:
        given.setdefault("preset", "paper" if given.get("data") else "small")
    base = saved or configs.read(look.method, given["preset"])
    if isinstance(saved.get("ranges"), dict) and isinstance(given.get("ranges"), dict):
        given["ranges"] = with_ranges_of(saved["ranges"], given["ranges"])
    if given.get("epochs") is not None:  # discards the steps of a preset or run
        given.setdefault("steps", None)
    options = parser.parse_object({**base, **given, "output": str(output)})
    if saved:
        before = parser.parse_object({**saved, "output": str(output)})
        options.changed = _resume.changes(before.as_dict(), options.as_dict(), given.keys() - {"resume"})
    return options


def _check_together(look: _Look, given: Mapping[str, Any], in_line: Mapping[str, Any]) -> None:
    """Check that the given options fit the method and the run to continue."""
    if given.get("method", look.method) != look.method:
        raise UsageError(f"the config file is for {given['method']}, not for {look.method}")
    if in_line.get("epochs") is not None and in_line.get("steps") is not None:
        raise UsageError("--steps and --epochs exclude each other")
    if look.saved and given.get("init") is not None:
        raise UsageError("--resume and --init exclude each other: one goes on with a run, the other starts a new one")
    if look.saved and "preset" in given:
        raise UsageError(f"--resume: the run in {look.output} goes on with its own options, not with a preset's")


def with_ranges_of(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The ranges of a run, with given ones in their place; a given range equal to the run's counts as unchanged.

    Raises:
        UsageError: an invalid range.
    """
    try:
        before, now = values_from_dict(saved), values_from_dict(given)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    return saved if before == {**before, **now} else {**saved, **given}


@dataclass(frozen=True)
class Start:
    """One start of a run: its options, each valid by itself.

    Attributes:
        method: its name.
        output: the run's folder.
        run: the options of the run.
        config: those of the method.
        resume: continue the run.
        compile: compile the networks.
        preset: the preset that the options modify; none when resuming.
        changed: options that start a new phase of the run, with old and new values.
        plain: all options as given, as saved in ``config.yaml``.
    """

    method: str
    output: Path
    run: RunOptions
    config: Any
    resume: bool = False
    compile: bool = False
    preset: str | None = None
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    plain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> type[Method]:
        return METHODS[self.method]


def read_start(arguments: Sequence[str]) -> Start:
    """Read a start of a run from its command line.

    Raises:
        UsageError: a wrong option, or one that does not fit the others.
    """
    options = resolve(arguments)
    with as_usage_error():
        run = RunOptions(**{field.name: options[field.name] for field in fields(RunOptions)})
        if "domains" in options and not options.domains:
            options.domains = find_domains(run.data)
        config = config_of(options)
        kind = METHODS[options.method]
        if run.direction == "BtoA" and kind.named_domains:
            raise UsageError(
                f"direction: {options.method} learns all ways between its domains; translate takes --domain NAME"
            )
        check_networks(kind, config)
    return Start(
        method=options.method,
        output=options.output,
        run=run,
        config=config,
        resume=options.resume,
        compile=options.compile,
        preset=options.get("preset"),
        changed=options.get("changed", {}),
        plain={name: value for name, value in options.as_dict().items() if name not in TRANSIENT},
    )


def config_of(options: Namespace) -> Any:
    """A method's config from the options; epochs default to the config's own.

    Raises:
        ValueError: an option out of range, or one that does not fit the others.
    """
    kind = METHODS[options.method].Config
    values = {field.name: options[field.name] for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name != "epochs" or value is not None})


TRANSIENT = ("changed", "config", "preset", "resume")
"""Options of one start of a run, not of the run itself."""


def save_config(plain: Mapping[str, Any], folder: Path) -> None:
    """Write ``config.yaml``: every option with its value, in the form that ``--config`` reads."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
    text = yaml_text(json.loads(json.dumps(values)))
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
