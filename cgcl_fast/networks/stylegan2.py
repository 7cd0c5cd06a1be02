"""Networks from the blocks of StyleGAN2 (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN",
CVPR 2020), as SinCUT uses them (CUT, Appendix B): without a style code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.positions import check_positions
from cgcl_fast.nn import blur, blur_up, conv_of
from cgcl_fast.ops import gather_patches

MOST_CHANNELS = 512


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate: weights ~ N(0, 1), scaled by 1/√fan-in in each forward pass.

    Args:
        in_channels, out_channels: widths.
        kernel: side of the kernel, odd.
        bias: whether there is a bias; it starts at zero.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor, gain: float = 1.0, stride: int = 1, padding: int = 0) -> Tensor:
        """(B, C, H, W) to (B, C', H', W'), times ``gain``."""
        bias = None if self.bias is None else self.bias * gain
        return F.conv2d(x, self.weight * (self.scale * gain), bias, stride=stride, padding=padding)


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = 1 / math.sqrt(in_features)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, features) to (B, features'), times ``gain``."""
        return F.linear(x, self.weight * (self.scale * gain), self.bias * gain)


class ResidualBlock(nn.Module):
    """(a(conv(a(conv(x)))) + skip(x)) / √2, with a(x) = √2 · LeakyReLU(x) of slope 0.2 and 3x3 convolutions.

    With ``down``, the second convolution and the skip (then a 1x1 convolution) halve the size after a blur. This is the
    block of StyleGAN2's discriminator. Since LeakyReLU(√2 x) = √2 LeakyReLU(x), the gains are applied to the weights.

    Args:
        in_channels, out_channels: widths; they are equal without ``down``.
        down: halve the size.
    """

    def __init__(self, in_channels: int, out_channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = EqualConv2d(in_channels, in_channels, 3)
        self.conv2 = EqualConv2d(in_channels, out_channels, 3)
        self.skip = EqualConv2d(in_channels, out_channels, 1, bias=False) if down else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W), or with ``down`` to (B, C', H/2, W/2)."""
        y = _activate(self.conv1(x, math.sqrt(2), padding=1))
        if self.skip is None:
            return torch.add(_activate(self.conv2(y, padding=1)), x, alpha=math.sqrt(0.5))
        return _activate(self.conv2(blur(y, 2), stride=2)) + self.skip(blur(x, 1, stride=2), math.sqrt(0.5))


class UpConv(nn.Module):
    """The styled convolution of StyleGAN2 for a style of ones: twice the size, noise, bias, √2 · LeakyReLU.

    The kernel of each output channel is divided by its length (demodulation), which preserves unit variance. With a
    style of ones this is all that remains of the modulation. StyleGAN2 blurs after its transposed convolution. Here the
    blur comes first, which gives the same except at the border, because both are convolutions.

    Args:
        in_channels, out_channels: widths.
        blur_last: blur after the transposed convolution: slightly slower, and equal at the border, too.
    """

    def __init__(self, in_channels: int, out_channels: int, blur_last: bool = False) -> None:
        super().__init__()
        self.blur_last = blur_last
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W). Noise is only drawn in training: see ``StyleGAN2Generator``."""
        length = self.weight.square().sum((1, 2, 3), keepdim=True)
        weight, bias = self.weight * (length + 1e-8).rsqrt() * math.sqrt(2), self.bias * math.sqrt(2)
        if self.blur_last:
            doubled = F.conv_transpose2d(x, 4 * weight.flip(2, 3).transpose(0, 1), stride=2)
            y = blur(doubled, 1) + bias[:, None, None]
        elif torch.jit.is_scripting():
            y = F.conv2d(blur_up(x), weight, bias, padding=1)
        else:
            y = conv_of(partial(F.conv2d, weight=weight, bias=bias, padding=1), blur_up, x)
        if self.training:
            noise = torch.randn([y.shape[0], 1, y.shape[2], y.shape[3]], dtype=y.dtype, device=y.device)
            y = y + self.noise_strength * math.sqrt(2) * noise
        return _activate(y)


class StyleGAN2Generator(nn.Module):
    """One downsampling block of StyleGAN2's discriminator, residual blocks, one upsampling layer of its generator.

    Feature layers, for an image of side s:

    ==================  ====================================  ===================
    0                   the image itself                      input_nc, s
    1                   1x1 convolution                       8 ngf, s
    2                   downsampling block                    16 ngf, s/2
    3 to 2 + n_blocks   residual blocks                       16 ngf, s/2
    3 + n_blocks        upsampling convolution                8 ngf, s
    4 + n_blocks        1x1 convolution, linear: the image    output_nc, s
    ==================  ====================================  ===================

    The encoder is everything up to the middle residual block. There is no norm and no tanh: a pixel depends only on
    pixels within ``margin``, so tiles of a large image that overlap by twice the margin give the result of the whole
    image. For this, evaluation replaces the noise by its mean, zero.

    Args:
        input_nc: channels of the input image.
        output_nc: channels of the output image.
        ngf: an eighth of the channels at full size; 32 gives the 256 that StyleGAN2 (config E) has at 64x64.
        n_blocks: residual blocks.
        published: as in CUT's published generator, which its weights need: √2 · LeakyReLU also follows the last
            convolution, and the upsampling convolution equals StyleGAN2's at the border, too.
    """

    entry_points = ("forward", "encode")

    def __init__(
        self, input_nc: int = 3, output_nc: int = 3, ngf: int = 10, n_blocks: int = 6, published: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("output_nc", output_nc), ("ngf", ngf)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if n_blocks < 0:
            raise ValueError(f"n_blocks: expected at least 0, got {n_blocks}")
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "output_nc": output_nc,
            "ngf": ngf,
            "n_blocks": n_blocks,
            "published": published,
        }
        full, half = min(8 * ngf, MOST_CHANNELS), min(16 * ngf, MOST_CHANNELS)
        self.stem = EqualConv2d(input_nc, full, 1)
        self.down = ResidualBlock(full, half, down=True)
        self.blocks = nn.ModuleList(ResidualBlock(half, half, down=False) for _ in range(n_blocks))
        self.up = UpConv(half, full, blur_last=published)
        self.head = EqualConv2d(full, output_nc, 1)
        self.margin = 4 * n_blocks + 8
        """No output pixel depends on a pixel farther away than this, rounded up to a multiple of 4."""

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in the place of this: images alone, without features."""
        return _ScriptableStyleGAN2(self)

    @property
    def last_layer(self) -> int:
        """Number of the last feature layer, the image."""
        return len(self.blocks) + 4

    def layer_channels(self, feature_layers: Sequence[int]) -> tuple[int, ...]:
        """Number of channels of each of the named feature layers (what a ``Projector`` is built from).

        Raises:
            ValueError: as ``forward``.
        """
        self._check_layers(feature_layers)
        full, half = self.stem.weight.shape[0], self.up.weight.shape[1]
        ends = [self.config["input_nc"], full, half, *[half] * len(self.blocks), full, self.config["output_nc"]]
        return tuple(ends[number] for number in feature_layers)

    def _check_layers(self, feature_layers: Sequence[int]) -> None:
        if any(not 0 <= number <= self.last_layer for number in feature_layers):
            raise ValueError(
                f"feature_layers: expected numbers from 0 to {self.last_layer}, got {list(feature_layers)}"
            )
        if any(a >= b for a, b in zip(feature_layers, feature_layers[1:], strict=False)):
            raise ValueError(f"feature_layers: expected layers in ascending order, got {list(feature_layers)}")

    def _run(
        self, x: Tensor, feature_layers: Sequence[int], last: int, ids: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        channels = self.config["input_nc"]
        if x.dim() != 4 or x.shape[1] != channels or x.shape[2] % 2 or x.shape[3] % 2 or min(x.shape[2:]) < 2:
            raise ValueError(f"x: expected (B, {channels}, H, W) with even H and W, got {tuple(x.shape)}")
        self._check_layers(feature_layers)
        layers = [nn.Identity(), self._stem, self.down, *self.blocks, self.up, self._head]
        features: list[Tensor] = []
        x = in_fast_format(x)
        for number, layer in enumerate(layers[: last + 1]):
            x = layer(x)
            if number in feature_layers:
                # Here, so that the backward pass makes one map of a row's gradient after the other.
                features.append(x if ids is None else gather_patches(x, ids[len(features)]))
        return x, features

    def _stem(self, x: Tensor) -> Tensor:
        return _activate(self.stem(x, math.sqrt(2)))

    def _head(self, x: Tensor) -> Tensor:
        return _activate(self.head(x, math.sqrt(2))) if self.config["published"] else self.head(x)

    def forward(self, x: Tensor, feature_layers: Sequence[int] = ()) -> Any:
        """Translate images.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1], H and W even.
            feature_layers: numbers of layers, ascending.

        Returns:
            The images (B, output_nc, H, W), unbounded; with ``feature_layers`` the pair (images, list of features).

        Raises:
            ValueError: ``x`` has another shape, or ``feature_layers`` names a layer that does not exist.
        """
        image, features = self._run(x, feature_layers, self.last_layer)
        return (image, features) if feature_layers else image

    def encode(self, x: Tensor, feature_layers: Sequence[int], ids: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The features at the named layers (B, C, h, w), or their rows at positions (B, P, C): as
        ``ResnetGenerator.encode``."""
        check_positions(feature_layers, ids)
        return self._run(x, feature_layers, feature_layers[-1], ids)[1]


class _ScriptableStyleGAN2(nn.Module):
    """The layers of a :class:`StyleGAN2Generator` under the same names, one after the other: TorchScript knows no lists
    of layers to choose features from."""

    def __init__(self, generator: StyleGAN2Generator) -> None:
        super().__init__()
        self.published = bool(generator.config["published"])
        self.stem, self.down, self.blocks = generator.stem, generator.down, generator.blocks
        self.up, self.head = generator.up, generator.head
        self.train(generator.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_nc, H, W), H and W even, to images (B, output_nc, H, W), not bounded."""
        x = _activate(self.stem(in_fast_format(x), math.sqrt(2)))
        x = self.down(x)
        for block in self.blocks:
            x = block(x)
        x = self.up(x)
        return _activate(self.head(x, math.sqrt(2))) if self.published else self.head(x)


class StyleGAN2Discriminator(nn.Module):
    """The residual discriminator of StyleGAN2, for images of one size.

    A 1x1 convolution, blocks that halve the size down to 4x4, the standard deviation over the minibatch as an
    additional channel, a 3x3 convolution and two linear layers. It can be differentiated twice, as the gradient penalty
    requires.

    Args:
        input_nc: channels of the image.
        ndf: a quarter of the channels at full size; each halving doubles them, up to ``most_channels``. 64 gives the
            256 that StyleGAN2 (config E) has at 64x64.
        size: side of the images, a power of two and at least 8.
        minibatch_stddev: add the channel that shows D how much the images of a minibatch differ. CUT's published
            discriminator has none.
        most_channels: maximum width: 512 in StyleGAN2, 384 in CUT's published discriminator.
    """

    def __init__(
        self,
        input_nc: int = 3,
        ndf: int = 8,
        size: int = 64,
        minibatch_stddev: bool = True,
        most_channels: int = MOST_CHANNELS,
    ) -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("ndf", ndf), ("most_channels", most_channels)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if size < 8 or size & (size - 1):
            raise ValueError(f"size: expected a power of two and at least 8, got {size}")
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "ndf": ndf,
            "size": size,
            "minibatch_stddev": minibatch_stddev,
            "most_channels": most_channels,
        }
        halvings = int(math.log2(size)) - 2
        widths = [min(4 * ndf * 2**i, most_channels) for i in range(halvings + 1)]
        self.stem = EqualConv2d(input_nc, widths[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b, down=True) for a, b in zip(widths, widths[1:], strict=False))
        self.minibatch_stddev = minibatch_stddev
        self.conv = EqualConv2d(widths[-1] + minibatch_stddev, widths[-1], 3)
        self.linear = EqualLinear(widths[-1] * 16, widths[-1])
        self.head = EqualLinear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, large for real.

        Args:
            x: (B, input_nc, size, size), values in [-1, 1].

        Returns:
            (B, 1).

        Raises:
            ValueError: ``x`` has another shape.
        """
        if not torch.jit.is_scripting():
            self._check(x)
        x = in_fast_format(x)
        gain = math.sqrt(2)
        x = _activate(self.stem(x, gain))
        for block in self.blocks:
            x = block(x)
        if self.minibatch_stddev:
            x = torch.cat([x, _spread(x)], dim=1)
        x = _activate(self.conv(x, gain, padding=1))
        return self.head(_activate(self.linear(x.flatten(1), gain)))

    def _check(self, x: Tensor) -> None:
        shape = (self.config["input_nc"], self.config["size"], self.config["size"])
        if x.shape[1:] != shape:
            raise ValueError(f"x: expected (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def _spread(x: Tensor, group: int = 4) -> Tensor:
    """(B, 1, H, W): standard deviation over groups of images, mean over channels and positions.

    A group consists of images that are B/group apart, as in the published StyleGAN2; if B is not a multiple of 4, there
    is a single group.
    """
    batch, channels, height, width = x.shape
    group = group if batch % group == 0 else max(batch, 1)
    y = x.reshape(group, -1, channels, height, width)
    y = (y - y.mean(0)).square().mean(0)
    return (y + 1e-8).sqrt().mean((1, 2, 3)).repeat(group).view(batch, 1, 1, 1).expand(-1, -1, height, width)
