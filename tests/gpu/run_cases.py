"""Run every op once, forward and backward, on each backend: what compute-sanitizer watches.

compute-sanitizer --tool memcheck python tests/gpu/run_cases.py cuda
python tests/gpu/run_cases.py cpu                                       the same on a CPU, as a rehearsal
"""

from __future__ import annotations

import sys

import torch
from gpu_cases import CASES, NAMES

import cgcl_fast
from cgcl_fast import _backend, ops


def main(device: str) -> None:
    for case, name in zip(CASES, NAMES, strict=True):
        op = "patch_nce" if case.op == "patch_nce_layers" else case.op
        for backend in ("native", "triton"):
            if not _backend.has_kernel(op, backend, device):
                continue
            for dtype in (torch.float32, torch.bfloat16):
                with cgcl_fast.backend(backend):
                    case.run(case.arguments(device, dtype))
                print(f"{name} {backend} {dtype}", flush=True)
    for positions, patches in ((4096, 256), (300, 256)):
        ops.sample_patch_ids(positions, patches, batch=3, device=device)
    if device == "cuda":
        out_of_range()
        torch.cuda.synchronize()
    print("every op has run")


def out_of_range() -> None:
    """A CPU raises; a GPU must neither read nor write there."""
    wrong = torch.tensor([3, -1, 400, 2**40, -(2**63)], device="cuda")
    x = torch.randn(2, 20, 20, 20, device="cuda", requires_grad=True)
    ops.gather_patches(x, wrong).nansum().backward()
    ops.gather_patches(x.contiguous(memory_format=torch.channels_last), wrong).nansum().backward()
    ops.dag_select(torch.randn(2, 1, 10, 10, device="cuda"), (20, 20), 4, candidates=wrong)
    q, k = (torch.randn(2, 50, 32, device="cuda", requires_grad=True) for _ in range(2))
    ops.patch_nce(q, k, offsets=wrong, normalize=True).backward()


if __name__ == "__main__":
    main(sys.argv[1])
