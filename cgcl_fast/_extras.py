"""Packages that only some commands need, installed with an extra: ``pip install "cgcl_fast[NAME]"``."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message is one line that says how to install it."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an extra.

    Raises:
        MissingExtraError: its package, or a dependency of it, is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = error.name or module
        raise MissingExtraError(
            f'{package.partition(".")[0]} is not installed; pip install "cgcl_fast[{extra}]"', name=error.name
        ) from error
