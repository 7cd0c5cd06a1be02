"""The parts of hypothesis that the tests use, if it is not installed: a few random examples, never simplified."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from typing import Any

from . import strategies as strategies

MOST = 12


class settings:  # noqa: N801  as hypothesis calls it
    """Profiles change nothing: what is drawn is the same each time."""

    default: settings

    def __init__(self, max_examples: int = 100, **_: Any) -> None:
        self.max_examples = max_examples

    def __call__(self, test: Callable[..., None]) -> Callable[..., None]:
        test.examples = min(self.max_examples, MOST)  # type: ignore[attr-defined]
        return test

    @staticmethod
    def register_profile(name: str, **_: Any) -> None:
        pass

    @staticmethod
    def load_profile(name: str) -> None:
        pass


settings.default = settings()


def given(*positional: Any, **named: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Positional strategies are those of the last arguments, as in hypothesis."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(test).parameters.values())
        drawn = dict(zip([p.name for p in parameters][len(parameters) - len(positional) :], positional, strict=True))
        drawn |= named

        @functools.wraps(test)
        def run(**given_by_pytest: Any) -> None:
            generator = random.Random(test.__qualname__)
            for _ in range(getattr(run, "examples", MOST)):
                example = {name: strategy(generator) for name, strategy in drawn.items()}
                try:
                    test(**given_by_pytest, **example)
                except BaseException:
                    print(f"example: {example}")
                    raise

        run.__signature__ = inspect.Signature([p for p in parameters if p.name not in drawn])  # type: ignore[attr-defined]
        return run

    return decorate
