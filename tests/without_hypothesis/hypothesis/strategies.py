"""Strategies: functions of a random generator that draw one value."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

Strategy = Callable[[random.Random], Any]


class DataObject:
    def __init__(self, generator: random.Random) -> None:
        self.generator = generator

    def draw(self, strategy: Strategy) -> Any:
        return strategy(self.generator)


def data() -> Strategy:
    return DataObject


def none() -> Strategy:
    return lambda generator: None


def booleans() -> Strategy:
    return lambda generator: generator.random() < 0.5


def integers(low: int, high: int) -> Strategy:
    def draw(generator: random.Random) -> int:
        return generator.choice((low, high)) if generator.random() < 0.2 else generator.randint(low, high)

    return draw


def floats(low: float, high: float) -> Strategy:
    def draw(generator: random.Random) -> float:
        return float(generator.choice((low, high))) if generator.random() < 0.2 else generator.uniform(low, high)

    return draw


def sampled_from(values: Sequence[Any]) -> Strategy:
    return lambda generator: generator.choice(list(values))


def one_of(*strategies: Strategy) -> Strategy:
    return lambda generator: generator.choice(strategies)(generator)


def tuples(*strategies: Strategy) -> Strategy:
    return lambda generator: tuple(strategy(generator) for strategy in strategies)


def lists(strategy: Strategy, *, min_size: int = 0, max_size: int = 5) -> Strategy:
    return lambda generator: [strategy(generator) for _ in range(generator.randint(min_size, max_size))]
