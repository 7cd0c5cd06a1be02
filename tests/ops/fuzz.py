"""Random calls of every op, compared with its reference: `make fuzz`, or `python tests/ops/fuzz.py [OP SEED]`.

A case follows from its op and seed alone. It has random sizes, strides, dtypes, options and upstream gradients, and
difficult values: NaN, infinity, denormal and huge numbers, constant planes, zero vectors, ties, large logits. The
kernel must give NaN and infinity where the reference does, and otherwise be within twice the reference's own error; see
`disagreement` below. With wrong arguments an op may only raise ValueError or TypeError.

test_fuzz.py runs a fixed set of seeds. Run as a program, this file draws seeds until its time is up, and prints for
each failure how to repeat it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: the package and op_checks are found from anywhere
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import torch
import torch.nn.functional as F
from op_checks import DEVICE
from torch import Tensor

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

# Triton's interpreter computes wrongly with bfloat16, which takes other kernels there.
DTYPES = (torch.float32, torch.float16 if INTERPRET else torch.bfloat16, torch.float16, torch.float64)
SCALES = (1e-42, 1e-38, 1e-30, 1e-20, 1e-10, 1e-5, 1e3, 1e5, 1e8, 1e12, 1e18, 1e19, 1e25, 1e30, 1e36)
TRITON = INTERPRET or DEVICE.type != "cpu"  # whether it runs the kernels
LARGEST = 1e38  # of a sum of a tensor's elements: whether one overflows on the way is a matter of its order
EPS = torch.finfo(torch.float32).eps  # of the arithmetic, whatever the dtype of the arguments


@dataclass
class Case:
    """A call and how its results are compared.

    Attributes:
        arguments: of the public function, in which a generator stands for `torch.Generator` by its seed. Those of its
            floating-point tensors that require a gradient get one.
        upstream: the upstream gradient of a result.
        rows: how many of the first dimensions count rows (planes, pixels) that are compared each by its own scale.
        exact: nothing is added up, so that the results are the reference's to the bit.
        terms: the size of what cancels in a result or, for an upstream gradient of 1, in the gradient of an argument.
        undecided: (B, C) bool, planes of which rounding decides on which side of a kink an element lies; their
            gradients are not compared.
    """

    op: str
    seed: int
    arguments: dict[str, Any]
    upstream: Callable[[Tensor], Tensor]
    rows: int = 0
    exact: bool = False
    terms: dict[str, float] = field(default_factory=dict)
    undecided: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        interpreted = "TRITON_INTERPRET=1 " if INTERPRET else ""
        lines = [f"again: {interpreted}python tests/ops/fuzz.py {self.op} {self.seed}"]
        lines += [f"    {name} = {described(value)}" for name, value in self.arguments.items()]
        return "\n".join(lines + [f"    {note}" for note in self.notes])


def described(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(described, value))}]"
    if not isinstance(value, Tensor):
        return repr(value)
    if value.is_nested or value.layout != torch.strided:
        return f"{value.dtype} {'nested' if value.is_nested else value.layout}"
    text = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} strides {value.stride()}"
    text += "" if value.device == DEVICE else f" on {value.device}"
    return text + (" requires_grad" if value.requires_grad else "")


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to each tensor in it."""
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(one, change) for one in value)
    return change(value) if isinstance(value, Tensor) else value


