"""One CUDA graph per step: the host issues all kernels once, and the GPU replays them at full speed.

The kind of a step is what the method chose for it (:meth:`Method.choose`) and the shapes of its batches. The first
steps of a kind run as usual. The next is captured as a whole (every phase: forward, backward, optimiser, what follows),
and from then on each step is a single launch. A graph works on fixed memory: batches are copied in before a replay, and
losses copied out after it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

Part = Mapping[str, Tensor]
Choices = Mapping[str, Hashable]
Step = Callable[[Sequence[Part], Choices], dict[str, Tensor]]
R = TypeVar("R")

GRAPHS = ("auto", "on", "off")
WARM_UP = 3
"""Number of steps of a kind before it is captured. In these, cuDNN selects algorithms, Triton and ``torch.compile``
compile, and optimisers create their state: none of this can be captured."""
MOST_KINDS = 8
"""Maximum number of graphs: each holds its own batch, and capturing takes time."""


class CaptureError(RuntimeError):
    """A step could not be recorded as a CUDA graph; one line that says why."""


class Recorder(Protocol):
    """How steps are recorded: :class:`CudaRecorder`."""

    def warm_up(self, function: Callable[[], R]) -> R:
        """Run a function that may be captured later."""
        ...

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        """Returns a function that repeats the work and returns the same tensors with new values. The work itself is not
        done while it is captured."""
        ...


def obstacle(graphs: str, accelerator: Accelerator) -> str | None:
    """Why steps are not captured here; None if they are.

    Args:
        graphs: "auto" (if possible), "on" or "off".

    Raises:
        ValueError: "on" where it is not possible, or another word.
    """
    if graphs not in GRAPHS:
        raise ValueError(f"graphs must be auto, on or off, got {graphs!r}")
    reason = None
    if accelerator.device.type != "cuda":
        reason = f"device {accelerator.device.type} has no CUDA graphs"
    elif accelerator.num_processes > 1:
        reason = "several processes exchange their gradients within a step"
    elif accelerator.scaler is not None:
        reason = "the gradient scaler of fp16 is not captured"
    if graphs == "on" and reason is not None:
        raise ValueError(f"graphs must be auto or off here, got 'on': {reason}")
    return "graphs is off" if graphs == "off" else reason


class CudaRecorder:
    """Captures on a separate stream, into one memory pool for all graphs, which run one after the other."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self._failed: torch.cuda.CUDAGraph | None = None

    def warm_up(self, function: Callable[[], R]) -> R:
        """Runs on the capture stream, because libraries keep workspaces per stream."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        graph = torch.cuda.CUDAGraph()
        # A replay draws the same numbers from the default generator as the same work without a graph.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # restored even if a capture fails
                # The loader's threads may use the device during the capture.
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
            ):
                result = function()
        except BaseException:
            self._give_up(graph)
            generator.graphsafe_set_state(before)  # the other one may still belong to a capture
            raise

        def replay() -> R:
            graph.replay()
            return result

        return replay

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """If even ending a capture fails, PyTorch's allocator continues as if it were still capturing."""
        device = torch.cuda.current_device()
        try:
            torch._C._cuda_endAllocateToPool(device, self.pool)
        except RuntimeError:  # it has ended
            return
        torch._C._cuda_releasePool(device, self.pool)
        self._failed = graph  # the allocator may have kept its address


class _Recorded(NamedTuple):
    """A captured kind of step: the memory of its batches, its replay, and names and values of its losses."""

    parts: list[dict[str, Tensor]]
    replay: Callable[[], Tensor]
    names: list[str]


