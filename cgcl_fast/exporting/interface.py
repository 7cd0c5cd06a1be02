"""What an exported generator takes and gives: tensors alone, of any batch and size, whichever generator it was.

=============  ===========================================================  ========================
``image``      (B, C, H, W) float32 in [-1, 1]                              every generator
``domain``     () int64, index of the domain to translate to                MGUIT, CGL, CGCL
``style``      (B, style_dim), or values of the memory, (B, N, style_nc)    CGL and CGCL, or MGUIT
result         (B, C', H, W) float32 in [-1, 1]; SinCUT's is not bounded
=============  ===========================================================  ========================

H and W are multiples of ``multiple`` and at least ``least``: who calls it pads the image and crops the translation, as
:func:`cgcl_fast.methods.base.translate_any_size` does.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.stateless import _reparametrize_module

from cgcl_fast.networks import DisentangledGenerator, MGUITGenerator, StyledGenerator
from cgcl_fast.networks.mguit import read_all

METADATA = "cgcl_fast.json"
"""The name under which an exported file holds what it takes and gives."""

LEAST = 8
"""Pixels of the least side that any generator takes."""


class PlainExport(nn.Module):
    """A generator of images alone."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        return self.generator(image)


class StyledExport(nn.Module):
    """Base of those with a domain and a style. The style that is the generator's own is a result of
    :meth:`default_style`, for programs that have no other."""

    styles: Tensor

    def default_style(self, domain: Tensor) -> Tensor:
        """The style of one image, (1, ...), for a translation to ``domain``, () int64."""
        return self.styles.index_select(0, domain.reshape(1))


class DisentangledExport(StyledExport):
    """A generator of CGL or CGCL: ``domain`` chooses a row of the labels."""

    labels: Tensor

    def __init__(self, generator: DisentangledGenerator) -> None:
        super().__init__()
        self.content, self.decoder = generator.content, generator.decoder
        self.register_buffer("labels", torch.eye(len(generator.domains)))
        self.register_buffer("styles", generator.seed_style.expand(len(generator.domains), -1).clone())

    def forward(self, image: Tensor, domain: Tensor, style: Tensor) -> Tensor:
        label = self.labels.index_select(0, domain.reshape(1)).expand(image.shape[0], -1)
        return self.decoder(self.content(image)[-1], style, label)


class MGUITExport(StyledExport):
    """A generator of MGUIT. The two domains' networks differ in their weights only, so ``domain`` chooses the weights:
    a branch would be another thing in each format."""

    keys: Tensor

    def __init__(self, generator: MGUITGenerator) -> None:
        super().__init__()
        # In a tuple, where their own weights, which nothing reads, do not become a part of this module.
        self._networks = (generator.encoders[0], generator.decoders[0])
        self.temperature = generator.memory.temperature
        self.last_encoder_block, self.first_decoder_block = generator.last_encoder_block, generator.first_decoder_block
        self._names: dict[str, str] = {}
        for kind, networks in (("encoder", generator.encoders), ("decoder", generator.decoders)):
            first, second = (network.state_dict() for network in networks)
            for name, weights in first.items():
                own = self._names[f"{kind}.{name}"] = f"{kind}_{name.replace('.', '_')}"
                self.register_buffer(own, torch.stack([weights, second[name]]))
        self.register_buffer("styles", generator.memory.values.clone())
        self.register_buffer("keys", generator.memory.keys.clone())

    def _of(self, kind: str, domain: Tensor) -> dict[str, Tensor]:
        """The weights of one domain, by their names in the network."""
        return {
            name.removeprefix(f"{kind}."): getattr(self, own).index_select(0, domain.reshape(1)).squeeze(0)
            for name, own in self._names.items()
            if name.startswith(f"{kind}.")
        }

    def forward(self, image: Tensor, domain: Tensor, style: Tensor) -> Tensor:
        encoder, decoder = self._networks
        # torch.func.functional_call is this too, but refuses to be traced.
        with _reparametrize_module(encoder, self._of("encoder", 1 - domain)):
            content = self.last_encoder_block(encoder(image))
        read = read_all(content, self.keys, style, self.temperature)
        with _reparametrize_module(decoder, self._of("decoder", domain)):
            return decoder(self.first_decoder_block(content), read)


