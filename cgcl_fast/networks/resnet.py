"""The ResNet generator of CycleGAN and CUT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import Norm, NormedConv2d, NormedConvTranspose2d, has_bias, with_bias, zero_gradient
from cgcl_fast.networks.positions import check_positions
from cgcl_fast.nn import BlurDown, BlurUp, blur_down, blur_up, conv_of, reflect_pad
from cgcl_fast.nn.pad import inner
from cgcl_fast.ops import gather_patches

Layer = Callable[[Tensor], Tensor]

PAD = 3  # for the 7x7 convolutions
_pad = partial(reflect_pad, size=PAD)


class FastFormat(nn.Module):
    """:func:`in_fast_format` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same."""
        return in_fast_format(x)


def _is_cheap(layer: Layer) -> bool:
    """Whether to recompute the layer instead of keeping its result. Not for blur_down, whose result is only a quarter
    of its input. Nor for batch norm, which would count the batch twice."""
    return layer is _pad or layer is blur_up or (isinstance(layer, Norm) and layer.kind == "instance")


def _chain(layers: Sequence[Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class ResnetBlock(nn.Module):
    """x + norm(conv(pad(relu(norm(conv(pad(x))))))), both convolutions 3x3 after reflection padding.

    Args:
        channels: width.
        dropout: drop half of the values between the two convolutions in training.
        norm: "instance", "batch" or "none".
    """

    def __init__(self, channels: int, dropout: bool = False, norm: str = "instance") -> None:
        super().__init__()
        self.conv1 = NormedConv2d(channels, channels, 3, bias=has_bias(norm))
        self.norm1 = Norm(channels, norm, "relu")
        self.conv2 = NormedConv2d(channels, channels, 3, bias=has_bias(norm))
        self.norm2 = Norm(channels, norm)
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()
        self.drops = dropout
        self.recomputes = _is_cheap(self.norm1) and not dropout

    def forward(self, x: Tensor, margin: int = 0, pad: int = 0) -> Tensor:
        """(B, C, H + 2 margin, W + 2 margin) to (B, C, H + 2 pad, W + 2 pad).

        ``margin`` and ``pad`` are 0 or 1: by how much x has been padded by reflection, and by how much the result is to
        be. Between blocks that both are 1, because padding is linear: x has its margin, and the block's own part gets
        it as it is written, so no pass over the map pads it.
        """
        padded = reflect_pad(x, 1) if margin == 0 else x
        y = self.conv1(padded)
        if torch.jit.is_scripting() or not self.recomputes:
            y = reflect_pad(self.dropout(self.norm1(y)), 1) if self.drops and self.training else self.norm1(y, pad=1)
            y = self.conv2(y)
        else:
            y = conv_of(self.conv2, partial(self.norm1, pad=1), y)
        residual = padded if pad == 1 else x if margin == 0 else inner(x, 1)
        return self.norm2(y, residual=residual, pad=pad)


class ResnetBlocks(nn.Sequential):
    """Residual blocks one after another, (B, C, H, W) to the same shape. Only the first one pads its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        last = -1
        for _ in self:  # TorchScript knows no len of it
            last += 1
        for i, block in enumerate(self):
            x = block(x, 0 if i == 0 else 1, 0 if i == last else 1)
        return x


