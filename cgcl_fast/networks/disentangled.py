"""Content encoder, style encoder and AdaIN decoder of CGL and CGCL (CGL, Sec. 4), and the generator made of them.

The layout is MUNIT's (Huang et al. 2018) with domain labels z as one-hot vectors, so that one network serves all
domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import LayerNormReLU, NormedConv2d
from cgcl_fast.networks.resnet import ResnetBlock
from cgcl_fast.networks.styled import StyledGenerator
from cgcl_fast.nn import conv_of, reflect_pad
from cgcl_fast.nn.map_mean import map_mean
from cgcl_fast.nn.pad import inner
from cgcl_fast.ops import adain, instance_norm


class ContentEncoder(nn.Module):
    """Convolution 7x7 and two 4x4 of stride 2, then residual blocks; instance norm, ReLU, reflection padding.

    Args:
        input_nc: channels of the image.
        ngf: channels after the first convolution, doubled by each halving of the size.
        n_blocks: residual blocks.
        n_down: halvings.
    """

    def __init__(self, input_nc: int = 3, ngf: int = 64, n_blocks: int = 4, n_down: int = 2) -> None:
        super().__init__()
        self.stem = NormedConv2d(input_nc, ngf, 7)
        widths = [ngf * 2**i for i in range(n_down)]
        self.down = nn.ModuleList(NormedConv2d(width, 2 * width, 4, stride=2) for width in widths)
        self.blocks = nn.ModuleList(ResnetBlock(ngf * 2**n_down) for _ in range(n_blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, input_nc, H, W) to the outputs of the residual blocks, (B, 4 ngf, H/4, W/4) each with two halvings; the
        last is the content code c."""
        x = self.stem(reflect_pad(in_fast_format(x), 3))
        for conv in self.down:
            x = conv(_norm_relu_pad(x)) if torch.jit.is_scripting() else conv_of(conv, _norm_relu_pad, x)
        x = _norm_relu_pad(x)
        features = []
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = block(x, 1, 0 if i == last else 1)
            features.append(x if i == last else inner(x, 1))
        return features


def _norm_relu_pad(x: Tensor) -> Tensor:
    return instance_norm(x, activation="relu", pad=1)


class StyleEncoder(nn.Module):
    """The image concatenated with the domain's label as constant maps; convolution 7x7 and four 4x4 of stride 2 with
    ReLU and without norm; mean over positions; one linear layer.

    Args:
        input_nc: channels of the image.
        n_domains: length of the label.
        ngf: channels after the first convolution; 2, 4, 4 and 4 times as many after the others.
        style_dim: length of the style code.
    """

    def __init__(self, input_nc: int = 3, n_domains: int = 4, ngf: int = 64, style_dim: int = 8) -> None:
        super().__init__()
        self.input_nc = input_nc
        self.stem = nn.Conv2d(input_nc + n_domains, ngf, 7)
        widths = (ngf, 2 * ngf, 4 * ngf, 4 * ngf, 4 * ngf)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.head = nn.Linear(4 * ngf, style_dim)

    def forward(self, x: Tensor, label: Tensor, frozen: bool = False) -> Tensor:
        """Images (B, input_nc, H, W), H and W at least 16, and labels (B, n_domains) to styles (B, style_dim).
        ``frozen``: the gradient reaches the images and not the weights."""
        x = in_fast_format(x)
        # A map that is the same everywhere stays so under reflection padding, so a convolution makes one number of it.
        weight, bias = _taken(self.stem.weight, self.stem.bias, frozen)
        of_image, of_label = weight.split([self.input_nc, label.shape[1]], dim=1)
        shift = label @ of_label.sum((2, 3)).T
        x = F.conv2d(reflect_pad(x, 3), of_image, bias) + shift[:, :, None, None]
        for conv in self.down:
            weight, bias = _taken(conv.weight, conv.bias, frozen)  # type: ignore[arg-type]
            x = F.conv2d(reflect_pad(torch.relu(x), 1), weight, bias, stride=2)
        weight, bias = _taken(self.head.weight, self.head.bias, frozen)
        x = torch.relu(x)
        mean = x.mean((2, 3)) if torch.jit.is_scripting() else map_mean(x, first=2)
        return F.linear(mean.to(x.dtype), weight, bias)


def _taken(weight: Tensor, bias: Tensor | None, frozen: bool) -> tuple[Tensor, Tensor | None]:
    """A layer's weights as a pass takes them: ``frozen`` without a gradient to them."""
    if not frozen:
        return weight, bias
    return weight.detach(), None if bias is None else bias.detach()


