"""The methods by the names that commands take."""

from __future__ import annotations

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
