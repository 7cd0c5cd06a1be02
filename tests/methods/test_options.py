"""Ranges of options: every number has one, and values outside are rejected by name, by configs and commands alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from cgcl_fast._train_options import RunOptions
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.options import Config, Names, Within, check
from cgcl_fast.translate import TranslateOptions

OPTIONS = {**{name: kind.Config for name, kind in METHODS.items()}, "run": RunOptions, "translation": TranslateOptions}
HOSTILE = (math.nan, math.inf, -math.inf, -1, 0, 10**30, 10**400, 1e300, "x", True, None, [], [[]], {})


@dataclass
class Some(Config):
    count: Annotated[int, Within(1, 9)] = 1
    share: Annotated[float, Within(0, 1.0, without=1)] = 0.5
    above: Annotated[float, Within(0, 1e6, without=0)] = 0.5
    maybe: Annotated[int, Within(0, 3)] | None = None
    either: Annotated[int, Within(1, 3)] | Literal["all"] = "all"
    layers: tuple[Annotated[int, Within(0, 5)], ...] = ()
    names: Names = ()
    kind: Literal["a", "b"] = "a"
    flag: bool = False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 0}, "count: expected an integer from 1 to 9, got 0"),
        ({"count": 2.0}, "count: expected an integer from 1 to 9, got 2.0"),
        ({"count": True}, "count: expected an integer from 1 to 9, got True"),
        ({"share": 1.0}, "share: expected a number from 0 to below 1, got 1.0"),
        ({"share": math.nan}, "share: expected a number from 0 to below 1, got nan"),
        ({"above": 0}, "above: expected a number above 0 and at most 1e\\+06, got 0"),
        ({"maybe": 4}, "maybe: expected an integer from 0 to 3 or none, got 4"),
        ({"either": "some"}, "either: expected an integer from 1 to 3 or 'all', got 'some'"),
        ({"layers": (1, 6)}, r"layers: expected integers from 0 to 5, got \(1, 6\)"),
        ({"layers": 3}, "layers: expected integers from 0 to 5, got 3"),
        ({"names": ("x", "x")}, "names: expected different names, got"),
        ({"names": ("x", "")}, "names: expected different names, got"),
        ({"names": (1,)}, "names: expected different names, got"),
        ({"names": "xy"}, "names: expected different names, got 'xy'"),
        ({"kind": ["a"]}, r"kind: expected 'a' or 'b', got \['a'\]"),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"layers": [9] * 1000}, r"got \[9, 9, .{,80}\.\.\.$"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}" if ":" in said else said):
        Some(**options)


def test_what_is_in_range_is_taken() -> None:
    some = Some(count=np.int64(9), share=0, above=np.float32(1e-30), maybe=0, either=3, layers=[0, 5], names=["x", "y"])
    assert (some.count, some.share, some.maybe, some.either) == (9, 0, 0, 3)
    assert some.above == np.float32(1e-30) and [*some.layers] == [0, 5] and [*some.names] == ["x", "y"]
    for kind in (*(method.Config for method in METHODS.values()), RunOptions):
        check(kind())


def leaves(kind: Any, ranged: bool = False) -> Iterator[tuple[type, bool]]:
    """The plain types that a type is made of, each with whether a range holds for it."""
    if get_origin(kind) is Literal:
        return
    if get_origin(kind) is Annotated:
        yield from leaves(get_args(kind)[0], True)
    elif get_args(kind):
        for each in get_args(kind):
            yield from leaves(each, ranged)
    else:
        yield kind, ranged


@pytest.mark.parametrize("name", OPTIONS)
def test_every_number_has_a_range(name: str) -> None:
    for field, kind in get_type_hints(OPTIONS[name], include_extras=True).items():
        for leaf, ranged in leaves(kind):
            assert ranged or leaf not in (int, float) or field == "scales", field  # which are checked one by one


@pytest.mark.parametrize("name", OPTIONS)
def test_absurd_values_are_refused_by_name_or_work(name: str) -> None:
    """Not-a-number, infinities, negative and huge numbers, and other types in every field."""
    kind = OPTIONS[name]
    paths = ("checkpoint", "input", "output") if kind is TranslateOptions else ()
    needed = dict.fromkeys(paths, Path())
    for field in fields(kind):
        for value in HOSTILE:
            try:
                kind(**{**needed, field.name: value})
            except ValueError as error:
                assert field.name in str(error) and len(str(error)) < 250 and "\n" not in str(error)
            else:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                assert not number or 0 <= value <= 1e30, (field.name, value)
