"""One file per method: config, networks, losses."""

from cgcl_fast.methods.base import Method, OptimizerSpec, Phase
from cgcl_fast.methods.registry import METHODS

__all__ = ["METHODS", "Method", "OptimizerSpec", "Phase"]
