"""Which options ``train --resume`` may change: those that leave the training as it is, those that start a new phase of
it, and not those that define the networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch

from cgcl_fast._command import UsageError
from cgcl_fast.data.formats import printable
from cgcl_fast.methods import METHODS, Method

EXACT = frozenset(
    (
        "best_by", "compile", "decay_epochs", "device", "ema_decay", "epochs", "eval_every", "eval_images",
        "eval_metrics", "graphs", "keep", "log_every", "output", "resume", "save_every", "steps", "timeout", "workers",
    )
)  # fmt: skip
"""Options whose change leaves every step bit for bit the same (only the number of steps may differ)."""

FIXED = frozenset(
    (
        "antialias", "antialias_up", "beta1", "beta2", "classes", "direction", "domains", "init", "init_gain",
        "init_type", "items", "method", "nce_layers", "networks", "norm_d", "norm_g", "pool_size", "range", "ranges",
        "scales", "weight_decay",
    )
)  # fmt: skip
"""Options that define the meaning of the weights, or of Adam's averages of them, or that are only read at the
beginning.

``range`` and ``ranges`` define the numbers that the networks have learned; the run's are kept when it continues with
other data. Only a run without them (on the streets, or an old one) accepts new ones.
"""

_OF_NUMBERS = ("range", "ranges")


def changes(before: Mapping[str, Any], options: Mapping[str, Any], given: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """The options that start a new phase of a training: name -> (old value, new value).

    Args:
        before: the options of the run.
        options: those to continue with.
        given: names of those given explicitly.

    Raises:
        UsageError: one of them cannot change within a run.
    """
    changed = {name: (before[name], options[name]) for name in sorted(given) if before[name] != options[name]}
    kind = METHODS[options["method"]]
    of_method = {field.name for field in fields(kind.Config)}
    fixed = FIXED if before.get("ranges") else FIXED.difference(_OF_NUMBERS)
    for name, (old, new) in changed.items():
        if name in fixed or (name in of_method and not _same_networks(kind, before, name, new)):
            raise UsageError(
                f"--resume: {name} is {old} in this run and cannot become {new}; --init {printable(before['output'])} "
                "--output NEW starts a new training with its weights, where they fit"
            )
    return {name: pair for name, pair in changed.items() if name not in EXACT}


def _same_networks(kind: type[Method], before: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a method's weights and state keep their names and shapes if one option changes."""
    old = {field.name: before[field.name] for field in fields(kind.Config) if field.name != "epochs"}
    try:
        with torch.device("meta"):
            states = [kind(kind.Config(**options)).state_dict() for options in (old, {**old, name: value})]
    except ValueError:
        return True  # out of range: the error about that is clearer
    shapes = [{key: getattr(value, "shape", None) for key, value in state.items()} for state in states]
    return shapes[0] == shapes[1]


def said(changed: Mapping[str, tuple[Any, Any]], step: int, left_out: bool) -> str:
    """One line about a new phase; empty if there is none.

    Args:
        left_out: whether the order of the data starts anew with the next epoch.
    """
    if not changed and not left_out:
        return ""
    listed = ", ".join(f"{name} from {_shown(old)} to {_shown(new)}" for name, (old, new) in changed.items())
    return (
        f"a new phase of training from step {step}: {listed or 'other images'}; weights and optimisers go on, but not "
        f"bit for bit as an uninterrupted run{', and with the next epoch' if left_out else ''}"
    )


def _shown(value: Any) -> str:
    return "its default" if value is None else printable(str(value))
