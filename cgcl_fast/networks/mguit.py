"""The networks of MGUIT (Jeong et al. 2021), after those of DRIT (Lee et al., "Diverse Image-to-Image Translation via
Disentangled Representations", ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgcl_fast.networks.halvings import check_halvings
from cgcl_fast.networks.memory_format import in_fast_format
from cgcl_fast.networks.norms import LayerNormReLU, NormedConv2d
from cgcl_fast.networks.resnet import ResnetBlock, ResnetBlocks
from cgcl_fast.networks.styled import StyledGenerator
from cgcl_fast.nn import ClassMemory, conv_of, reflect_pad
from cgcl_fast.ops import instance_norm, memory_read


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01)


def _spread(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _doubled(x: Tensor) -> Tensor:
    return reflect_pad(F.interpolate(x, scale_factor=2.0), 1)


class DomainContentEncoder(nn.Module):
    """A domain's own part of the content encoder: a 7x7 convolution, two halvings, residual blocks.

    Args:
        input_nc: channels of the image.
        ngf: channels after the first convolution; doubled by each halving.
        n_blocks: residual blocks.
    """

    def __init__(self, input_nc: int = 3, ngf: int = 64, n_blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_nc, ngf, 7)
        self.down = nn.ModuleList(NormedConv2d(width, 2 * width, 3, stride=2, padding=1) for width in (ngf, 2 * ngf))
        self.blocks = ResnetBlocks(*(ResnetBlock(4 * ngf) for _ in range(n_blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """(B, input_nc, H, W) to (B, 4 ngf, H/4, W/4)."""
        x = _leaky(self.stem(reflect_pad(in_fast_format(image), 3)))
        for conv in self.down:
            x = instance_norm(conv(x), activation="relu")
        return self.blocks(x)


class StyleMapEncoder(nn.Module):
    """The style at each position of an image. Without norm, which would remove the style.

    Args:
        input_nc: channels of the image.
        ngf: channels after the first convolution.
        style_nc: channels of the style.
    """

    def __init__(self, input_nc: int = 3, ngf: int = 64, style_nc: int = 256) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_nc, ngf, 7)
        self.down = nn.ModuleList(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1) for width in (ngf, 2 * ngf))
        self.inner = nn.Conv2d(4 * ngf, 4 * ngf, 3, padding=1)
        self.head = nn.Conv2d(4 * ngf, style_nc, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, input_nc, H, W) to (B, style_nc, H/4, W/4)."""
        x = _leaky(self.stem(reflect_pad(in_fast_format(image), 3)))
        for conv in self.down:
            x = _leaky(conv(x))
        return self.head(_leaky(self.inner(x)))


