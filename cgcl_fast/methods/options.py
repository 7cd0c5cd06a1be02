"""What options may be: a field's type says its range, and one check asks all fields of an options class for theirs::

    @dataclass
    class CUTConfig(Config):
        lambda_x: Weight = 1.0        # CUTConfig(lambda_x=-1) is a ValueError, "lambda_x: expected a number from 0 ..."

The ranges exclude what cannot work. Upper bounds are far above sensible values; they only prevent overflow and running
out of memory. The restricted types of jsonargparse act in its parser only, but configs are also made in programs.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Within:
    """A range of numbers.

    Args:
        low, high: the ends.
        without: the end that is excluded, if any.
    """

    low: float
    high: float
    without: float | None = None

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high and value != self.without  # NaN is in no range

    def __str__(self) -> str:
        low, high = (f"{end:g}" if isinstance(end, float) else f"{end}" for end in (self.low, self.high))
        if self.without == self.low:
            return f"above {low} and at most {high}"
        return f"from {low} to {'below ' if self.without == self.high else ''}{high}"


class Distinct:
    """Non-empty names without duplicates."""

    def __contains__(self, value: Any) -> bool:
        return all(value) and len(set(value)) == len(value)

    def __str__(self) -> str:
        return "different names"


Count = Annotated[int, Within(1, 10**9)]
CountOrZero = Annotated[int, Within(0, 10**9)]
"""A count for which 0 has a meaning."""
Side = Annotated[int, Within(1, 8192)]
"""In pixels."""
Channels = Annotated[int, Within(1, 4096)]
Rows = Annotated[int, Within(1, 2**20)]
"""Of a table kept in memory."""
Depth = Annotated[int, Within(1, 16)]
"""Of networks in which each layer halves the size."""
Halvings = Annotated[int, Within(1, 2)]
Blocks = Annotated[int, Within(0, 256)]
Layers = tuple[Annotated[int, Within(0, 4096)], ...]
Names = Annotated[tuple[str, ...], Distinct()]
ClassNames = Annotated[tuple[str | int, ...], Distinct()]
"""Names that are numbers, such as INIT's classes, may be integers; options hold them as text."""

Weight = Annotated[float, Within(0, 1e30)]
"""Of a loss; 0 leaves it out. Excessive weights show when the loss is no longer finite."""
Rate = Annotated[float, Within(0, 1e30)]
"""Learning rate; 0 leaves a network unchanged."""
Scale = Annotated[float, Within(0, 1e6)]
Positive = Annotated[float, Within(0, 1e6, without=0)]
Oversample = Annotated[float, Within(1, 1e6)]
Temperature = Annotated[float, Within(1e-6, 1e6)]
Share = Annotated[float, Within(0, 1)]
Level = Annotated[float, Within(-1e38, 1e38)]
"""A pixel value."""
Adversary = Literal["lsgan", "nonsaturating", "vanilla", "hinge", "wgan"]
PatchNetwork = Literal["n_layers", "pixel"]
"""Discriminators, by their published names."""
NormName = Literal["instance", "batch", "none"]
InitType = Literal["xavier", "normal", "kaiming", "orthogonal"]
Beta = Annotated[float, Within(0, 1, without=1)]
"""Of Adam."""


class Config:
    """Base of the methods' options: rejects values out of range."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            if kind is ClassNames:
                setattr(self, name, _with_names(getattr(self, name)))
        check(self)

    def least_size(self) -> int:
        """The smallest side in pixels that a step's images may have."""
        return 1


@dataclass(kw_only=True)
class DecayingConfig(Config):
    """Base of the options of methods that train ``epochs`` at the full learning rate, then ``decay_epochs`` of decay.

    Args:
        warmup_epochs: epochs at the beginning in which the learning rate rises to its full value, part of ``epochs``;
            EnCo's authors use 20.
        lr_policy: "linear" decay to zero, or "constant": the full learning rate in the epochs of decay, too.
        lr_interval: the learning rate changes with each "step", or, as in the published CUT, CycleGAN and EnCo, at the
            end of an "epoch".
    """

    warmup_epochs: CountOrZero = 0
    lr_policy: Literal["linear", "constant"] = "linear"
    lr_interval: Literal["step", "epoch"] = "step"


def check(options: Any) -> None:
    """Check all fields of a dataclass against their types: numbers in their ranges, never NaN; known names. A list is
    accepted for a tuple, and an integer for a float.

    Raises:
        ValueError: one line with the field, what was expected and what came.
    """
    types = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        if not _fits(value, types[field.name]):
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise ValueError(f"{field.name}: expected {expected(types[field.name])}, got {shown}")


def lists_of(kind: type) -> set[str]:
    """Names of the dataclass fields that are tuples of any length."""
    names = set()
    for name, annotation in get_type_hints(kind).items():
        if get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis:
            names.add(name)
    return names


def _with_names(values: Any) -> Any:
    """``values`` with integers as text, if it is a list or tuple."""
    if not isinstance(values, (list, tuple)):
        return values
    return type(values)(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values)


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, arguments[0]) and value in arguments[1]
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(each, arguments[0]) for each in value)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def expected(kind: Any, many: bool = False) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        rule = str(arguments[1])
        return rule if arguments[0] not in (int, float) else f"{expected(arguments[0], many)} {rule}"
    if origin in (Union, UnionType):
        return " or ".join(expected(each, many) for each in arguments)
    if origin is Literal:
        return ", ".join(map(repr, arguments[:-1])) + " or " * (len(arguments) > 1) + repr(arguments[-1])
    if origin is tuple:
        return expected(arguments[0], many=True)
    if kind is NoneType:
        return "none"
    one, several = {int: ("an integer", "integers"), float: ("a number", "numbers")}.get(kind, (kind.__name__,) * 2)
    return several if many else one
