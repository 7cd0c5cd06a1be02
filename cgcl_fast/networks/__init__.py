"""Generators, encoders and discriminators."""

from cgcl_fast.networks.files import generator_bytes, load_generator, save_generator
from cgcl_fast.networks.init import init_weights
from cgcl_fast.networks.patchgan import PatchDiscriminator
from cgcl_fast.networks.resnet import ResnetBlock, ResnetGenerator

__all__ = [
    "PatchDiscriminator",
    "ResnetBlock",
    "ResnetGenerator",
    "generator_bytes",
    "init_weights",
    "load_generator",
    "save_generator",
]
