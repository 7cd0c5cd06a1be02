"""One CUDA graph a step: what the host takes long to issue it issues once, and the GPU repeats at its own pace.

A kind of step is what the method has chosen for it (:meth:`Method.choose`) and the shapes of its batches. The first
steps of a kind run as always. The next one is recorded as a whole (every phase: forward, backward, optimiser, what
comes after it), and from there on each is one launch. A graph works on fixed memory: batches are copied into it before
a replay, and losses copied out behind it.
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
"""Steps of a kind that run before one is recorded. In them cuDNN chooses its algorithms, Triton and ``torch.compile``
compile, and optimisers make their state: none of that can be recorded."""
MOST_KINDS = 8
"""Graphs at most, since each has a batch of its own and some time is lost to record it."""


class CaptureError(RuntimeError):
    """A step could not be recorded as a CUDA graph; one line that says why."""


class Recorder(Protocol):
    """How steps are recorded: :class:`CudaRecorder`."""

    def warm_up(self, function: Callable[[], R]) -> R:
        """Run a function that may be recorded later."""
        ...

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        """What does the work of the function again and returns the tensors that it returned, with new values. Nothing
        of that work is done while it is recorded."""
        ...


def obstacle(graphs: str, accelerator: Accelerator) -> str | None:
    """Why steps are not captured here; None: they are.

    Args:
        graphs: "auto" (where it is possible), "on" or "off".

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
    """Records on a stream of its own, into one pool of memory for all graphs, which run one after the other."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self._failed: torch.cuda.CUDAGraph | None = None

    def warm_up(self, function: Callable[[], R]) -> R:
        """On the stream of the recordings, since libraries keep workspaces for each stream."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], R]) -> Callable[[], R]:
        graph = torch.cuda.CUDAGraph()
        # A replay draws from the default generator what the same work would draw without a graph.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # gone back to even where a capture fails
                # The threads of the loader may use the device meanwhile.
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
            ):
                result = function()
        except BaseException:
            self._give_up(graph)
            generator.graphsafe_set_state(before)  # the other one may still be that of a capture
            raise

        def replay() -> R:
            graph.replay()
            return result

        return replay

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """Where even the end of a capture fails, PyTorch's allocator goes on as if it were in it."""
        device = torch.cuda.current_device()
        try:
            torch._C._cuda_endAllocateToPool(device, self.pool)
        except RuntimeError:  # it has ended
            return
        torch._C._cuda_releasePool(device, self.pool)
        self._failed = graph  # of which the allocator may have kept the address


class _Recorded(NamedTuple):
    """A kind of step: the memory of its batches, what replays it, and names and values of its losses."""

    parts: list[dict[str, Tensor]]
    replay: Callable[[], Tensor]
    names: list[str]


class StepGraphs:
    """Runs steps, recorded where that has been done.

    Args:
        step: a whole step: batches on the device, and the method's choices, to scalars by name. It must read no value
            of the device, draw nothing on the host, and change nothing but tensors in place; and if it raises, leave
            nothing that a second call would take for its own.
        device: where batches go.
        recorder: how steps are recorded.
        required: raise :class:`CaptureError` where a step cannot be recorded; else warn once, and go on without.

    Attributes:
        recorded: how many kinds of steps are.
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
        """Record anew: to be called when tensors that a step changes have been replaced by others."""
        self._seen.clear()
        self._kinds.clear()

    def __call__(self, parts: Sequence[Part], choices: Choices) -> dict[str, Tensor]:
        """One step.

        Args:
            parts: batches on the host, or on the device.
            choices: of the method.

        Returns:
            What the step returns; in float32 where it is a replay.

        Raises:
            CaptureError: see above.
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
        # Behind the replay before, in the same stream: a copy of a few hundredths of a millisecond, for which a stream
        # of its own and a second buffer would not pay.
        _fill(known.parts, parts)
        values = known.replay().clone()  # the next replay writes where it was
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
    """The part with its tensors on the device; of pinned memory without waiting for it."""
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
            # A copy out of other memory than pinned waits for the replay before. What the loader gives is pinned; what
            # the method has prepared is not.
            waits = held[name].is_cuda and tensor.device.type == "cpu" and not tensor.is_pinned()
            held[name].copy_(tensor.pin_memory() if waits else tensor, non_blocking=True)


def _cause(error: BaseException) -> str:
    """The first line of the error that the others followed."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
