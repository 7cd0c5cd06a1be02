"""Generators, encoders and discriminators."""

from cgcl_fast.networks.disentangled import AdaINDecoder, ContentEncoder, DisentangledGenerator, StyleEncoder
from cgcl_fast.networks.domain_discriminator import DomainDiscriminator
from cgcl_fast.networks.files import generator_bytes, load_generator, save_generator
from cgcl_fast.networks.init import init_weights
from cgcl_fast.networks.mguit import (
    ContentDiscriminator,
    MGUITGenerator,
    MultiScaleDiscriminator,
    StyleMapEncoder,
)
from cgcl_fast.networks.patchgan import PatchDiscriminator
from cgcl_fast.networks.pixelgan import PixelDiscriminator
from cgcl_fast.networks.resnet import ResnetBlock, ResnetGenerator
from cgcl_fast.networks.styled import StyledGenerator
from cgcl_fast.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from cgcl_fast.networks.unet import UnetGenerator

__all__ = [
    "AdaINDecoder",
    "ContentDiscriminator",
    "ContentEncoder",
    "DisentangledGenerator",
    "DomainDiscriminator",
    "MGUITGenerator",
    "MultiScaleDiscriminator",
    "PatchDiscriminator",
    "PixelDiscriminator",
    "ResnetBlock",
    "ResnetGenerator",
    "StyleEncoder",
    "StyleMapEncoder",
    "StyledGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "UnetGenerator",
    "generator_bytes",
    "init_weights",
    "load_generator",
    "save_generator",
]
