"""The methods, by their names in commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cgcl_fast.methods.base import Method
from cgcl_fast.methods.cgcl import CGCL
from cgcl_fast.methods.cgl import CGL
from cgcl_fast.methods.cut import CUT, FastCUT
from cgcl_fast.methods.cyclegan import CycleGAN
from cgcl_fast.methods.enco import EnCo
from cgcl_fast.methods.mguit import MGUIT
from cgcl_fast.methods.sincut import SinCUT

METHODS: dict[str, type[Method]] = {
    "cut": CUT,
    "fastcut": FastCUT,
    "sincut": SinCUT,
    "enco": EnCo,
    "mguit": MGUIT,
    "cgl": CGL,
    "cgcl": CGCL,
    "cyclegan": CycleGAN,
}

INITIALISATIONS = ("kaiming", "kaiming_uniform")
"""Values of "init" in CGL and CGCL, before the option was called "init_type"."""


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as files of earlier versions name them, by their names of now."""
    renamed = dict(options)
    if renamed.get("init") in INITIALISATIONS:
        renamed["init_type"] = renamed.pop("init")
    return renamed
