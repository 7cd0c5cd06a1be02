"""Modules and functions made of ops."""

from cgcl_fast.nn.adain import AdaIN, InstanceNorm
from cgcl_fast.nn.blur_pool import BlurDown, BlurUp, blur, blur_down, blur_up
from cgcl_fast.nn.gan import GANLoss
from cgcl_fast.nn.gradient_penalty import GradientPenalty
from cgcl_fast.nn.image_pool import ImagePool
from cgcl_fast.nn.key_queue import KeyQueue, momentum_update
from cgcl_fast.nn.memory import ClassMemory, class_map
from cgcl_fast.nn.pad import reflect_pad
from cgcl_fast.nn.patch_nce import PatchNCE
from cgcl_fast.nn.projector import Projector
from cgcl_fast.nn.recompute import conv_of
from cgcl_fast.nn.sampler import DAGSampler, PatchSampler

__all__ = [
    "AdaIN",
    "BlurDown",
    "BlurUp",
    "ClassMemory",
    "DAGSampler",
    "GANLoss",
    "GradientPenalty",
    "ImagePool",
    "InstanceNorm",
    "KeyQueue",
    "PatchNCE",
    "PatchSampler",
    "Projector",
    "blur",
    "blur_down",
    "blur_up",
    "class_map",
    "conv_of",
    "momentum_update",
    "reflect_pad",
]
