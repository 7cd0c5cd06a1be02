"""The cost of a training step for every method, measured in one run; CUT and FastCUT also beside a plain step with
stock modules, in the published order, with four encoder passes.

    python -m benchmarks.run --select "step and 256 and cgcl_fast"      the cost table alone (`make cost`)

Each case is the whole step with the paper's networks at 256x256 and batch 1, including Adam, with new random positions:
an image of each domain, or of a pair of domains with their instances (CGL, CGCL), or a minibatch of crops (SinCUT).
FastCUT flips half of its steps, so its case times two steps, one of them flipped. EnCo has its identity term in the
first half of a training only. "compile" is the plain step with compiled generator, encoder passes and discriminator. On
a CPU the plain step makes the gradients that reach its instance norms contiguous, because PyTorch's would be wrong at
batch 1 otherwise (tests/methods/plain_cut.py).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.data import open_dataset
from cgcl_fast.data.streets import DOMAINS
from cgcl_fast.data.unpaired import UnpairedDataset, collate
from cgcl_fast.methods import METHODS
from cgcl_fast.networks import init_weights

from .case import BOTH, Case, Run


def images(size: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, size, size, generator=generator).mul_(2).sub_(1).to(device) for _ in range(2))
    return a, b


def plain_step(method: str, size: int, compile_backend: str | None, device: str) -> Run:
    from tests.methods import plain_cut

    torch.manual_seed(0)
    G, D, H = plain_cut.Generator(), plain_cut.Discriminator(), plain_cut.Heads((3, 128, 256, 256, 256))
    for network in (G, D, H):
        init_weights(network.to(device), "xavier", 0.02)
    weights = {"lambda_x": 10.0, "lambda_y": 0.0} if method == "fastcut" else {}
    plain = plain_cut.PlainCUT(G, D, H, **weights)
    a, b = images(size, device)
    with torch.no_grad():
        positions = [feature[0, 0].numel() for feature in G.encode(a, plain.layers)]
    if compile_backend is not None:
        torch._dynamo.reset()
        # PyTorch 2.15's inductor fails an assertion in the gradient of replication padding if its layout pass made the
        # input channels_last; without that pass it works.
        options = {"layout_optimization": False} if compile_backend == "inductor" else None
        for network, name in ((G, "forward"), (G, "encode"), (D, "forward")):
            compiled = torch.compile(getattr(network, name), dynamic=False, backend=compile_backend, options=options)
            setattr(network, name, compiled)

    def draw() -> list[Tensor]:
        return [torch.randperm(count)[: plain.num_patches] for count in positions]

    def run() -> list[Tensor]:
        losses = []
        for flipped in (False, True) if method == "fastcut" else (False,):
            values = plain.step(a, b, (draw(), draw()), flipped=flipped)
            losses += [values["D"], values["G"]]
        return losses

    return run


def dataset_of(method: str, size: int, config: Any) -> UnpairedDataset:
    """The built-in streets, with everything that the method needs."""
    kind = METHODS[method]
    domains = (config.domains or DOMAINS) if hasattr(config, "domains") else kind.domains
    return open_dataset(None, size=size, domains=domains, needs=kind.needs(config))


def batch_of(method: str, size: int, device: str, config: Any = None, count: int = 1) -> dict[str, Any]:
    """A batch of `count` items of the built-in streets, with everything that the method needs (with its paper's config
    unless another is given)."""
    dataset = dataset_of(method, size, config or METHODS[method].Config())
    items = (dataset[index] for index in range(len(dataset)))
    # A step without instances would do only half of the work.
    whole = (item for item in items if all(item.get(f"{side}_has_object", True) for side in "AB"))
    batch = collate(list(itertools.islice(whole, count)))
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def fast_step(method: str, size: int, progress: float, device: str) -> Run:
    """The method's phases with their optimisers, as the engine runs them after the share `progress` of the training."""
    torch.manual_seed(0)
    model = METHODS[method](METHODS[method].Config()).to(device)
    batch = model.prepare(batch_of(method, size, "cpu"))
    batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    phases = model.phases()
    optimizers = []
    for phase in phases:
        parameters = itertools.chain.from_iterable(getattr(model, name).parameters() for name in phase.networks)
        optimizers.append(torch.optim.Adam(parameters, phase.optimizer.lr, phase.optimizer.betas))

    def step() -> list[Tensor]:
        shared = model.choose(progress)
        losses = []
        for phase, optimizer in zip(phases, optimizers, strict=True):
            for name in phase.frozen:
                getattr(model, name).requires_grad_(False)
            loss = phase.loss(batch, shared)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if phase.after is not None:
                with torch.no_grad():
                    phase.after([batch], [shared])
            for name in phase.frozen:
                getattr(model, name).requires_grad_(True)
            losses.append(loss.detach())
        return losses

    def run() -> list[Tensor]:
        if method != "fastcut":
            return step()
        losses = []
        for seed in (seed_of_draw(above_half=True), seed_of_draw(above_half=False)):
            torch.manual_seed(seed)  # a step's first draw is the flip
            losses += step()
        return losses

    return run


@functools.cache
def seed_of_draw(above_half: bool) -> int:
    """A seed after which torch's first uniform draw is above, or below, 1/2."""
    return next(s for s in itertools.count() if bool(torch.rand((), generator=seeded(s)) >= 0.5) == above_half)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(method: str, size: int, progress: float, implementation: str, compile_backend: str, device: str) -> Run:
    if implementation == "cgcl_fast":
        return fast_step(method, size, progress, device)
    return plain_step(method, size, compile_backend if implementation == "compile" else None, device)


def make(
    method: str,
    size: int,
    implementations: tuple[str, ...],
    note: str = "",
    progress: float = 0.0,
    **options: object,
) -> Case:
    return Case(
        f"{method} step",
        f"(1, 3, {size}, {size}){note}",
        BOTH,
        implementations,
        functools.partial(build, method, size, progress),
        agree=False,
        **options,
    )


#: Methods whose step changes during training: names of the cases, and their progress.
HALVES = {"enco": ((" first half", 0.0), (" second half", 0.5))}
ROUNDS = {"enco": 3, "cyclegan": 2}  # others take a minute per step
ALL = ("eager", "compile", "cgcl_fast")
CASES = [
    make("cut", 128, ("eager", "cgcl_fast"), rounds=5),
    make("cut", 256, ALL, rounds=3, slow=True, memory="step"),
    make("fastcut", 256, ("eager", "cgcl_fast"), " two steps, one flipped", rounds=1, slow=True, memory="step"),
    make("enco", 128, ("cgcl_fast",), rounds=3),
    *(
        make(method, 256, ("cgcl_fast",), note, progress, rounds=ROUNDS.get(method, 1), slow=True, memory="step")
        for method in METHODS
        if method not in ("cut", "fastcut")  # above
        for note, progress in HALVES.get(method, (("", 0.0),))
    ),
]


def test_step(case: Case, implementation: str, measure: Callable[[Case, str], None]) -> None:
    measure(case, implementation)
