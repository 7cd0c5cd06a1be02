"""The methods, by their names in commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cgcl_fast._renamed import renamed
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

_CUT = (
    "Park et al., Contrastive Learning for Unpaired Image-to-Image Translation, ECCV 2020",
    "https://arxiv.org/abs/2007.15651",
)

PAPERS = {
    "cut": _CUT,
    "fastcut": _CUT,
    "sincut": _CUT,
    "enco": (
        "Cai et al., Constraining Multi-scale Pairwise Features between Encoder and Decoder Using Contrastive Learning "
        "for Unpaired Image-to-Image Translation, 2022",
        "https://arxiv.org/abs/2211.10867",
    ),
    "mguit": (
        "Jeong et al., Memory-guided Unsupervised Image-to-image Translation, CVPR 2021",
        "https://arxiv.org/abs/2104.05170",
    ),
    "cgl": ("Fu et al., Cross-Granularity Learning for Multi-Domain Image-to-Image Translation, ACM MM 2020", None),
    "cgcl": (
        "Fu et al., Multi-Domain Image-to-Image Translation with Cross-Granularity Contrastive Learning, ACM TOMM 2024",
        None,
    ),
    "cyclegan": (
        "Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017",
        "https://arxiv.org/abs/1703.10593",
    ),
}
"""The paper of each method, and where it can be read freely, if it is known here."""

INITIALISATIONS = ("kaiming", "kaiming_uniform")
"""Values of "init" in CGL and CGCL, before the option was called "init_type"."""


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options from files of earlier versions, under their present names.

    Raises:
        ValueError: an option is there under both of its names.
    """
    found = renamed(options)
    if found.get("init") in INITIALISATIONS:
        found["init_type"] = found.pop("init")
    return found