class Draw:
    """What the parts of a case are drawn from."""

    def __init__(self, op: str, seed: int) -> None:
        self.random = random.Random(f"{op} {seed}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))
        self.notes: list[str] = []
        self.finite = False  # whether the upstream gradient must be
        self.dtype = self.one_of(DTYPES[0], DTYPES[0], *DTYPES)

    def one_of(self, *values: Any) -> Any:
        return self.random.choice(values)

    def maybe(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def size(self, most: int, least: int = 1) -> int:
        """The smallest sizes more often than others, and more often small ones than large ones."""
        if INTERPRET:
            most = min(most, 20)
        few = min(most, least + 6)
        return self.one_of(
            least, least + self.random.randint(0, 1), *[self.random.randint(least, n) for n in (few, few, most)]
        )

    def some_dtype(self) -> torch.dtype:
        """Mostly that of the whole case."""
        return self.one_of(*[self.dtype] * 9, *DTYPES[:3])

    def normal(self, *shape: int) -> Tensor:
        """In float64, drawn where the generator is, so that every device tests the same numbers."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu").to(DEVICE)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, max(high, low + 1), shape, generator=self.generator, device="cpu").to(DEVICE)

    def where(self, chance: float, shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, device="cpu").to(DEVICE) < chance

    def values(self, shape: Sequence[int], along: tuple[int, ...]) -> tuple[Tensor, str]:
        """Numbers of one kind, and its name. `along`: the dimensions of a plane or vector."""
        x = self.normal(*shape)
        over = [1 if d in along else n for d, n in enumerate(shape)]
        kind = self.one_of(
            *["normal"] * 3, "unit", "unit", "constant", "offset", "scaled", "scaled", "zeros", "ties", "special"
        )
        if kind == "unit" and len(along) == 1:
            x = F.normalize(x, dim=along[0])
        elif kind == "constant":
            x = self.normal(*over).expand(tuple(shape)).clone()
        elif kind == "offset":
            x = 0.1 * x + 1000 * self.normal(*over)
        elif kind == "scaled":
            scale = min(self.one_of(*SCALES), LARGEST / max(x.numel(), 1))
            if len(along) == 1 and shape[along[0]] == 1:  # of one number PyTorch takes the length without squaring it
                scale = min(scale, 1e15)
            x, kind = x * scale, f"scaled by {scale:.3g}"
        elif kind == "zeros":
            x = torch.where(self.where(0.5, over), 0.0, x)
        elif kind == "ties":
            x = x.round()
        elif kind == "special":
            name = self.one_of("nan", "inf", "-inf", "-0.0", "all of them")
            for number in ("nan", "inf", "-inf", "-0.0") if name == "all of them" else (name,):
                x = torch.where(self.where(self.one_of(0.02, 0.3), shape), float(number), x)
            kind = f"with {name}"
        return x, kind

    def laid_out(self, x: Tensor) -> tuple[Tensor, str]:
        """The values of x in some memory layout, and its name."""
        dim = x.dim()
        kind = self.one_of(
            *["contiguous"] * 3, "channels_last", "channels_last", "permuted", "sliced", "strided", "expanded"
        )
        if kind == "channels_last" and dim == 4:
            return x.contiguous(memory_format=torch.channels_last), kind
        if kind == "permuted":
            order = self.random.sample(range(dim), dim)
            back = sorted(range(dim), key=order.__getitem__)
            return x.permute(order).contiguous().permute(back), kind
        if kind in ("sliced", "strided"):
            step = 1 if kind == "sliced" else 2
            first = [self.random.randint(0, 2) for _ in x.shape]
            sizes = [f + step * n + 1 for f, n in zip(first, x.shape, strict=True)]
            room = x.new_full(sizes, math.nan if x.is_floating_point() else 99)
            view = room[tuple(slice(f, f + step * n, step) for f, n in zip(first, x.shape, strict=True))]
            return view.copy_(x), kind
        if kind == "expanded" and dim and x.numel():
            d = self.random.randrange(dim)
            return x.narrow(d, 0, 1).expand(x.shape), f"expanded along {d}"
        return x.contiguous(), "contiguous"

    def tensor(self, name: str, *shape: int, along: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        x, kind = self.values(shape, along)
        x, layout = self.laid_out(x.to(dtype or self.some_dtype()))
        self.notes.append(f"{name}: {kind}, {layout}")
        return x.requires_grad_(self.maybe(0.7))

    def upstream(self) -> Callable[[Tensor], Tensor]:
        kinds = (
            "normal",
            "normal",
            "expanded",
            "laid out",
            "of a scale",
            "zero",
            "normal" if self.finite else "special",
        )
        kind = self.one_of(*kinds)
        seed, number = self.random.getrandbits(30), self.one_of(math.nan, math.inf, -math.inf)
        scale = self.one_of(1e-30, 1e-10, 1e5, 1e15)
        self.notes.append(f"upstream: {kind}")

        def draw(result: Tensor) -> Tensor:
            if kind == "expanded":
                return result.new_tensor(0.75).expand(result.shape)
            if kind == "zero":
                return torch.zeros_like(result)
            own = Draw("upstream", seed)
            x = own.normal(*result.shape)
            if kind == "of a scale":
                x = scale * x
            elif kind == "special":
                x = torch.where(own.where(0.1, x.shape), number, x)
            x = x.to(result.dtype)
            return own.laid_out(x)[0] if kind == "laid out" and x.dim() > 0 else x

        return draw

    def case(self, op: str, seed: int, arguments: dict[str, Any], **more: Any) -> Case:
        return Case(op, seed, arguments, self.upstream(), notes=self.notes, **more)


# ---- what a case is computed with


def same(x: Tensor) -> Tensor:
    return x


def wide(x: Tensor) -> Tensor:
    return x.double()


def rounded(x: Tensor) -> Tensor:
    """Each number off by a rounding of float32: what that does to the results no implementation can avoid."""
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(x.device) * 2 - 1
    return x.double() * (1 + EPS * signs)


def forward(
    op: str, arguments: dict[str, Any], backend: str, change: Callable[[Tensor], Tensor] = same
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The results of an op, and those of its arguments, by name, that receive a gradient."""
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(leaf(f"{name}[{i}]", one) for i, one in enumerate(value))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        changed = change(value.detach()).requires_grad_(value.requires_grad)
        if value.requires_grad:
            leaves[name] = changed
        return changed

    given = {name: leaf(name, value) for name, value in arguments.items()}
    if "generator" in given:
        given["generator"] = torch.Generator(DEVICE).manual_seed(given["generator"])
    torch.manual_seed(0)  # of offsets that nobody gives
    with cgcl_fast.backend(backend):
        results = getattr(ops, op)(**given)
    return list(results) if isinstance(results, (list, tuple)) else [results], leaves


def gradients(results: list[Tensor], leaves: dict[str, Tensor], upstreams: list[Tensor]) -> dict[str, Tensor]:
    """To each of `leaves`; zero for what no result depends on."""
    pairs = [(r, u.to(r.dtype)) for r, u in zip(results, upstreams, strict=False) if r.requires_grad]
    if not pairs:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    roots, given = zip(*pairs, strict=True)
    found = torch.autograd.grad(roots, list(leaves.values()), given, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def most(*tensors: Tensor) -> float:
    """The largest absolute number of some tensors, which NaN and infinity are not."""
    numbers = [x.detach().double().abs().nan_to_num(0, 0, 0) for x in tensors if x.numel()]
    return max((float(x.max()) for x in numbers), default=0.0)


def lengths(x: Tensor, dim: int) -> tuple[float, float]:
    """The least and the largest length of the vectors along `dim`, those of zero or infinite length left out."""
    found = torch.linalg.vector_norm(x.detach().double(), dim=dim)
    found = found[(found > 1e-12) & found.isfinite()]
    return (float(found.min()), float(found.max())) if found.numel() else (1.0, 0.0)


# ---- comparing


def infinities(x: Tensor) -> Tensor:
    """2 for NaN, 1 and -1 for infinity, 0 for any number."""
    return torch.where(x.isnan(), 2.0, torch.where(x.isinf(), x.sign(), 0.0).double())


def disagreement(
    fast: Tensor, eager: Tensor, truth: Tensor, other: Tensor, rows: int, terms: float = 0.0, infinite: bool = False
) -> str | None:
    """What is wrong with a result, or None.

    Args:
        fast: the result.
        eager: the reference's in the same dtype.
        truth: the reference's in float64.
        other: the reference's in float64 of inputs that are off by a rounding each.
        rows, terms: see `Case`.
        infinite: whether the upstream gradient is, somewhere. Infinity times a weight of zero is NaN, and times a sum
            of weights infinity: which of the two is computed is not laid down, so that there NaN and infinity are one.
    """
    if fast.dtype != eager.dtype or fast.shape != eager.shape:
        return f"{fast.dtype} {tuple(fast.shape)}, and the reference {eager.dtype} {tuple(eager.shape)}"
    if fast.numel() == 0:
        return None
    if (
        8 * EPS * terms > torch.finfo(eager.dtype).max
    ):  # what is left where such terms cancel overflows or not by chance
        return None
    # Where the reference overflows float32 and its equation does not, either may come out: what overflows on the way
    # is a matter of the order of sums. Where both agree there is nothing to choose.
    expected, exact = infinities(eager), infinities(truth.to(eager.dtype))
    found = infinities(fast)
    if infinite:
        expected, exact, found = expected.abs().clamp(max=1), exact.abs().clamp(max=1), found.abs().clamp(max=1)
    wrong = (found != expected) & (found != exact)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        return f"{fast[at]} at {at}, where the reference has {eager[at]} and in float64 {truth[at]}"
    numbers = (found == 0) & (expected == 0) & (exact == 0)
    truth = torch.where(numbers, truth, 0)

    def worst(x: Tensor) -> Tensor:
        """The largest absolute number of each row."""
        x = torch.where(numbers, x.double(), 0).abs()
        if x.dim() <= rows or rows == 0 or math.prod(x.shape[rows:]) < 16:  # one number's error may be small by luck
            return x.max().expand(1)
        return x.flatten(rows).amax(-1)

    limits = torch.finfo(eager.dtype)
    unavoidable = worst(torch.where(other.isfinite(), other - truth, 0)) + limits.eps * worst(truth) + EPS * terms
    allowed = 2 * worst(eager.double() - truth) + 8 * unavoidable + 1024 * limits.smallest_normal * limits.eps
    error = worst(fast.double() - truth)
    row = int((error - allowed).argmax())
    if error.flatten()[row] > allowed.flatten()[row]:
        return f"off by {error.flatten()[row]:.3g}, allowed {allowed.flatten()[row]:.3g}, in row {row}"
    return None


def assert_agrees(op: str, seed: int) -> None:
    """Raises AssertionError, with the whole case, if op and reference disagree on the case of `seed`."""
    case = DRAWS[op](Draw(op, seed), seed)
    try:
        complaint = complaint_of(case)
    except Exception as error:
        raise AssertionError(f"{case}\n    raised {type(error).__name__}: {error}") from error
    assert complaint is None, f"{case}\n    {complaint}"


def complaint_of(case: Case) -> str | None:
    fast, leaves = forward(case.op, case.arguments, "auto")
    kinds = {"eager": same, "truth": wide, "other": rounded}
    runs = {name: forward(case.op, case.arguments, "reference", change) for name, change in kinds.items()}
    eager = runs["eager"][0]
    if len(fast) != len(eager):
        return f"{len(fast)} results, and the reference has {len(eager)}"
    for i, result in enumerate(fast):
        if case.exact or not result.is_floating_point():
            if not torch.equal(result.nan_to_num(7.25), eager[i].nan_to_num(7.25)):
                return f"result {i}: not the reference's"
            continue
        compared = [result.detach(), *(run[0][i].detach() for run in runs.values())]
        if complaint := disagreement(*compared, case.rows, case.terms.get("result", 0.0)):
            return f"result {i}: {complaint}"
    upstreams = [case.upstream(result) for result in eager if result.is_floating_point()]
    largest, infinite = most(*upstreams), any(bool(upstream.isinf().any()) for upstream in upstreams)
    found = gradients(fast, leaves, upstreams)
    others = {name: gradients(*run, [kinds[name](upstream) for upstream in upstreams]) for name, run in runs.items()}
    for name, gradient in found.items():
        if not any(result.numel() for result in fast) and not gradient.any():
            continue  # of no numbers the gradient is zero, and not zero times NaN as autograd has it
        compared = [gradient, *(other[name] for other in others.values())]
        if case.undecided is not None and name != "residual":
            left_out = case.undecided.view(*case.undecided.shape, *[1] * (gradient.dim() - 2))
            compared = [x.masked_fill(left_out, 0) for x in compared]
        if complaint := disagreement(*compared, case.rows, largest * case.terms.get(name.split("[")[0], 0.0), infinite):
            return f"gradient of {name}: {complaint}"
    return None


# ---- the ops


def adain(draw: Draw, seed: int) -> Case:
    B, C, H, W = draw.size(3, 0), draw.size(40, 0), draw.size(40, 0), draw.size(40, 0)
    arguments: dict[str, Any] = {"x": draw.tensor("x", B, C, H, W, along=(2, 3), dtype=draw.dtype)}
    for name in ("scale", "shift"):
        arguments[name] = draw.tensor(name, B, C, along=(1,))
    return normalised("adain", draw, seed, arguments)


def instance_norm(draw: Draw, seed: int) -> Case:
    B, C, H, W = draw.size(3, 0), draw.size(40, 0), draw.size(40, 0), draw.size(40, 0)
    x = draw.tensor("x", B, C, H, W, along=(2, 3), dtype=draw.dtype)
    return normalised("instance_norm", draw, seed, {"x": x})


def layer_norm(draw: Draw, seed: int) -> Case:
    B, C, H, W = draw.size(3, 0), draw.size(40, 2), draw.size(40, 1), draw.size(40, 2)
    x = draw.tensor("x", B, C, H, W, along=(1, 2, 3), dtype=draw.dtype)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)
    weight, bias = (draw.tensor(name, C, along=(0,)) for name in ("weight", "bias"))
    beyond = weight.detach().abs() > 1e30  # what is infinite then may also be NaN: it is a matter of rounding
    if beyond.any():
        weight = weight.detach().masked_fill(beyond, math.nan).requires_grad_(weight.requires_grad)
    arguments: dict[str, Any] = {"x": x, "weight": weight, "bias": bias}
    arguments["eps"] = draw.one_of(1e-5, 1e-5, 1.0, 1e10)
    truth, doubt = before_activation("layer_norm", arguments, (1, 2, 3))
    # The gradients of weight and bias have terms of all images.
    decided = not bool((truth.abs() < doubt).any())
    arguments["activation"] = draw.one_of("none", *(("relu", "leaky_relu") if decided else ()))
    together = padding(draw, arguments)
    terms = {}
    if C * H * W < 16:
        rstd = smallest_variance(x, (1, 2, 3), arguments["eps"]) ** -0.5
        terms["x"] = most(arguments["weight"]) * rstd * (1 + most(x) * rstd) * together  # the mean is rounded, too
    return draw.case("layer_norm", seed, arguments, rows=1, terms=terms)


def before_activation(op: str, arguments: dict[str, Any], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The result in float64, and within what distance of it rounding leaves a number, for those that share statistics
    over `axes`."""
    truth, *others = (forward(op, arguments, "reference", change)[0][0].detach() for change in (wide, same, rounded))
    doubt = torch.stack([(other.double() - truth).abs() for other in others]).nan_to_num(0, 0, 0)
    return truth, 8 * doubt.amax(0).amax(axes, keepdim=True) if truth.numel() else truth


def padding(draw: Draw, arguments: dict[str, Any]) -> int:
    """Give the arguments a padding, or none. Returns how many gradients, at most, are of positions that show one."""
    least = min(arguments["x"].shape[2:])
    if least == 0 or not draw.maybe(0.4):
        return 1
    mode = draw.one_of("reflect", "replicate")
    pad = draw.random.randint(0, min(4, least - 1 if mode == "reflect" else 4))
    arguments |= {"pad": pad, "pad_mode": mode}
    return (2 * pad + 1) ** 2


def smallest_variance(x: Tensor, axes: tuple[int, ...], eps: float) -> float:
    variance = x.detach().double().var(axes, correction=0) + eps
    return float(variance[variance > 0].min()) if (variance > 0).any() else 1.0


def normalised(op: str, draw: Draw, seed: int, arguments: dict[str, Any]) -> Case:
    """With the options of both, and the planes that lie on a kink of the activation found."""
    before = {**arguments, "eps": draw.one_of(1e-5, 1e-5, 0.0, 1e-12, 1.0, 1e10)}
    truth, doubt = before_activation(op, before, (2, 3))
    arguments = {**before, "activation": draw.one_of("none", "relu", "leaky_relu")}
    undecided = (truth.abs() < doubt).flatten(2).any(2) if arguments["activation"] != "none" else None
    if draw.maybe():
        arguments["residual"] = draw.tensor("residual", *arguments["x"].shape, along=(2, 3))
    together = padding(draw, arguments)
    terms = {}
    if 0 < arguments["x"].shape[2:].numel() < 16:  # of two pixels, for example, the gradient is zero but for eps
        smallest = smallest_variance(arguments["x"], (2, 3), before["eps"])
        terms["x"] = most(arguments.get("scale", torch.ones(1))) * smallest**-0.5 * together
    return draw.case(op, seed, arguments, rows=2, undecided=undecided, terms=terms)


def gather_patches(draw: Draw, seed: int) -> Case:
    B, C, H, W = draw.size(3, 0), draw.size(70, 0), draw.size(30), draw.size(30)
    features = draw.tensor("features", B, C, H, W, along=(1,), dtype=draw.dtype)
    shape = (draw.size(150, 0),) if draw.maybe() else (B, draw.size(150, 0))
    ids, layout = draw.laid_out(draw.integers(0, H * W, *shape))
    draw.notes.append(f"ids: {layout}")
    return draw.case("gather_patches", seed, {"features": features, "ids": ids}, exact=True)


def blurred(op: str, least: int, draw: Draw, seed: int) -> Case:
    shape = draw.size(3, 0), draw.size(70, 0), draw.size(40, least), draw.size(40, least)
    return draw.case(op, seed, {"x": draw.tensor("x", *shape, along=(2, 3), dtype=draw.dtype)}, rows=2)


def blur_down(draw: Draw, seed: int) -> Case:
    return blurred("blur_down", 2, draw, seed)


def blur_up(draw: Draw, seed: int) -> Case:
    return blurred("blur_up", 1, draw, seed)


def sample_patch_ids(draw: Draw, seed: int) -> Case:
    positions = draw.one_of(draw.size(50, 0), draw.size(5000, 0), 2**31 + 5, 2**40, 2**62)
    arguments: dict[str, Any] = {"num_positions": positions, "num_patches": draw.size(300, 0)}
    if draw.maybe():
        arguments["batch"] = draw.size(5, 0)
    return draw.case("sample_patch_ids", seed, {**arguments, "generator": seed}, exact=True)


def nce_layer(draw: Draw, name: str, B: int, P: int, C: int) -> Tensor:
    return draw.tensor(name, B, P, C, along=(2,), dtype=draw.some_dtype())


def nce_options(draw: Draw) -> dict[str, Any]:
    return {
        # NumPy, which multiplies for the interpreter, rounds by the shapes of blocks: too much for large logits.
        "temperature": draw.one_of(0.07, 0.07, 0.2, 1.0, 50.0, *((1e-2, 1e-3) if INTERPRET else (1e-3, 1e-5, 1e-7))),
        "negatives": draw.one_of("image", "image", "batch", "none", None),
        "normalize": draw.maybe(0.4),
        "loss": draw.one_of("infonce", "decoupled"),
        "reduction": draw.one_of("none", "mean", "sum"),
    }


def nce_negatives(draw: Draw, arguments: dict[str, Any], shapes: Sequence[tuple[int, int, int]]) -> None:
    """Offsets and extra negatives of layers of `shapes` (B, P, C)."""
    counts = [B * P if arguments["negatives"] == "batch" else P for B, P, _ in shapes]
    if arguments["negatives"] in ("image", "batch") and draw.maybe(0.4):
        if draw.maybe():
            arguments["num_negatives"] = draw.size(20, 0)
        else:
            others = max(min(counts, default=0) - 1, 0)
            steps = torch.randperm(others, generator=draw.generator, device="cpu")[: draw.size(20, 0)] + 1
            arguments["offsets"] = steps.to(DEVICE)
    if TRITON and arguments.keys() & {"offsets", "num_negatives"}:
        # The reference multiplies a key that is not counted by zero, which is NaN if it is infinite; Triton's kernels
        # do not read it.
        name = "key" if "key" in arguments else "keys"
        arguments[name] = mapped(arguments[name], finite)
    if draw.maybe(0.4):
        arguments["extra_negatives"] = nce_extra(draw, "extra_negatives", *shapes)
    # A row without negatives is zero whatever its vectors are, and its gradient zero, or zero times an infinite one.
    draw.finite = arguments["loss"] == "decoupled"


def finite(x: Tensor) -> Tensor:
    return x.detach().nan_to_num(0, 0, 0).requires_grad_(x.requires_grad)


def nce_extra(draw: Draw, name: str, *shapes: tuple[int, int, int]) -> Tensor:
    extra = draw.tensor(name, draw.size(70, 0), shapes[0][2] if shapes else 3, along=(1,))
    # Without queries its gradient is zero, and not zero times NaN as autograd has it.
    return extra if all(B * P > 0 for B, P, _ in shapes) else extra.detach()


def bounded(temperature: float, product: float) -> float:
    """A temperature by which products overflow float32, or are no larger than float64 can still tell weights of."""
    return max(temperature, product * 1e-12) if product / temperature < LARGEST else temperature


def nce_terms(arguments: dict[str, Any], queries: list[Tensor], keys: list[Tensor]) -> dict[str, float]:
    extra = arguments.get("extra_negatives", [])
    # A kernel divides vectors by the temperature before it multiplies with the upstream gradient: they fit float32.
    largest_number = most(*queries, *keys, *(extra if isinstance(extra, list) else [extra]))
    arguments["temperature"] = max(arguments["temperature"], largest_number / LARGEST)
    vectors = {"query": queries, "key": keys, "extra_negatives": extra if isinstance(extra, list) else [extra]}
    found = {name: [lengths(x, -1) for x in tensors] or [(1.0, 0.0)] for name, tensors in vectors.items()}
    least, largest = ({name: pick(v[i] for v in found[name]) for name in found} for i, pick in ((0, min), (1, max)))
    if arguments["normalize"]:
        largest = dict.fromkeys(largest, 1.0)
    else:
        least = dict.fromkeys(least, 1.0)
    negatives, count = (
        max(largest["key"], largest["extra_negatives"]),
        max((math.prod(q.shape[:2]) for q in queries), default=0),
    )
    size = {"query": negatives, "key": largest["query"] * count**0.5, "extra_negatives": largest["query"] * count**0.5}
    arguments["temperature"] = bounded(arguments["temperature"], largest["query"] * negatives)
    terms = {name: size[name] / arguments["temperature"] / (least[name] + 1e-7) for name in size}
    return {
        **terms,
        "queries": terms["query"],
        "keys": terms["key"],
        "result": float(count if arguments["reduction"] == "sum" else 1),
    }


def patch_nce(draw: Draw, seed: int) -> Case:
    B, P, C = draw.size(4, 0), draw.size(draw.one_of(40, 150), 0), draw.size(draw.one_of(30, 100), 0)
    arguments = {
        "query": nce_layer(draw, "query", B, P, C),
        "key": nce_layer(draw, "key", B, P, C),
        **nce_options(draw),
    }
    nce_negatives(draw, arguments, [(B, P, C)])
    terms = nce_terms(arguments, [arguments["query"]], [arguments["key"]])
    return draw.case("patch_nce", seed, arguments, rows=2, terms=terms)


def patch_nce_layers(draw: Draw, seed: int) -> Case:
    layers = draw.size(10, 0)
    shapes = [(draw.size(3, 0), draw.size(40, 0), draw.size(40, 0)) for _ in range(layers)]
    if draw.maybe():
        shapes = shapes[:1] * layers
    arguments = {
        name: [nce_layer(draw, f"{name}[{i}]", *shape) for i, shape in enumerate(shapes)]
        for name in ("queries", "keys")
    }
    arguments |= nce_options(draw)
    nce_negatives(draw, arguments, shapes)
    if "extra_negatives" in arguments and (draw.maybe() or len({C for _, _, C in shapes}) > 1):
        arguments["extra_negatives"] = [
            nce_extra(draw, f"extra_negatives[{i}]", shape) for i, shape in enumerate(shapes)
        ]
    terms = nce_terms(arguments, arguments["queries"], arguments["keys"])
    return draw.case("patch_nce_layers", seed, arguments, rows=2, terms=terms)


def dag_select(draw: Draw, seed: int) -> Case:
    B, h, w, H, W = draw.size(3, 0), draw.size(20), draw.size(20), draw.size(40), draw.size(40)
    score = draw.tensor("score", B, 1, h, w, along=(2, 3), dtype=draw.dtype)
    arguments: dict[str, Any] = {"score": score, "size": draw.one_of((H, W), [H, W]), "num_patches": draw.size(100, 0)}
    arguments["importance"] = draw.one_of(0, 1, 0.5, draw.random.random())
    if draw.maybe():
        K = draw.random.randint(min(arguments["num_patches"], H * W), H * W)
        drawn = [torch.randperm(H * W, generator=draw.generator, device="cpu")[:K] for _ in range(max(B, 1))]
        rows = torch.stack(drawn).to(DEVICE)
        arguments["candidates"] = rows[0] if draw.maybe() else draw.laid_out(rows[:B])[0]
    else:
        arguments |= {"oversample": draw.one_of(1, 4, 1.5, 1e6), "generator": seed}
    return draw.case("dag_select", seed, arguments, exact=True)


def classes(draw: Draw, sizes: Sequence[Sequence[int]], N: int) -> tuple[list[Tensor], Tensor] | None:
    """Classes of the pixels of maps and of items, of which some occur in one of them only; or none."""
    if draw.maybe():
        return None
    low, high = draw.one_of((0, 1), (0, 4), (-100, 100), (-1, 9))
    dtype = draw.one_of(torch.int64, torch.int64, torch.int32, torch.int8)
    pixels = [draw.laid_out(draw.integers(low, high, *size).to(dtype))[0] for size in sizes]
    return pixels, draw.integers(low, high, N).to(draw.one_of(torch.int64, torch.int32))


def memory_read(draw: Draw, seed: int) -> Case:
    B, C, H, W = draw.size(3, 0), draw.size(50, 0), draw.size(20, 0), draw.size(20, 0)
    N, width = draw.size(40), draw.size(50, 0)
    arguments: dict[str, Any] = {
        "content": draw.tensor("content", B, C, H, W, along=(1,), dtype=draw.dtype),
        "keys": draw.tensor("keys", N, C, along=(1,)),
        "values": draw.tensor("values", N, width, along=(1,)),
    }
    if found := classes(draw, [(B, H, W)], N):
        arguments |= {"pixel_class": found[0][0], "item_class": found[1]}
    size = width * most(arguments["values"])
    terms = {
        "content": size / lengths(arguments["content"], 1)[0],
        "keys": size / lengths(arguments["keys"], 1)[0] * (B * H * W) ** 0.5,
    }
    return draw.case("memory_read", seed, arguments, terms=terms)


def memory_update(draw: Draw, seed: int) -> Case:
    D, N, C, width = draw.size(3), draw.size(40), draw.size(50, 0), draw.size(50, 0)
    sizes = [(draw.size(3, 0), draw.size(20, 0), draw.size(20, 0)) for _ in range(D)]
    arguments: dict[str, Any] = {
        "keys": draw.tensor("keys", N, C, along=(1,)),
        "values": draw.tensor("values", D, N, width, along=(2,)),
    }
    for name, channels in (("contents", C), ("styles", width)):
        arguments[name] = [
            draw.tensor(f"{name}[{d}]", B, channels, H, W, along=(1,)) for d, (B, H, W) in enumerate(sizes)
        ]
    if found := classes(draw, sizes, N):
        arguments |= {"pixel_classes": found[0], "item_class": found[1]}
    return draw.case("memory_update", seed, arguments)


def memory_contrast(draw: Draw, seed: int) -> Case:
    B, C, H, W, N = draw.size(3, 0), draw.size(50, 0), draw.size(20, 0), draw.size(20, 0), draw.size(40)
    features = draw.tensor("features", B, C, H, W, along=(1,), dtype=draw.dtype)
    arguments: dict[str, Any] = {
        "features": features,
        "items": draw.tensor("items", N, C, along=(1,)),
        "temperature": draw.one_of(0.07, 0.2, 1.0, 50.0, 1e-3, 1e-5, 1e-7),
        "reduction": draw.one_of("none", "mean", "sum"),
    }
    if found := classes(draw, [(B, H, W)], N):
        arguments |= {"pixel_class": found[0][0], "item_class": found[1]}
    arguments["features"] = without_near_ties(features, arguments["items"].detach(), *(found or (None, None)))
    product = lengths(arguments["features"], 1)[1] * lengths(arguments["items"], 1)[1]
    tau = arguments["temperature"] = bounded(arguments["temperature"], product)
    count = B * H * W
    terms = {
        "result": float(count if arguments["reduction"] == "sum" else 1),
        "features": most(arguments["items"]) / tau,
        "items": most(arguments["features"]) / tau * count**0.5,
    }
    return draw.case("memory_contrast", seed, arguments, terms=terms)


def without_near_ties(
    features: Tensor, items: Tensor, pixels: list[Tensor] | None, item_class: Tensor | None
) -> Tensor:
    """Zero where rounding decides which item is nearest to a pixel: it decides the gradient too. (Of zero vectors all
    dot products are equal, and the first item is nearest.)
    """
    f, i = features.detach().double(), items.double()
    logits, size = (torch.einsum("bchw,nc->bnhw", *pair) for pair in ((f, i), (f.abs(), i.abs())))
    if pixels is not None and item_class is not None:
        logits = logits.masked_fill(pixels[0][:, None] != item_class[None, :, None, None], -math.inf)
    if logits.numel() == 0 or len(items) == 1:
        return features
    first, second = logits.topk(2, dim=1).values.unbind(1)
    near = (first - second <= 64 * EPS * size.amax(1)) & (f != 0).any(1)
    if not near.any():
        return features
    changed = features.detach()
    if 0 in features.stride():  # which cannot be written to
        changed = changed.contiguous()
    return changed.masked_fill_(near[:, None], 0).requires_grad_(features.requires_grad)


DRAWS: dict[str, Callable[[Draw, int], Case]] = {
    draw.__name__: draw
    for draw in (adain, instance_norm, layer_norm, gather_patches, sample_patch_ids, patch_nce, patch_nce_layers)
    + (dag_select, memory_read, memory_update, memory_contrast, blur_down, blur_up)
}


# ---- wrong arguments


def assert_wrong_is_named(op: str, seed: int) -> None:
    """Raises AssertionError if the op, one of whose arguments may be anything, raises another error than it should."""
    draw = Draw(op, seed)
    case = DRAWS[op](draw, seed)
    arguments = {name: value for name, value in case.arguments.items() if name != "generator"}
    if "num_positions" in arguments:
        arguments["num_positions"] %= 5000  # or there is no memory for as many patches
    name = draw.one_of(*arguments)
    arguments[name] = wrong(draw, arguments[name])
    case.arguments, case.notes = arguments, [f"where {name} is wrong"]
    try:
        getattr(ops, op)(**arguments)
    except (ValueError, TypeError) as error:
        assert f"{op}: " in str(error), f"{case}\n    {type(error).__name__} does not name the op: {error}"
    except Exception as error:
        raise AssertionError(f"{case}\n    raised {type(error).__name__}: {error}") from error


def wrong(draw: Draw, value: Any) -> Any:
    if isinstance(value, list) and value and draw.maybe(0.7):
        i = draw.random.randrange(len(value))
        return draw.one_of(value[1:], [*value, value[0]], [*value[:i], wrong(draw, value[i]), *value[i + 1 :]])
    if isinstance(value, Tensor) and draw.maybe(0.8):
        return wrong_tensor(draw, value)
    # Counts that fit are not among them: PyTorch itself says, by RuntimeError, that there is no memory for so much.
    big = draw.one_of(2**63, 2**64, -1, -(2**63), -(2**63) - 1)
    other = draw.one_of(None, "text", b"x", [], {}, object(), (1, 2), (2**40, 2**40), (2**63, 1), [1.5])
    return draw.one_of(other, other, big, 0, True, 1.5, -1.5, math.nan, math.inf)


def wrong_tensor(draw: Draw, x: Tensor) -> Any:
    """A tensor of another dtype, layout, device or shape than x, or no tensor at all."""
    x = torch.zeros_like(x.detach(), memory_format=torch.contiguous_format)
    kinds: list[Callable[[], Any]] = [lambda dtype=dtype: x.to(dtype) for dtype in OTHER_DTYPES]
    kinds += [
        lambda: x.to("meta"),
        x.tolist,
        x.cpu().float().numpy,
        lambda: x[None],
        lambda: x[..., None],
        x.flatten,
        x.sum,
    ]
    kinds += [x.to_sparse, lambda: torch.nested.nested_tensor([x])]
    if DEVICE.type == "cpu" and x.numel() and x.dtype == torch.float32:
        kinds.append(x.to_mkldnn)
    if x.dim():
        d = draw.random.randrange(x.dim())
        more = list(x.shape)
        more[d] += 1
        kinds += [lambda: x.new_zeros(more)] * 4 + [lambda: x.narrow(d, 0, max(x.shape[d] - 1, 0))] * 4
    return draw.one_of(*kinds)()


OTHER_DTYPES = (torch.int64, torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float64)


# ---- the search


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw calls of the ops and compare them with the references.")
    parser.add_argument("op", nargs="?", choices=tuple(DRAWS), help="this op only")
    parser.add_argument("seed", nargs="?", type=int, help="this case only, as a failure names it")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to search")
    options = parser.parse_args()
    names = [options.op] if options.op else list(DRAWS)
    if options.seed is not None:
        return failed(options.op, options.seed)
    other = None
    if not INTERPRET and importlib.util.find_spec("triton"):  # at the same time, since it is asked for by the process
        other = subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "TRITON_INTERPRET": "1"})
    # Should the process crash, this file says at which case.
    at_hand = Path(__file__).parents[2] / "build" / f"fuzz{'-triton' if INTERPRET else ''}.txt"
    at_hand.parent.mkdir(exist_ok=True)
    end, count, failures = time.monotonic() + 60 * options.minutes, 0, 0
    seeds = random.SystemRandom()
    while time.monotonic() < end:
        op, seed = names[count % len(names)], seeds.getrandbits(32)
        at_hand.write_text(f"{op} {seed}\n")
        failures += failed(op, seed)
        count += 1
    print(f"{count} cases {'in the interpreter ' if INTERPRET else ''}of {', '.join(names)}: {failures} failed")
    return int(failures > 0 or (other is not None and other.wait() != 0))


def failed(op: str, seed: int) -> bool:
    try:
        assert_agrees(op, seed)
        assert_wrong_is_named(op, seed)
    except AssertionError as error:
        print(error, flush=True)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