class StyleMapDecoder(nn.Module):
    """A domain's own part of the generator: content and a style map to an image.

    As in DRIT, every stage gets the style again, concatenated with the features, and the norms outside the residual
    blocks are layer norms, which preserve it. A convolution of the concatenation is the sum of two convolutions; that
    of the style is 1x1 and comes before its enlargement, so it costs almost nothing. Features are enlarged by repeating
    pixels; DRIT's transposed convolutions leave a checkerboard.

    Args:
        output_nc: channels of the image.
        ngf: a quarter of the channels of the content.
        style_nc: channels of the style.
        n_blocks: residual blocks.
    """

    def __init__(self, output_nc: int = 3, ngf: int = 64, style_nc: int = 256, n_blocks: int = 3) -> None:
        super().__init__()
        widths = (4 * ngf, 2 * ngf, ngf)
        self.content = nn.Conv2d(4 * ngf, 4 * ngf, 3)
        self.blocks = ResnetBlocks(*(ResnetBlock(4 * ngf) for _ in range(n_blocks)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList([LayerNormReLU(widths[1]), LayerNormReLU(widths[2], pad=3)])
        self.head = nn.Conv2d(ngf, output_nc, 7)
        self.styles = nn.ModuleList(nn.Conv2d(style_nc, width, 1, bias=False) for width in (*widths, output_nc))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(B, 4 ngf, h, w) and (B, style_nc, h, w) to images (B, output_nc, 4 h, 4 w) in [-1, 1]."""
        styles = [mix(style) for mix in self.styles]
        x = self.blocks(self.content(reflect_pad(content, 1)) + styles[0])
        for i, (up, norm) in enumerate(zip(self.up, self.norms)):  # noqa: B905  TorchScript knows no strict
            x = up(_doubled(x)) if torch.jit.is_scripting() else conv_of(up, _doubled, x)
            x = norm(x + _spread(styles[i + 1], x))
        x = self.head(x)
        return torch.tanh(x + _spread(styles[-1], x))


def read_all(content: Tensor, keys: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Read the memory without classes, as at test time: each pixel from all items.

    Args:
        content: (B, C, h, w).
        keys: (N, C).
        values: (N, V), or those of each image, (B, N, V).
        temperature: see :func:`cgcl_fast.ops.memory_read`.

    Returns:
        (B, V, h, w).
    """
    if values.dim() == 2:
        return memory_read(content, keys, values, temperature=temperature)
    # An item's share in a pixel does not depend on the values, and of one-hot values what is read are the shares.
    one_hot = torch.eye(keys.shape[0], dtype=keys.dtype, device=keys.device)
    shares = memory_read(content, keys, one_hot, temperature=temperature)
    return (values.to(content).transpose(1, 2) @ shares.flatten(2)).unflatten(2, shares.shape[2:])


class MGUITGenerator(StyledGenerator):
    """Everything that translates: content encoders, memory and generators. A style is a set of values (B, N, style_nc)
    that replaces the stored ones.

    The domains share the last residual block of the content encoders and the first one of the generators (DRIT). In
    training, Gaussian noise is added to the content, or (``noise_in``) only at the input of the generators.

    Args:
        input_nc: channels of the images.
        ngf: channels after the first convolution; the content and the keys have 4 ngf.
        n_blocks: residual blocks in each domain's own part, for encoder and generator alike.
        style_nc: channels of style and values.
        items: memory items of each class, the background last.
        class_aware: whether pixels use only the items of their class in training.
        update: the memory's update rule; see :class:`ClassMemory`.
        noise: standard deviation of the noise.
        domains: names of the two domains.
        temperature: of the memory; see :class:`ClassMemory`.
        noise_in: where the noise is added: to the "content", for all its uses, or only at the input of the "decoder".
    """

    entry_points = ("encode", "first_decoder_block", "decoders")
    reads_references = False

    def __init__(
        self,
        input_nc: int = 3,
        ngf: int = 64,
        n_blocks: int = 3,
        style_nc: int = 256,
        items: Sequence[int] = (5, 3, 2, 10),
        class_aware: bool = True,
        update: str = "paper",
        noise: float = 1.0,
        domains: Sequence[str] = ("A", "B"),
        temperature: float = 1.0,
        noise_in: str = "content",
    ) -> None:
        super().__init__()
        for name, value in (("input_nc", input_nc), ("ngf", ngf), ("style_nc", style_nc)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if n_blocks < 0:
            raise ValueError(f"n_blocks: expected at least 0, got {n_blocks}")
        self.domains = tuple(domains)
        if len(self.domains) != 2:
            raise ValueError(f"domains: expected two, got {len(self.domains)}")
        self.config: dict[str, Any] = {
            "input_nc": input_nc,
            "ngf": ngf,
            "n_blocks": n_blocks,
            "style_nc": style_nc,
            "items": list(items),
            "class_aware": class_aware,
            "update": update,
            "noise": noise,
            "domains": list(domains),
            "temperature": temperature,
            "noise_in": noise_in,
        }
        if noise_in not in ("content", "decoder"):
            raise ValueError(f"noise_in: expected content or decoder, got {noise_in!r}")
        self.noise, self.noise_in = noise, noise_in
        self.encoders = nn.ModuleList(DomainContentEncoder(input_nc, ngf, n_blocks) for _ in self.domains)
        self.last_encoder_block = ResnetBlock(4 * ngf)
        self.first_decoder_block = ResnetBlock(4 * ngf)
        self.decoders = nn.ModuleList(StyleMapDecoder(input_nc, ngf, style_nc, n_blocks) for _ in self.domains)
        self.memory = ClassMemory(
            items,
            4 * ngf,
            style_nc,
            len(self.domains),
            class_aware=class_aware,
            update=update,
            temperature=temperature,
        )

    def encode(self, images: Sequence[Tensor], domains: Sequence[int] = (0, 1)) -> Tensor:
        """Content of images, one batch per domain: each domain's own part runs separately, the shared part on all at
        once.

        Args:
            images: for each of ``domains`` (B, input_nc, H, W), values in [-1, 1], all of one size, H and W multiples
                of 4 and at least 8.
            domains: the domain of each batch.

        Returns:
            (sum of the batches, 4 ngf, H/4, W/4).

        Raises:
            ValueError: an image has another shape.
        """
        for image in images:
            if image.dim() != 4 or image.shape[1] != self.config["input_nc"] or image.shape[2:] != images[0].shape[2:]:
                raise ValueError(
                    f"images: expected (B, {self.config['input_nc']}, H, W) of one size, got "
                    f"{' and '.join(str(tuple(image.shape)) for image in images)}"
                )
            height, width = image.shape[2:]
            if height % 4 or width % 4 or min(height, width) < 8:
                raise ValueError(f"images: expected sides of at least 8 that are multiples of 4, got {height}x{width}")
        parts = [self.encoders[domain](image) for image, domain in zip(images, domains, strict=True)]
        return self._content(torch.cat(parts) if len(parts) > 1 else parts[0])

    def _content(self, part: Tensor) -> Tensor:
        content = self.last_encoder_block(part)
        return self._noisy(content) if self.noise_in == "content" else content

    def _noisy(self, content: Tensor) -> Tensor:
        return content + self.noise * torch.randn_like(content) if self.training and self.noise > 0 else content

    def prepare(self, content: Tensor) -> Tensor:
        """The decoders' shared part: content (B, 4 ngf, h, w) to the input of ``decoders``."""
        return self.first_decoder_block(self._noisy(content) if self.noise_in == "decoder" else content)

    def random_style(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Random values, (batch, N, style_nc) (Fig. 6)."""
        return self.memory.random_values(batch, generator or torch.default_generator)

    def style_of(self, image: Tensor, domain: int) -> Tensor:
        """Always raises an error."""
        raise ValueError(
            "MGUIT takes no style from a reference image: its styles are values of its memory, not of one image; "
            "use random or a number"
        )

    def forward(self, image: Tensor, domain: int = 1, style: Tensor | None = None) -> Tensor:
        """Translate images of the other domain, with all items and no boxes.

        Args:
            image: (B, input_nc, H, W), values in [-1, 1], H and W multiples of 4 and at least 8.
            domain: index of the target domain.
            style: (B, N, style_nc) or, for all images, (1, N, style_nc); None: the values stored for ``domain``.

        Returns:
            (B, input_nc, H, W), values in [-1, 1].

        Raises:
            ValueError: an argument has another shape or is out of range.
        """
        self.check_domain(domain)
        if torch.jit.is_scripting():
            return self._scripted(image, domain, style)
        content = self.encode([image], [1 - domain])
        if style is not None:
            shape = tuple(self.memory.values.shape[1:])
            if style.dim() != 3 or style.shape[1:] != shape or style.shape[0] not in (1, len(image)):
                raise ValueError(f"style: expected (B, {shape[0]}, {shape[1]}), got {tuple(style.shape)}")
            style = style.expand(image.shape[0], -1, -1)
        values = self.memory.values[domain] if style is None else style
        read = read_all(content, self.memory.keys, values, self.memory.temperature)
        return self.decoders[domain](self.prepare(content), read)

    def _scripted(self, image: Tensor, domain: int, style: Tensor | None) -> Tensor:
        """``forward`` for TorchScript, which looks a network up in a list by a constant only."""
        content = image
        for number, encoder in enumerate(self.encoders):
            if number == 1 - domain:
                content = encoder(image)
        content = self._content(content)
        values = self.memory.values[domain] if style is None else style.expand(image.shape[0], -1, -1)
        read = read_all(content, self.memory.keys, values, self.memory.temperature)
        content = self.prepare(content)
        for number, decoder in enumerate(self.decoders):
            if number == domain:
                content = decoder(content, read)
        return content


class MultiScaleDiscriminator(nn.Module):
    """Real or fake, for patches at several scales of the image: per scale, a chain of 4x4 convolutions of stride 2
    without norm.

    Args:
        input_nc: channels of the image.
        ndf: channels after the first convolution; doubled by each further one, up to 8 ndf.
        n_layers: halvings.
        n_scales: number of scales, each half the size of the previous one.
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 4, n_scales: int = 3) -> None:
        super().__init__()
        for name, value in (("n_layers", n_layers), ("n_scales", n_scales)):
            check_halvings(name, value)
        if ndf < 1:
            raise ValueError(f"ndf: expected at least 1, got {ndf}")
        self.least = self.least_size(n_layers, n_scales)
        widths = [input_nc, *(ndf * min(2**i, 8) for i in range(n_layers))]
        self.scales = nn.ModuleList()
        for _ in range(n_scales):
            layers: list[nn.Module] = []
            for a, b in zip(widths, widths[1:], strict=False):
                layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
            self.scales.append(nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1)))

    @staticmethod
    def least_size(n_layers: int, n_scales: int) -> int:
        """The smallest side of an image in pixels."""
        return 2 ** (n_layers + n_scales - 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Raw outputs of each scale, large for real.

        Args:
            image: (B, input_nc, H, W), values in [-1, 1].

        Returns:
            For each scale (B, 1, h, w); h = H / 2^(n_layers + scale), rounded down.

        Raises:
            ValueError: the image is too small.
        """
        if not torch.jit.is_scripting():
            self._check(image)
        outputs = []
        image = in_fast_format(image)
        for i, scale in enumerate(self.scales):
            if i > 0:
                image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(scale(image))
        return outputs

    def _check(self, image: Tensor) -> None:
        if min(image.shape[2:]) < self.least:
            raise ValueError(
                f"image: expected sides of at least {self.least} for this many layers and scales, got "
                f"{tuple(image.shape)}"
            )


class ContentDiscriminator(nn.Module):
    """The domain of a content map: 7x7 convolutions of stride 2, a 4x4 and a 1x1 one, without norm.

    Args:
        channels: channels of the content.
        n_layers: halvings.
    """

    def __init__(self, channels: int = 256, n_layers: int = 3) -> None:
        super().__init__()
        check_halvings("n_layers", n_layers)
        kernels = [(7, 2, 3)] * n_layers + [(4, 1, 2)]  # size, stride, padding
        layers: list[nn.Module] = []
        for size, stride, padding in kernels:
            layers += [nn.Conv2d(channels, channels, size, stride=stride, padding=padding), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, content: Tensor) -> Tensor:
        """(B, channels, h, w) to raw outputs (B, 1, h', w'), large for the first domain."""
        return self.layers(content)
