"""The order of the data, and loaders whose position can be saved and restored exactly.

Accelerate's ``skip_first_batches`` continues within a given epoch. It leaves two things to its caller: which of the
batches that workers loaded ahead were used, and the same order on any number of processes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cgcl_fast.data.formats import DataError
from cgcl_fast.data.unpaired import FullViewKey, ItemKey, collate

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]


def epoch_order(length: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: int64 (length,), a permutation that depends only on the arguments."""
    words = np.frombuffer(hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest(), dtype="<u4")
    # RandomState: NumPy guarantees its sequences forever, those of Generator only within a version.
    return np.random.RandomState(words.astype(np.uint32)).permutation(length)


class ResumableSampler(Sampler):
    """A batch sampler that can start anywhere: yields lists of :class:`ItemKey`.

    The order is a pure function of (seed, epoch), so the state is two numbers. One pass yields the rest of the epoch
    and changes no state: loaders request batches ahead of their use, so whoever uses the batches counts the position
    (:class:`ResumableLoader`).

    Args:
        length: number of items.
        batch_size: items per batch and replica.
        seed: seed of the order.
        shuffle: False: in order, the same in every epoch.
        drop_last: leave out a last batch that is not full.
        rank, replicas: this process and the number of processes; each takes its part of every
            ``batch_size·replicas``.

    Attributes:
        epoch, position: the next pass starts in epoch ``epoch`` at batch ``position``.
        full_view_from: from this batch on, counted from the start of training, keys ask for the full view; None:
            never. It is not part of the state: set it before the loader starts, also when resuming.

    Raises:
        ValueError: an argument out of range, or more items in a batch than there are (with ``drop_last``).
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        replicas: int = 1,
    ) -> None:
        for name, value in (("length", length), ("batch_size", batch_size), ("replicas", replicas)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= rank < replicas:
            raise ValueError(f"rank must be from 0 to {replicas - 1}, got {rank}")
        if drop_last and batch_size * replicas > length:
            raise ValueError(
                f"batch_size must be at most the {length} images there are"
                f"{f' divided by {replicas} processes' if replicas > 1 else ''}, got {batch_size}"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.replicas = replicas
        self.epoch = 0
        self.position = 0
        self.full_view_from: int | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch per replica."""
        return self.batches_for(self.replicas)

    def batches_for(self, replicas: int) -> int:
        """Batches of a whole epoch for each of ``replicas``.

        Raises:
            ValueError: there are none.
        """
        if replicas < 1:
            raise ValueError(f"replicas must be at least 1, got {replicas}")
        step = self.batch_size * replicas
        return self.length // step if self.drop_last else -(-self.length // step)

    def __len__(self) -> int:
        return self.batches_per_epoch - self.position

    def __iter__(self) -> Iterator[list[ItemKey]]:
        epoch, step = self.epoch, self.batch_size * self.replicas
        order = epoch_order(self.length, seed=self.seed, epoch=epoch) if self.shuffle else np.arange(self.length)
        for batch in range(self.position, self.batches_per_epoch):
            together = order[batch * step : (batch + 1) * step]
            if len(together) < step:  # only without drop_last: all replicas still get batches of equal size
                together = np.resize(together, -(-len(together) // self.replicas) * self.replicas)
            size = len(together) // self.replicas
            mine = together[self.rank * size : (self.rank + 1) * size]
            since = self.full_view_from
            key = ItemKey if since is None or epoch * self.batches_per_epoch + batch < since else FullViewKey
            yield [key(epoch, int(index)) for index in mine]


class ResumableLoader:
    """A ``DataLoader`` that knows its position. Iterating yields the rest of the epoch and then moves on to the next.

    ``state_dict()``, called while a batch is in use, counts that batch as done. A loader that loads this state yields
    the same batches from the next one on, with any number of workers. Creating an iterator does not advance the global
    random number generators (a plain ``DataLoader`` does, which would make resuming inexact).

    A pass raises :class:`DataError` in place of a batch that cannot be made. Such a batch does not advance the
    position.
    """

    def __init__(self, loader: DataLoader, sampler: ResumableSampler, dataset: Any) -> None:
        self._loader = loader
        self.sampler = sampler
        self.dataset = dataset

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self.sampler.epoch

    @property
    def position(self) -> int:
        """Number of batches of the current epoch yielded so far."""
        return self.sampler.position

    @property
    def batch_size(self) -> int:
        """Images per domain in a batch of this process."""
        return self.sampler.batch_size

    def __len__(self) -> int:
        """Batches of a whole epoch, independent of the position."""
        return self.sampler.batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.sampler.position >= len(self):  # the state was saved with an epoch's last batch in use
            self._next_epoch()
        for batch in self._batches():
            if isinstance(batch, DataError):
                raise batch
            self.sampler.position += 1
            yield batch
        self._next_epoch()

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The batches of the ``DataLoader``. A dead worker raises ``OSError`` in place of its batch; torch's SIGCHLD
        handler would raise in the middle of a training step."""
        changes = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD) if changes else None
        iterator: Any = None
        try:
            iterator = iter(self._loader)
            if handler is not None:
                signal.signal(signal.SIGCHLD, handler)
            yield from iterator
        except (RuntimeError, OSError, EOFError) as error:
            if "open files" in str(error) or "ancdata" in str(error):
                what = "too many open files for the processes that load data (fewer --workers, or more by ulimit -n)"
                raise OSError(what) from error
            workers = {worker.sentinel: worker.pid for worker in getattr(iterator, "_workers", ())}
            gone = wait(list(workers), timeout=1)  # its last batch may arrive after it has ended
            if not gone:
                raise
            what = f"process {workers[gone[0]]} that loads data was killed"  # type: ignore[index]
            raise OSError(f"{what}, maybe for want of memory (fewer --workers)") from error

    def _next_epoch(self) -> None:
        self.sampler.epoch += 1
        self.sampler.position = 0

    def state_dict(self) -> dict[str, int]:
        """The position, and the settings it depends on."""
        sampler = self.sampler
        return {
            "epoch": sampler.epoch,
            "position": sampler.position,
            "seed": sampler.seed,
            "length": sampler.length,
            "batch_size": sampler.batch_size,
            "replicas": sampler.replicas,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken. Takes effect with the next iteration.

        With another number of processes it continues at the same place of the epoch, or less than a batch of each
        process before it.

        Raises:
            ValueError: the state is from other data, batch size or seed, for which the position means other images.
        """
        mine = self.state_dict()
        for name in ("seed", "length", "batch_size"):
            if state[name] != mine[name]:
                what = {"length": "number of images"}.get(name, name)
                raise ValueError(f"{what} must be {state[name]} as when the position was saved, got {mine[name]}")
        replicas, most = state["replicas"], self.sampler.batches_for(state["replicas"])
        if state["epoch"] < 0 or not 0 <= state["position"] <= most:
            raise ValueError(f"position must be from 0 to {most} in an epoch from 0, got {state}")
        self.sampler.epoch = int(state["epoch"])
        self.sampler.position = min(int(state["position"]) * replicas // mine["replicas"], len(self))

    def close(self) -> None:
        """Stop the workers. The loader can be used again."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None


class _Returned(Dataset):
    """A data set that returns a :class:`DataError` like an item. Raised in a worker, the error would leave the
    ``DataLoader`` with a whole traceback as its message."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: ItemKey) -> Any:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


def _collate_returned(items: list[Any]) -> Any:
    try:
        return next((item for item in items if isinstance(item, DataError)), None) or collate(items)
    except DataError as error:
        return error


def build_loader(
    dataset: Dataset,
    *,
    batch_size: int = 1,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    replicas: int = 1,
) -> ResumableLoader:
    """A loader over a data set of this package; its batches do not depend on ``num_workers``.

    Args:
        dataset: takes :class:`ItemKey` and has a length, such as what ``open_dataset`` returns.
        batch_size, seed, shuffle, drop_last, rank, replicas: see :class:`ResumableSampler`.
        num_workers: processes that prepare batches, kept across epochs; 0: this process does.
        pin_memory: put batches in page-locked memory, so that copies to a GPU overlap with computation.

    Raises:
        ValueError: an argument out of range, or the limit of open files is too low for the workers.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    if num_workers:
        _allow_files(32 + 16 * num_workers)
    sampler = ResumableSampler(
        len(dataset),  # type: ignore[arg-type]
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        rank=rank,
        replicas=replicas,
    )
    loader = DataLoader(
        _Returned(dataset),
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=_collate_returned,
        worker_init_fn=_outlive_signals,
        # A separate generator: otherwise a DataLoader draws its workers' seed from the global one at every epoch.
        generator=torch.Generator().manual_seed(0),
    )
    return ResumableLoader(loader, sampler, dataset)


def _allow_files(needed: int) -> None:
    """Raise the limit of open files. Each tensor in the workers' batches, and their pipes, are open files here; at the
    limit, workers hang or end with an obscure error."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != hard < needed:
        raise ValueError(f"num_workers must be fewer: {needed} open files may be needed, and ulimit -n is {hard}")
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _outlive_signals(worker: int) -> None:
    """Keep workers alive until the training has finished its step: Ctrl-C, SIGTERM and the SIGHUP of a closed terminal
    reach the whole process group.

    They end when the loader is closed or the training process is gone. A second SIGTERM ends a worker at once.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
