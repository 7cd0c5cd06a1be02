"""The project's targets, on 2 cores and on an H100 or H200, in float32. The report says which of them a result meets;
no test asserts them.

A speed-up is eager time over cgcl_fast's, on a GPU of the device's times. Each op with a target must also not be slower
than `torch.compile`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .case import BOTH, FORWARD

SPEEDUP = "speed-up over eager"
COMPILE = "speed-up over compile"
FLOOR = "share of the copy floor"
MEMORY = "peak extra memory, bytes"
STEP_TIME = "time, of eager's"
STEP_MEMORY = "peak resident memory, of eager's"
STEP_OWN_MEMORY = "peak memory beyond libraries, networks and images, of eager's"
CUT_TIME = "time, of CUT's step"
#: Quantities that must be at most the target; the others at least.
AT_MOST = (MEMORY, STEP_TIME, STEP_MEMORY, STEP_OWN_MEMORY, CUT_TIME)


@dataclass(frozen=True)
class Target:
    op: str
    shape: str
    direction: str
    quantity: str
    bound: float

    def met(self, value: float) -> bool:
        return value <= self.bound if self.quantity in AT_MOST else value >= self.bound


#: (op, shape, direction) -> minimum speed-up over eager.
SPEEDUPS = {
    ("adain", "(4, 256, 64, 64) relu", BOTH): 3.0,
    ("adain", "(1, 64, 256, 256) relu", BOTH): 4.0,
    ("gather_patches", "(1, 128, 256, 256) 256 ids", BOTH): 6.0,
    ("sample_patch_ids", "65536, 256", FORWARD): 20.0,
    ("patch_nce", "(1, 256, 256) dQ", BOTH): 1.2,
    ("patch_nce", "(1, 256, 256) dQ dK", BOTH): 1.2,
    ("patch_nce", "(16, 256, 256) dQ", BOTH): 1.25,
    ("patch_nce", "(16, 256, 256) dQ dK", BOTH): 1.25,
    ("patch_nce", "(1, 4096, 256) dQ", BOTH): 2.5,
    ("patch_nce", "(1, 4096, 256) dQ dK", BOTH): 2.5,
    ("dag_select", "30x30 to 64x64, 256 ids", FORWARD): 3.0,
    ("dag_select", "30x30 to 256x256, 256 ids", FORWARD): 10.0,
    ("memory_read", "(1, 256, 90, 90) 20 items", BOTH): 2.5,
    ("memory_update", "2 x (1, 256, 90, 90) 20 items", FORWARD): 4.0,
}

TARGETS = [
    *(Target(*case, SPEEDUP, least) for case, least in SPEEDUPS.items()),
    *(Target(*case, COMPILE, 1.0) for case in SPEEDUPS),
    Target("adain", "(4, 256, 64, 64) relu", FORWARD, FLOOR, 0.6),
    Target("adain", "(1, 64, 256, 256) relu", FORWARD, FLOOR, 0.6),
    *(Target("patch_nce", f"(1, 4096, 256) {g}", BOTH, MEMORY, 4096 * 4096 * 4 / 10) for g in ("dQ", "dQ dK")),
    Target("cut step", "(1, 3, 256, 256)", BOTH, STEP_TIME, 0.80),
    Target("cut step", "(1, 3, 256, 256)", BOTH, STEP_MEMORY, 0.75),
    Target("cut step", "(1, 3, 256, 256)", BOTH, STEP_OWN_MEMORY, 0.75),
    Target("enco step", "(1, 3, 256, 256) first half", BOTH, CUT_TIME, 0.75),
    Target("enco step", "(1, 3, 256, 256) second half", BOTH, CUT_TIME, 0.50),
]

FIVE_LAYERS = ("patch_nce_layers", "5 x (1, 256, 256) dQ", BOTH)
#: On a GPU, for `python -m benchmarks.cuda`. The floor of a gather's backward is that of a fill.
CUDA_TARGETS = [
    Target("adain", "(64, 256, 64, 64) relu", FORWARD, FLOOR, 0.85),
    Target("adain", "(64, 256, 64, 64) relu", BOTH, FLOOR, 0.85),
    Target("adain", "(1, 256, 64, 64) relu", BOTH, SPEEDUP, 3.0),
    Target("adain", "(1, 64, 256, 256) relu", BOTH, SPEEDUP, 3.0),
    Target("gather_patches", "(16, 128, 256, 256) 256 ids", "backward", FLOOR, 0.9),
    Target(*FIVE_LAYERS, SPEEDUP, 5.0),
    Target(*FIVE_LAYERS, COMPILE, 2.0),
    Target("dag_select", "30x30 to 64x64, 256 ids", FORWARD, SPEEDUP, 10.0),
    Target("dag_select", "30x30 to 256x256, 256 ids", FORWARD, SPEEDUP, 10.0),
    Target("memory_read", "(1, 256, 90, 90) 20 items", BOTH, SPEEDUP, 4.0),
    Target("memory_update", "2 x (1, 256, 90, 90) 20 items", FORWARD, SPEEDUP, 4.0),
]


def of_suite(name: str) -> list[Target]:
    """The targets for results of `benchmarks.run` ("cpu") or `benchmarks.cuda` ("cuda")."""
    return CUDA_TARGETS if name == "cuda" else TARGETS