class UpConv(nn.Conv2d):
    """Nearest-neighbour doubling of the size and a 5x5 convolution with replication padding, computed on the small map.

    The 25 taps of an output pixel fall on 9 pixels of the small map; which taps coincide depends only on the parity of
    its row and column. So four 3x3 convolutions of the small map give the same result with a third of the work.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5)
        self.taps: Tensor
        self.register_buffer("taps", _taps(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H + 2, W + 2), padded by replication, to (B, out, 2 H, 2 W)."""
        out, channels = self.out_channels, self.in_channels
        weight = (self.weight.reshape(out * channels, 25) @ self.taps).view(out, channels, 4, 3, 3)
        weight = weight.permute(2, 0, 1, 3, 4).reshape(4 * out, channels, 3, 3)
        bias = self.bias
        if bias is not None:
            bias = bias.repeat(4)
        # F.pixel_shuffle has the parities innermost, and on a GPU leaves a contiguous map. With the channels innermost
        # a channels_last map moves those of a pixel, and of two, together.
        y = F.conv2d(x, weight, bias)
        batch, _, h, w = y.shape
        if y.is_contiguous(memory_format=torch.channels_last):
            y = y.permute(0, 2, 3, 1).reshape(batch, h, w, 2, 2, out).transpose(2, 3)
            return y.reshape(batch, 2 * h, 2 * w, out).permute(0, 3, 1, 2)
        y = y.reshape(batch, 2, 2, out, h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(batch, out, 2 * h, 2 * w)


def _taps() -> Tensor:
    """(25, 36): which of the 5x5 taps are added up in each of the 3x3 on the small map, for the four parities of row
    and column."""
    along = torch.zeros(5, 2, 3, device="cpu")
    for tap, (even, odd) in enumerate(((0, 0), (0, 1), (1, 1), (1, 2), (2, 2))):
        along[tap, 0, even] = along[tap, 1, odd] = 1
    return torch.einsum("apr,bqs->abpqrs", along, along).reshape(25, 36)


class AdaINBlock(nn.Module):
    """A residual block whose two norms get scale and shift from the style.

    Args:
        channels: width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = NormedConv2d(channels, channels, 3)
        self.conv2 = NormedConv2d(channels, channels, 3)

    def forward(self, x: Tensor, affine: Tensor, margin: int = 0, pad: int = 0, pad_mode: str = "reflect") -> Tensor:
        """x (B, C, H, W), affine (B, 2, 2, C): scale and shift of the first norm and of the second. ``margin`` and
        ``pad`` as ``ResnetBlock``; with ``pad_mode`` "replicate" the result is padded by replication."""
        first, second = affine.unbind(1)
        padded = reflect_pad(x, 1) if margin == 0 else x
        y = self.conv1(padded)
        if torch.jit.is_scripting():
            y = self.conv2(_adain_relu_pad(y, first))
        else:
            y = conv_of(self.conv2, partial(_adain_relu_pad, affine=first), y)
        same_margin = pad == 1 and pad_mode == "reflect"
        residual = padded if same_margin else x if margin == 0 else inner(x, 1)
        return adain(y, second[:, 0], second[:, 1], residual=residual, pad=pad, pad_mode=pad_mode)


def _adain_relu_pad(x: Tensor, affine: Tensor) -> Tensor:
    return adain(x, affine[:, 0], affine[:, 1], activation="relu", pad=1)


class AdaINDecoder(nn.Module):
    """Residual blocks with AdaIN, two doublings (nearest, 5x5 convolution, layer norm over channels and positions,
    ReLU), convolution 7x7, tanh. A perceptron with two hidden layers computes all scales and shifts from [style,
    label].

    Args:
        output_nc: channels of the image.
        n_domains: length of the label.
        ngf: channels before the last convolution; the content has twice as many per doubling of the size.
        n_blocks: residual blocks, at least one.
        style_dim: length of the style code.
        mlp_dim: width of the perceptron M.
        n_up: doublings.
    """

    def __init__(
        self,
        output_nc: int = 3,
        n_domains: int = 4,
        ngf: int = 64,
        n_blocks: int = 4,
        style_dim: int = 8,
        mlp_dim: int = 256,
        n_up: int = 2,
    ) -> None:
        super().__init__()
        width = ngf * 2**n_up
        self.affine_shape = (n_blocks, 2, 2, width)
        self.mlp = nn.Sequential(
            nn.Linear(style_dim + n_domains, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, n_blocks * 2 * 2 * width),
        )
        self.blocks = nn.ModuleList(AdaINBlock(width) for _ in range(n_blocks))
        widths = [width // 2**i for i in range(n_up + 1)]
        self.up = nn.ModuleList(UpConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
        # Each pads for the convolution after it: the next doubling, or the head.
        between = [LayerNormReLU(b, 1, "replicate") for b in widths[1:-1]]
        self.norms = nn.ModuleList([*between, LayerNormReLU(widths[-1], 3)])
        self.head = nn.Conv2d(ngf, output_nc, 7)

    def forward(self, content: Tensor, style: Tensor, label: Tensor) -> Tensor:
        """content (B, 4 ngf, h, w), style (B, style_dim), label (B, n_domains) to images (B, output_nc, 4 h, 4 w), with
        two doublings."""
        affine = self.mlp(torch.cat([style, label], 1)).unflatten(1, self.affine_shape)
        x = content
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = block(x, affine[:, i], 0 if i == 0 else 1, 1, "replicate" if i == last else "reflect")
        if torch.jit.is_scripting():
            for conv, norm in zip(self.up, self.norms):  # noqa: B905  TorchScript knows no strict
                x = norm(conv(x))
            return torch.tanh(self.head(x))
        first, *others = self.up
        x = first(x)
        for norm, conv in zip(self.norms, [*others, self.head], strict=True):
            x = conv_of(conv, norm, x)
        return torch.tanh(x)


class DisentangledGenerator(StyledGenerator):
    """The encoders E^c and E^s and the decoder G of one granularity: combines the content of an image with the style of
    another image or a random one, in any of the domains.

    Args:
        domains: names of the domains.
        input_nc: channels of the images.
        ngf: channels at full size.
        n_blocks: residual blocks of the encoder, and of the decoder.
        style_dim: length of the style code.
        mlp_dim: width of the perceptron between style and AdaIN.
        n_down: halvings of the size in the content encoder, and doublings in the decoder; 1 or 2.

    Raises:
        ValueError: fewer than two domains, or duplicate names; a size below 1.
    """

    entry_points = ("content", "style", "decoder")

    def __init__(
        self,
        domains: Sequence[str],
        input_nc: int = 3,
        ngf: int = 64,
        n_blocks: int = 4,
        style_dim: int = 8,
        mlp_dim: int = 256,
        n_down: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"input_nc": input_nc, "ngf": ngf, "n_blocks": n_blocks, "style_dim": style_dim, "mlp_dim": mlp_dim}
        if n_down not in (1, 2):
            raise ValueError(f"n_down: expected 1 or 2, got {n_down}")
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if len(domains) < 2 or len(set(domains)) < len(domains):
            raise ValueError(f"domains: expected two or more different names, got {', '.join(domains) or 'none'}")
        self.domains = tuple(domains)
        self.config: dict[str, Any] = {"domains": list(domains), **sizes, "n_down": n_down}
        self.style_dim = style_dim
        n = len(self.domains)
        self.content = ContentEncoder(input_nc, ngf, n_blocks, n_down)
        self.style = StyleEncoder(input_nc, n, ngf, style_dim)
        self.decoder = AdaINDecoder(input_nc, n, ngf, n_blocks, style_dim, mlp_dim, n_down)
        self.seed_style: Tensor
        # Drawn here and not in ``forward``: neither exporters nor TorchScript know generators of random numbers.
        drawn = torch.randn(1, style_dim, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("seed_style", drawn, persistent=False)

    def random_style(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        drawn_on = "cpu" if generator is None else generator.device
        style = torch.randn(batch, self.config["style_dim"], generator=generator, device=drawn_on)
        return style.to(self.style.head.weight.device)

    def style_of(self, image: Tensor, domain: int) -> Tensor:
        self.check_domain(domain)
        bottom, right = (max(0, 16 - side) for side in image.shape[-2:])
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        return self.style(image, self._label(image, domain))

    def forward(self, image: Tensor, domain: int, style: Tensor | None = None) -> Tensor:
        """As in ``StyledGenerator``; H and W at least 8 and multiples of 4. The default is the style of seed 0."""
        self.check_domain(domain)
        if style is None:
            style = self.seed_style
        if not torch.jit.is_scripting():
            self._check(image, style)
        style = style.to(image).expand(image.shape[0], -1)
        return self.decoder(self.content(image)[-1], style, self._label(image, domain))

    def _check(self, image: Tensor, style: Tensor) -> None:
        channels, dim = self.config["input_nc"], self.style_dim
        if image.dim() != 4 or image.shape[1] != channels or min(image.shape[2:]) < 8:
            raise ValueError(f"image: expected (B, {channels}, H, W) with H and W at least 8, got {tuple(image.shape)}")
        if style.dim() != 2 or style.shape[0] not in (1, image.shape[0]) or style.shape[1] != dim:
            raise ValueError(f"style: expected (1, {dim}) or ({image.shape[0]}, {dim}), got {tuple(style.shape)}")

    def _label(self, image: Tensor, domain: int) -> Tensor:
        label = image.new_zeros(image.shape[0], len(self.domains))
        label[:, domain] = 1
        return label
