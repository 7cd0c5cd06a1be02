"""Every method at tiny size, with all options that change a step's work, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cgcl_fast.methods import METHODS, Method

CUT = {"ngf": 2, "ndf": 2, "d_layers": 2, "n_blocks": 1, "n_down": 1, "nce_layers": (0, 4, 8), "nce_dim": 8,
       "num_patches": 16}  # fmt: skip
ENCO = {"ngf": 2, "ndf": 2, "d_layers": 2, "n_blocks": 5, "n_down": 1, "scales": (1, 2), "nce_dim": 8,
        "num_patches": 16}  # fmt: skip
SINCUT = {"ngf": 1, "ndf": 1, "n_blocks": 2, "num_crops": 2, "crop_size": 16, "nce_layers": (0, 2, 3), "nce_dim": 8}
MGUIT = {"ngf": 2, "ndf": 2, "n_blocks": 1, "style_nc": 4, "d_layers": 2, "n_scales": 2, "content_layers": 1,
         "init_gain": 0.1}  # fmt: skip
CGL = {"domains": ("sun", "night", "rain"), "object_size": 16, "ngf": 2, "ndf": 2, "d_layers": 2, "n_blocks": 1,
       "style_dim": 3, "mlp_dim": 8, "gp_every": 3}  # fmt: skip
CYCLEGAN = {"ngf": 2, "ndf": 2, "d_layers": 2, "n_blocks": 1, "n_down": 1}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cut": ("cut", CUT),
    "cut, external negatives": ("cut", {**CUT, "negatives": "external", "queue_size": 50}),
    "cut, all negatives, attention, dropout": (
        "cut",
        {**CUT, "negatives": "both", "queue_size": 50, "sampling": "dag", "dropout": True},
    ),
    "cut, flips, no adversary": ("cut", {**CUT, "flip_equivariance": True, "lambda_gan": 0.0, "negatives": "batch"}),
    "cut, pixels, hinge, attention of its own": (
        "cut",
        {**CUT, "net_d": "pixel", "gan": "hinge", "sampling": "dag", "oversample": 2.0, "importance": 0.8},
    ),
    "fastcut": ("fastcut", CUT),
    "sincut": ("sincut", SINCUT),
    "sincut, as published": (
        "sincut",
        {**SINCUT, "crops": "published", "networks": "published", "minibatch_stddev": False, "gan": "lsgan"},
    ),
    "enco": ("enco", ENCO),
    "enco, cosine, two projectors": ("enco", {**ENCO, "loss": "cosine", "shared_projector": False}),
    "enco, decoupled, fresh draws": ("enco", {**ENCO, "loss": "decoupled", "fresh_random": True}),
    "enco, as its later code": (
        "enco",
        {**ENCO, "loss": "cosine", "predictor_norm": True, "weights": "published", "fresh_random": True},
    ),
    "enco, random positions": ("enco", {**ENCO, "sampling": "random", "lambda_gan": 0.0}),
    "mguit": ("mguit", MGUIT),
    "mguit, published update, triplet": ("mguit", {**MGUIT, "update": "published", "memory_loss": "triplet"}),
    "mguit, the authors' terms": (
        "mguit",
        {**MGUIT, "memory_loss": "published", "memory_temperature": 0.1, "lambda_content_l1": 1.0,
         "lambda_content_kl": 0.01, "noise_in": "decoder", "clip_content": 5.0, "weight_decay": 1e-4},
    ),
    "mguit, single memory": ("mguit", {**MGUIT, "memory": "single"}),
    "cgl": ("cgl", CGL),
    "cgl, object generator": ("cgl", {**CGL, "cgc_generator": "object"}),
    "cgl, without crossing": ("cgl", {**CGL, "lambda_cgc": 0.0, "gp_every": 0}),
    "cgl, crossing later": ("cgl", {**CGL, "cross_from": 0.5}),
    "cgcl": ("cgcl", {**CGL, "num_patches_g": 16, "num_negatives_g": 5, "num_patches_o": 8, "num_negatives_o": 3,
                      "nce_dim": 8}),
    "cgcl, all negatives": ("cgcl", {**CGL, "num_patches_g": 16, "num_negatives_g": "all", "nce_dim": 8}),
    "cyclegan": ("cyclegan", {**CYCLEGAN, "pool_size": 3}),
    "cyclegan, no pool, no identity": ("cyclegan", {**CYCLEGAN, "pool_size": 0, "lambda_idt": 0.0, "dropout": True}),
    "cyclegan, batch norm": ("cyclegan", {**CYCLEGAN, "norm_g": "batch", "norm_d": "batch"}),
}  # fmt: skip
"""Name -> method and options."""

KEYS = {"fastcut": 2, "cut, flips, no adversary": 2, "enco": 2, "enco, cosine, two projectors": 2,
        "enco, decoupled, fresh draws": 2, "enco, random positions": 2,
        "enco, as its later code": 2, "cgl, crossing later": 2}  # fmt: skip
"""How many kinds of steps a training has, where it is not one."""


def method_of(case: str) -> Method:
    """The method of the case, with weights that depend on nothing but the case."""
    name, options = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return METHODS[name](METHODS[name].Config(**options))


def batch_of(case: str, number: int = 0, size: int = 32, images: int = 2) -> dict[str, Any]:
    """A batch of the case as a loader gives it, on the CPU: noise, with all that any method asks for. Boxes, instances
    and domains are others for each number, and sometimes there are none."""
    name, _ = CASES[case]
    generator = torch.Generator("cpu").manual_seed(number)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device="cpu")

    def randint(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator, device="cpu")

    batch: dict[str, Any] = {}
    for side in "AB":
        shape = (4, 3, 16, 16) if name == "sincut" else (images, 3, size, size)
        batch[side] = rand(*shape) * 2 - 1
        batch[f"{side}_paths"] = [f"{side}{number}"] * images
        batch[f"{side}_object"] = rand(images, 3, 16, 16) * 2 - 1
        batch[f"{side}_has_object"] = rand(images) < 0.7
        counts = [number % 3, 2][:images]
        corners = [rand(n, 4) * size / 2 for n in counts]
        batch[f"{side}_boxes"] = [torch.cat([c[:, :2], c[:, :2] + c[:, 2:] + 2], 1) for c in corners]
        batch[f"{side}_classes"] = [randint(3, n) for n in counts]
    batch["A_domain"] = randint(3, images)
    batch["B_domain"] = (batch["A_domain"] + 1 + randint(2, images)) % 3
    return batch