class StepGraphs:
    """Runs steps, as graphs if captured.

    Args:
        step: a whole step, from batches on the device and the method's choices to named scalars. It must not read
            device values, not draw on the host, and change nothing but tensors in place. If it raises, it must leave
            nothing behind that a second call would mistake for its own.
        device: for the batches.
        recorder: how steps are captured.
        required: raise :class:`CaptureError` if a step cannot be captured; otherwise warn once and continue without.

    Attributes:
        recorded: number of captured kinds of steps.
    """

    def __init__(self, step: Step, device: torch.device, recorder: Recorder, *, required: bool = False) -> None:
        self._step = step
        self._device = device
        self._recorder = recorder
        self._required = required
        self._failed = False
        self._full = False
        self._seen: Counter[Hashable] = Counter()
        self._kinds: dict[Hashable, _Recorded] = {}

    @property
    def recorded(self) -> int:
        return len(self._kinds)

    def forget(self) -> None:
        """Discard all graphs: call this after replacing tensors that a step changes."""
        self._seen.clear()
        self._kinds.clear()

    def __call__(self, parts: Sequence[Part], choices: Choices) -> dict[str, Tensor]:
        """One step.

        Args:
            parts: batches on the host or on the device.
            choices: of the method.

        Returns:
            The step's result; in float32 if replayed.

        Raises:
            CaptureError: a step cannot be captured, and ``required`` is set.
        """
        if self._failed:
            return self._step([to_device(part, self._device) for part in parts], choices)
        kind = _kind_of(parts, choices)
        known = self._kinds.get(kind)
        if known is None and self._is_due(kind):
            known = self._record(kind, parts, choices)
        if known is None:
            ready = [to_device(part, self._device) for part in parts]
            return self._recorder.warm_up(lambda: self._step(ready, choices))
        # After the previous replay, in the same stream: the copy takes a few hundredths of a millisecond, too little
        # for a separate stream and a second buffer.
        _fill(known.parts, parts)
        values = known.replay().clone()  # the next replay overwrites it
        return dict(zip(known.names, values.unbind(), strict=True))

    def _is_due(self, kind: Hashable) -> bool:
        self._seen[kind] += 1
        if self._seen[kind] <= WARM_UP:
            return False
        if len(self._kinds) == MOST_KINDS and not self._full:
            self._full = True
            warnings.warn(
                f"steps are of more than {MOST_KINDS} kinds (by choices of the method and sizes of images): the others "
                "run without CUDA graphs",
                stacklevel=2,
            )
        return len(self._kinds) < MOST_KINDS

    def _record(self, kind: Hashable, parts: Sequence[Part], choices: Choices) -> _Recorded | None:
        buffers = [
            {name: torch.empty_like(tensor, device=self._device) for name, tensor in part.items()} for part in parts
        ]
        _fill(buffers, parts)
        names: list[str] = []

        def step() -> Tensor:
            losses = self._step(list(buffers), choices)
            names[:] = losses
            return torch.stack([value.float() for value in losses.values()])

        try:
            replay = self._recorder.record(step)
        except Exception as error:
            reason = f"this step cannot be captured as a CUDA graph ({_cause(error)})"
            if self._required:
                raise CaptureError(f"{reason}; --graphs auto or off goes on without") from error
            warnings.warn(f"{reason}; training goes on without graphs", stacklevel=2)
            self._failed = True
            self.forget()
            return None
        self._kinds[kind] = _Recorded(buffers, replay, names)
        return self._kinds[kind]


def to_device(part: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The part with its tensors on the device; copies from pinned memory are asynchronous."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in part.items()
    }


def _kind_of(parts: Sequence[Part], choices: Choices) -> Hashable:
    shapes = [tuple((name, tensor.shape, tensor.dtype) for name, tensor in part.items()) for part in parts]
    return tuple(sorted(choices.items())), tuple(shapes)


def _fill(buffers: list[dict[str, Tensor]], parts: Sequence[Part]) -> None:
    for held, part in zip(buffers, parts, strict=True):
        for name, tensor in part.items():
            # A copy from memory that is not pinned waits for the previous replay. The loader's batches are pinned; what
            # the method's ``prepare`` adds is not.
            waits = held[name].is_cuda and tensor.device.type == "cpu" and not tensor.is_pinned()
            held[name].copy_(tensor.pin_memory() if waits else tensor, non_blocking=True)


def _cause(error: BaseException) -> str:
    """The first line of the original error."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
