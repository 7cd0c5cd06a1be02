"""torch.compile with inductor on a GPU: every op, and modules, in one graph."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import CASES, NAMES, OpCase, close, loss_and_images


@pytest.mark.compile
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_inductor(case: OpCase) -> None:
    torch._dynamo.reset()
    arguments = case.arguments("cuda")
    compiled = torch.compile(case.function, fullgraph=True, dynamic=False)
    close(case.run(arguments, compiled), case.run(arguments), 1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_modules_compile_as_one_graph(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    module, batch = loss_and_images()
    gradients = []
    for function in (module, torch.compile(module, fullgraph=True)):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss = function(*batch)
        gradients.append([loss.detach(), *torch.autograd.grad(loss, list(module.parameters()))])
    close(gradients[1], gradients[0], 1e-3 if dtype == torch.float32 else 0.1)
