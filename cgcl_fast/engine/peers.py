"""Processes that share a work out among them, as ``torchrun`` starts them, and tell each other what was found.

They exchange Python objects by Gloo, whatever device each of them computes on. Nothing has to be in step but the
beginning and the end of a work, where the quick ones wait for the slow ones, for days if need be: that one of them has
ended is noticed by ``torchrun``, which ends the others, and by Gloo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")

PATIENCE = timedelta(days=7)


class LostPeerError(OSError):
    """Another process of the work has ended."""


@dataclass(frozen=True)
class Peers:
    """A process among those that share a work; by default it is alone.

    Args:
        rank: which it is, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gathered(self, own: Item) -> list[Item]:
        """What all processes give, in their order, in each of them.

        Raises:
            LostPeerError: one has ended.
        """
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        _exchange(lambda: distributed.all_gather_object(found, own))
        return found

    def in_turn(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Shares of items, one after the other to each process in turn."""
        return [items[rank :: self.count] for rank in range(self.count)]

    def in_blocks(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Shares of items that are neighbours."""
        ends = [len(items) * rank // self.count for rank in range(self.count + 1)]
        return [items[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]

    def handed_out(self, work: Callable[[], Sequence[Item]]) -> Item:
        """Do ``work`` in the first process: it gives something for each process, in their order, which gets it. What it
        raises is raised in all.

        Raises:
            LostPeerError: one has ended.
        """
        if self.count == 1:
            (own,) = work()
            return own
        given: list[Any] | None = None
        if self.first:
            try:
                given = [(each, None) for each in work()]
            except Exception as error:
                given = [(None, error)] * self.count
        found: list[Any] = [None]
        _exchange(lambda: distributed.scatter_object_list(found, given, src=0))
        own, problem = found[0]
        if problem is not None:
            raise problem
        return own

    def device(self, device: torch.device) -> torch.device:
        """The one of this process, where a machine has several."""
        if self.count == 1 or device.type == "cpu" or device.index is not None:
            return device
        own = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count())
        torch.accelerator.set_device_index(own.index)
        return own


def join_peers() -> Peers:
    """Find the other processes; to be left by :func:`leave_group`.

    Raises:
        ValueError: the surroundings say that there are others, but not how to find them.
        LostPeerError: they do not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available():
        return Peers()
    if not distributed.is_initialized():
        _exchange(lambda: distributed.init_process_group("gloo", timeout=PATIENCE))
    return Peers(distributed.get_rank(), distributed.get_world_size())


def _exchange(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostPeerError(f"another process of this work has ended ({reason})") from error