class ResnetGenerator(nn.Module):
    """Encoder (one or two halvings), residual blocks, decoder (as many doublings), tanh; by default with instance norm
    without affine parameters.

    Feature layers have the numbers of the published networks, where every convolution, norm, activation, padding and
    resampling counts as one. With anti-aliasing, two halvings and nine blocks:

    ======  =======================================  ======  ===========================
    0       input, padded by 3                       12-20   residual blocks
    1, 3    7x7 convolution, norm + ReLU             21, 22  blur up, convolution
    4, 6    convolution to 2 ngf, norm + ReLU        24, 25  norm + ReLU, blur up
    7       blur down                                26, 28  convolution, norm + ReLU
    8, 10   convolution to 4 ngf, norm + ReLU        29, 30  padding, 7x7 convolution
    11      blur down                                31      tanh: the image
    ======  =======================================  ======  ===========================

    Without anti-aliasing there are no blurs, and later numbers are smaller accordingly. A norm and its ReLU are one
    operation here, so the number of a norm gives the value after the ReLU; so it does in the published code, whose ReLU
    works in place.

    The bias of a convolution before an instance norm is added only where the convolution itself is a feature layer
    (layers 4 and 8, say); the norm would subtract it again. That copies the map. A loss that looks at a few positions
    asks for rows instead: of ``encode`` with ``ids``, or by ``rows`` of maps without biases.

    Activations are kept in the memory format that is the fastest for convolutions, see :mod:`.memory_format`.

    Args:
        input_nc: channels of the input image.
        output_nc: channels of the output image.
        ngf: channels after the first convolution.
        n_blocks: residual blocks (9 for 256x256 images, 6 for 128x128).
        antialias: blur pools instead of strided convolutions where the size is halved.
        dropout: dropout inside the residual blocks.
        antialias_up: blur pools instead of transposed convolutions where the size is doubled; None: as ``antialias``.
        n_down: halvings: 2 as published, or 1, which preserves the structure of 64x64 images.
        norm: "instance", "batch" or "none".
    """

    entry_points = ("forward", "encode")
    multiple = 4
    """Sides of images should be multiples of this."""
    casts_together = True
    """Layers are called under autocast only, see ``engine.casting``."""

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        n_blocks: int = 9,
        antialias: bool = True,
        dropout: bool = False,
        antialias_up: bool | None = None,
        n_down: int = 2,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("output_nc", output_nc), ("ngf", ngf)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if n_blocks < 0:
            raise ValueError(f"n_blocks: expected at least 0, got {n_blocks}")
        if n_down not in (1, 2):
            raise ValueError(f"n_down: expected 1 or 2, got {n_down}")
        antialias_up = antialias if antialias_up is None else antialias_up
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "output_nc": output_nc,
            "ngf": ngf,
            "n_blocks": n_blocks,
            "antialias": antialias,
            "dropout": dropout,
            "antialias_up": antialias_up,
            "n_down": n_down,
            "norm": norm,
        }
        self.antialias = antialias
        self.antialias_up = antialias_up
        stride = 1 if antialias else 2
        widths = [ngf * 2**i for i in range(n_down)]
        normed: dict[str, Any] = {"bias": has_bias(norm), "is_feature": True}
        self.stem = NormedConv2d(input_nc, ngf, 7, **normed)
        self.down = nn.ModuleList(
            NormedConv2d(width, 2 * width, 3, stride=stride, padding=1, **normed) for width in widths
        )
        self.blocks = nn.ModuleList(ResnetBlock(ngf * 2**n_down, dropout, norm) for _ in range(n_blocks))
        self.up = nn.ModuleList(
            NormedConv2d(width, width // 2, 3, padding=1, **normed)
            if antialias_up
            else NormedConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, **normed)
            for width in (2 * width for width in reversed(widths))
        )
        norm_widths = [ngf, *(2 * width for width in widths), *reversed(widths)]
        self.norms = nn.ModuleList(Norm(width, norm, "relu") for width in norm_widths)
        self.head = nn.Conv2d(ngf, output_nc, 7)

    @staticmethod
    def least_size(n_down: int) -> int:
        """The smallest side of training images in pixels: reflection padding needs two pixels at the residual
        blocks."""
        return max(8, 2 ** (n_down + 1))

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in the place of this: the chain of all layers, since TorchScript knows no
        lists of functions to choose features from."""
        as_modules = {_pad: nn.ReflectionPad2d(PAD), blur_down: BlurDown(), blur_up: BlurUp(), torch.tanh: nn.Tanh()}
        layers = (layer if isinstance(layer, nn.Module) else as_modules[layer] for _, layer in self._layers())
        return nn.Sequential(FastFormat(), *layers)

    def _layers(self) -> list[tuple[int, Layer]]:
        """(published number, layer) in order; a norm with its ReLU has the number of the ReLU."""
        layers: list[tuple[int, Layer]] = []
        number = -1

        def add(layer: Layer, count: int = 1) -> None:
            nonlocal number
            number += count
            layers.append((number, layer))

        norms = iter(self.norms)
        add(_pad)
        add(self.stem)
        add(next(norms), 2)
        for conv in self.down:
            add(conv)
            add(next(norms), 2)
            if self.antialias:
                add(blur_down)
        for block in self.blocks:
            add(block)
        for conv in self.up:
            if self.antialias_up:
                add(blur_up)
            add(conv)
            add(next(norms), 2)
        add(_pad)
        add(self.head)
        add(torch.tanh)
        return layers

    def layer_channels(self, feature_layers: Sequence[int]) -> tuple[int, ...]:
        """Number of channels of each of the named feature layers (what a ``Projector`` is built from).

        Raises:
            ValueError: as ``forward``.
        """
        widths = []
        width = self.config["input_nc"]
        layers = self._layers()
        wanted = self._resolve(feature_layers, layers)
        for number, layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                width = layer.out_channels
            if number in wanted:
                widths.append(width)
        return tuple(widths)

    @staticmethod
    def _resolve(feature_layers: Sequence[int], layers: list[tuple[int, Layer]]) -> list[int]:
        """``feature_layers`` with the number of each norm replaced by that of its ReLU."""
        last = layers[-1][0]
        known = {number for number, _ in layers}
        if any(not 0 <= n <= last for n in feature_layers):
            raise ValueError(f"feature_layers: expected numbers from 0 to {last}, got {list(feature_layers)}")
        wanted = [n if n in known else n + 1 for n in feature_layers]
        if any(a >= b for a, b in zip(wanted, wanted[1:], strict=False)):
            raise ValueError(f"feature_layers: expected layers in ascending order, got {list(feature_layers)}")
        return wanted

    def _run(
        self,
        x: Tensor,
        feature_layers: Sequence[int],
        stop: bool,
        add_biases: bool = True,
        ids: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        if x.dim() != 4 or x.shape[1] != self.config["input_nc"] or min(x.shape[2:]) < 5:
            raise ValueError(
                f"x: expected (B, {self.config['input_nc']}, H, W) with H and W at least 5, got {tuple(x.shape)}"
            )
        layers = self._layers()
        wanted = self._resolve(feature_layers, layers)
        features: list[Tensor] = []
        x = in_fast_format(x)
        margin = 0  # of x, which is padded from one residual block to the next
        waiting: list[Layer] = []  # cheap layers since x, which the convolution that follows computes again
        for i, (number, layer) in enumerate(layers):
            named = number in wanted
            cheap = _is_cheap(layer)
            if layer is _pad and waiting and isinstance(waiting[-1], Norm):  # the norm pads as it writes
                layer, waiting = partial(waiting[-1], pad=PAD), waiting[:-1]
            if isinstance(layer, ResnetBlock):
                if waiting and isinstance(waiting[-1], Norm):  # it pads too
                    x, waiting, margin = waiting[-1](x, pad=1), [], 1
                pad = int(isinstance(layers[i + 1][1], ResnetBlock) and not (stop and number == wanted[-1]))
                x, margin = layer(x, margin, pad), pad
            elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                x, waiting = conv_of(layer, partial(_chain, waiting), x) if waiting else layer(x), []
            elif named or not cheap:
                x, waiting = _chain([*waiting, layer], x), []
            else:
                waiting = [*waiting, layer]
            if named:
                feature = inner(x, 1) if margin else x
                if ids is not None:
                    # Here and not after the pass: the backward pass then makes the map of a row's gradient when it is
                    # due, instead of those of all layers at its start.
                    feature = gather_patches(feature, ids[len(features)])
                features.append(with_bias(layer, feature) if add_biases else feature)
            if stop and number == wanted[-1]:
                break
        return x, features

    def forward(self, x: Tensor, feature_layers: Sequence[int] = (), add_biases: bool = True) -> Any:
        """Translate images.

        Args:
            x: (B, input_nc, H, W), values in [-1, 1], H and W at least 5. The size is preserved if both are multiples
                of 4, otherwise rounded up to such.
            feature_layers: published numbers of layers, ascending.
            add_biases: False gives features for ``rows``.

        Returns:
            The images (B, output_nc, H, W) in [-1, 1]; with ``feature_layers`` the pair (images, list of features).

        Raises:
            ValueError: ``x`` has another shape, or ``feature_layers`` names a layer that does not exist.
        """
        image, features = self._run(x, feature_layers, False, add_biases)
        image = zero_gradient(image, (self.stem, *self.down, *self.up))
        return (image, features) if feature_layers else image

    def encode(
        self,
        x: Tensor,
        feature_layers: Sequence[int],
        ids: Sequence[Tensor] | None = None,
        add_biases: bool = True,
    ) -> list[Tensor]:
        """The features at the named layers, without computing anything beyond the last one.

        Args:
            x, feature_layers, add_biases: as in ``forward``.
            ids: one int64 (P,) or (B, P) a layer, positions in the flattened map.

        Returns:
            One (B, C, h, w) a layer, or with ``ids`` one (B, P, C).

        Raises:
            ValueError: as ``forward``; or there is no layer, or another number of ``ids``.
        """
        check_positions(feature_layers, ids)
        return self._run(x, feature_layers, True, add_biases, ids)[1]

    def rows(self, features: Sequence[Tensor], feature_layers: Sequence[int], ids: Sequence[Tensor]) -> list[Tensor]:
        """Features at some positions, with their biases: what ``encode`` gives with ``ids``, of maps that are there.

        Args:
            features: one (B, C, h, w) a layer, of a pass with ``add_biases=False``.
            feature_layers: their numbers.
            ids: one int64 (P,) or (B, P) a layer, positions in the flattened map.

        Returns:
            One (B, P, C) a layer.

        Raises:
            ValueError: as ``encode``.
        """
        check_positions(feature_layers, ids)
        layers = self._layers()
        wanted = self._resolve(feature_layers, layers)
        chosen = [layer for number, layer in layers if number in wanted]
        return [
            with_bias(layer, gather_patches(feature, at))
            for layer, feature, at in zip(chosen, features, ids, strict=True)
        ]
