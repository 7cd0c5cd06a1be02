"""Checks that the content of a checkpoint fits what it is loaded into, made for all of it before anything is loaded.

Each function raises a ValueError (or whatever a comparison with hostile content raises: TypeError, KeyError, ...) and
changes nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast._weights import is_finite

_NEEDED = ("lr", "betas", "eps", "weight_decay")
"""Entries of a parameter group that all versions of Adam read; they fill in others."""
_OWN = ("lr", "capturable", "foreach", "fused")
"""Entries that each run sets itself: the learning rate changes in each step, and the others select how the device
computes, not what."""


def check_tensor(name: str, found: Any, like: Tensor) -> None:
    """Check that ``found`` has the shape and dtype of ``like``, and is finite."""
    if not isinstance(found, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(found).__name__}")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(
            f"{name}: expected {tuple(like.shape)} of {like.dtype}, got {tuple(found.shape)} of {found.dtype}"
        )
    if found.is_floating_point() and not is_finite(found):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def check_module(found: Any, module: nn.Module) -> None:
    """Check that ``found`` is a state dict of ``module``."""
    own = module.state_dict()
    _check_names("weights", found, own)
    for name, like in own.items():
        if isinstance(like, Tensor):
            check_tensor(f"weights {name}", found[name], like)
    for name, part in module.named_modules():  # what a module keeps beside its tensors, it checks itself
        extra = f"{name}._extra_state" if name else "_extra_state"
        if extra in own:
            try:
                copy.deepcopy(part).set_extra_state(found[extra])
            except Exception as error:
                raise ValueError(f"{extra}: {error}") from error


def check_adam(name: str, found: Any, optimizer: Any, *, complete: bool) -> None:
    """Check that ``found`` is a state dict of ``optimizer``, an Adam.

    Args:
        name: for messages.
        complete: every parameter must have an entry, possibly an empty one, as written by ``full_state``.
    """
    own = optimizer.state_dict()
    _check_names(name, found, own)
    groups, states = found["param_groups"], found["state"]
    _check_named(f"{name}: state", states)
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError(f"{name}: expected {len(own['param_groups'])} groups of parameters")
    for group, like in zip(groups, own["param_groups"], strict=True):
        _check_named(name, group)
        for key in ("params", *_NEEDED, *(key for key in like if key in group)):
            if key not in group:
                raise ValueError(f"{name}: lacks {key}")
            if key in _OWN:
                continue
            if type(group[key]) is not type(like[key]) or group[key] != like[key]:
                raise ValueError(f"{name}: {key}: expected {like[key]}, got {str(group[key])[:50]}")
        if not isinstance(group["lr"], (int, float)) or not math.isfinite(group["lr"]):
            raise ValueError(f"{name}: lr: expected a number, got {str(group['lr'])[:50]}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    unknown = [key for key in states if type(key) is not int or not 0 <= key < len(parameters)]
    if unknown:
        raise ValueError(f"{name}: has a state of {str(unknown[0])[:50]}, which is no parameter")
    for index, parameter in enumerate(parameters):
        if complete and index not in states:
            raise ValueError(f"{name}: lacks the state of parameter {index}")
        state = states.get(index, {})
        _check_named(f"{name}, parameter {index}", state)
        if state:
            _check_adam_parameter(f"{name}, parameter {index}", state, parameter)


def _check_adam_parameter(name: str, found: Any, parameter: Tensor) -> None:
    _check_names(name, found, {"step": None, "exp_avg": None, "exp_avg_sq": None})
    check_tensor(f"{name}: step", found["step"], torch.zeros(()))
    for moment in ("exp_avg", "exp_avg_sq"):
        check_tensor(f"{name}: {moment}", found[moment], parameter)
    if found["step"] < 1 or bool((found["exp_avg_sq"] < 0).any()):
        raise ValueError(f"{name}: expected positive steps and squares")


def full_state(optimizer: Any) -> dict[str, Any]:
    """An optimiser's state dict with the learning rates as numbers and an entry for each parameter, empty for
    parameters without a gradient so far. This distinguishes them from parameters whose state was lost."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    count = sum(len(group["params"]) for group in groups)
    return {"param_groups": groups, "state": {index: state["state"].get(index, {}) for index in range(count)}}


def regrouped(found: Any, optimizer: Any) -> Any:
    """A state dict with its parameters in the groups of ``optimizer``, one for each learning rate; unchanged if it does
    not hold the same number of parameters in the same order."""
    own = optimizer.state_dict()["param_groups"]
    try:
        groups = [(group, index) for group in found["param_groups"] for index in group["params"]]
        if [len(group["params"]) for group in found["param_groups"]] == [len(group["params"]) for group in own]:
            return found
        if [index for _, index in groups] != [index for group in own for index in group["params"]]:
            return found
        firsts = [groups[group["params"][0]][0] for group in own]
        return {**found, "param_groups": [{**f, "params": o["params"]} for f, o in zip(firsts, own, strict=True)]}
    except Exception:  # invalid content: the check that follows reports it
        return found


def load_state(optimizer: Any, found: Mapping[str, Any]) -> None:
    """Load a state dict that passed :func:`check_adam`, from a run on any device. ``optimizer`` keeps its learning
    rates, which remain the same tensors, and its way of computing; the moments get the memory format of their weights.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    groups = [
        {**own, "params": group["params"]}
        for own, group in zip(optimizer.param_groups, found["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**found, "param_groups": groups})
    for rate, group in zip(rates, optimizer.param_groups, strict=True):
        group["lr"] = rate
    # The moments of a run whose weights had another memory format. PyTorch's fused Adam goes through weight, gradient
    # and moments in the order of their memory: on a GPU it refuses other strides, on a CPU it does not look at them.
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state and state[name].stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(state[name])


def check_numbers(name: str, found: Any, like: Mapping[str, float]) -> None:
    """Check that ``found`` has the names of ``like``, each with a finite number of its type."""
    _check_names(name, found, like)
    for key, number in like.items():
        if type(found[key]) is not type(number) or not math.isfinite(found[key]):
            raise ValueError(f"{name} {key}: expected a {type(number).__name__}, got {str(found[key])[:50]}")


def _check_named(name: str, found: Any) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{name}: expected named values, got {type(found).__name__}")


def _check_names(name: str, found: Any, like: Mapping[str, Any]) -> None:
    _check_named(name, found)
    for problem, names in (("lacks", like.keys() - found.keys()), ("has the unknown", found.keys() - like.keys())):
        if names:
            raise ValueError(f"{name}: {problem} {sorted(map(str, names))[0][:100]}")