@dataclass(frozen=True)
class Interface:
    """A generator with tensors as its only inputs.

    Attributes:
        module: what is exported, for evaluation; its ``forward`` takes ``inputs`` in order.
        eager: the same translation by the generator itself.
        inputs: names of the inputs.
        channels: of the image.
        domains: names of the domains, () where there is no such input.
        style_shape: of the style of one image, () where there is none.
        multiple, least: what the sides of an image are multiples of, and not less than.
        description: all this, and what the numbers of the images are, for the metadata of a file.
    """

    module: nn.Module
    eager: Callable[..., Tensor]
    inputs: tuple[str, ...]
    channels: int
    domains: tuple[str, ...]
    style_shape: tuple[int, ...]
    multiple: int
    least: int
    description: dict[str, Any]

    @property
    def metadata(self) -> str:
        """The description as JSON."""
        return json.dumps(self.description)

    def example(self, batch: int, height: int, width: int, domain: int = 0, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs drawn from a seed, for ``height`` and ``width`` in units of :attr:`step` pixels."""
        drawn = torch.Generator().manual_seed(seed)
        size = (batch, self.channels, height * self.step, width * self.step)
        image = torch.rand(size, generator=drawn) * 2 - 1
        if not self.domains:
            return (image,)
        return image, torch.tensor(domain), torch.randn(batch, *self.style_shape, generator=drawn)

    @property
    def step(self) -> int:
        """What the sides of examples are multiples of: small, but not the least size."""
        return -(-32 // self.multiple) * self.multiple

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """What ``torch.export`` may leave open of each input: the size of the batch and the sides of the image."""
        batch = Dim("batch")
        sides = {
            axis: self.multiple * Dim(name, min=-(-self.least // self.multiple))
            for axis, name in ((2, "rows"), (3, "columns"))
        }
        return ({0: batch, **sides}, *((None, {0: batch}) if self.domains else ()))


def interface_of(generator: nn.Module) -> Interface:
    """What is exported of a generator: a copy for evaluation, in float32 on the CPU.

    Args:
        generator: one of this package, of any device and floating-point type, which stays as it is; its ``ranges`` and
            ``direction``, if it has them, go into the metadata.

    Raises:
        TypeError: ``generator`` is not one.
    """
    config: Any = getattr(generator, "config", None)
    if not isinstance(config, dict) or "input_nc" not in config:
        raise TypeError(f"generator: expected one of this package, got {type(generator).__name__}")
    generator = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
    multiple = getattr(generator, "multiple", 4)
    least = max(LEAST, multiple)
    taken = int(config["input_nc"])
    sides = f"H and W multiples of {multiple}, at least {least}"
    inputs = [_described("image", "float32", ["B", taken, "H", "W"], f"in [-1, 1]; {sides}")]
    description = {
        "format": 1,
        "network": type(generator).__name__,
        "config": config,
        "multiple": multiple,
        "least": least,
        "ranges": getattr(generator, "ranges", None),
    }
    domains: tuple[str, ...] = ()
    style_shape: tuple[int, ...] = ()
    eager: Callable[..., Tensor] = generator
    module: nn.Module = PlainExport(generator)
    if isinstance(generator, StyledGenerator):
        domains = generator.domains
        module = styled = _styled(generator)
        style_shape = tuple(styled.styles.shape[1:])
        whose = "those stored in the memory" if isinstance(generator, MGUITGenerator) else "that of seed 0"
        meaning = f"standard normal at random; default_styles, {whose}, are the generator's own, one for each domain"
        inputs.append(_described("domain", "int64", [], f"index into domains: {', '.join(domains)}"))
        inputs.append(_described("style", "float32", ["B", *style_shape], meaning))
        description |= {"domains": list(domains), "default_styles": styled.styles.tolist()}

        def eager(image: Tensor, domain: Tensor, style: Tensor) -> Tensor:
            return generator(image, int(domain), style)
    else:
        description["direction"] = getattr(generator, "direction", None)
    given = int(config.get("output_nc", taken))
    outputs = [_described("translation", "float32", ["B", given, "H", "W"], "in [-1, 1] once clamped")]
    return Interface(
        module=_with(module, multiple),
        eager=eager,
        inputs=tuple(each["name"] for each in inputs),
        channels=taken,
        domains=domains,
        style_shape=style_shape,
        multiple=multiple,
        least=least,
        description={**description, "inputs": inputs, "outputs": outputs},
    )


def _with(module: nn.Module, multiple: int) -> nn.Module:
    module.register_buffer("multiple", torch.tensor(multiple))  # for C++ programs: a trace keeps tensors alone
    return module.eval().requires_grad_(False)


def _styled(generator: StyledGenerator) -> StyledExport:
    if isinstance(generator, MGUITGenerator):
        return MGUITExport(generator)
    if isinstance(generator, DisentangledGenerator):
        return DisentangledExport(generator)
    raise TypeError(f"generator: expected one of this package, got {type(generator).__name__}")


def _described(name: str, dtype: str, shape: list[str | int], meaning: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "meaning": meaning}
