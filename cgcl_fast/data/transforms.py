"""From a decoded image to the tensor a network sees: resizing, cropping, flipping, scaling to [-1,1].

Random choices come from a ``random.Random`` that the caller seeds, so an item is the same whichever process makes it.
"""

from __future__ import annotations

import random

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cgcl_fast.data.images import to_tensor

PREPROCESS = ("resize_and_crop", "crop", "scale_width", "none")

_BICUBIC = InterpolationMode.BICUBIC


def round_to_multiple(length: float, multiple: int) -> int:
    """The multiple nearest to a length (halves up), at least one of it."""
    return max(1, int(length / multiple + 0.5)) * multiple


class Preprocess:
    """One of the ``preprocess`` modes of CUT and CycleGAN, for training (random) or for testing (the same every time).

    =================  ==========================================  ==========================================
    mode               training                                    testing
    =================  ==========================================  ==========================================
    resize_and_crop    resize to load_size x load_size (aspect     resize to size x size
                       not kept), random crop of size x size
    crop               random crop of size x size at native        centre crop of size x size
                       resolution
    scale_width        resize to width load_size, aspect kept      the same
    none               native size                                 the same
    =================  ==========================================  ==========================================

    In training a horizontal flip with probability 1/2 follows if ``flip``. Sides are rounded to the nearest multiple of
    ``multiple``, which the networks need. An image smaller than the crop is enlarged first, keeping its aspect.

    Args:
        mode: see the table.
        size: side of what ``resize_and_crop`` and ``crop`` give.
        load_size: see the table; None: 286/256 of ``size`` for ``resize_and_crop`` (the published 286 for 256) and
            ``size`` for ``scale_width``.
        train: random crops and flips.
        flip: flip half of the images in training.
        multiple: what sides are rounded to.

    Raises:
        ValueError: an unknown mode, or a size that is not positive or larger than ``load_size``.
    """

    def __init__(
        self,
        mode: str = "resize_and_crop",
        *,
        size: int = 256,
        load_size: int | None = None,
        train: bool = True,
        flip: bool = True,
        multiple: int = 4,
    ) -> None:
        if mode not in PREPROCESS:
            raise ValueError(f"preprocess must be one of {', '.join(PREPROCESS)}, got {mode!r}")
        for name, value in (("size", size), ("load_size", load_size), ("multiple", multiple)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        self.mode = mode
        self.multiple = multiple
        self.train = train
        self.flip = flip
        self.size = round_to_multiple(size, multiple)
        if load_size is None:
            load_size = round(self.size * 286 / 256) if mode == "resize_and_crop" else self.size
        elif mode == "resize_and_crop" and train and load_size < size:
            raise ValueError(f"load_size must be at least size {size}, got {load_size}")
        # Never below the rounded size: a crop must fit.
        self.load_size = max(load_size, self.size) if mode == "resize_and_crop" else load_size

    @property
    def fixed_size(self) -> bool:
        """Whether every image comes out with the same size, so that images can be stacked to a batch."""
        return self.mode in ("resize_and_crop", "crop")

    @property
    def reads_at_least(self) -> tuple[int, int] | None:
        """(height, width) that is enough to decode (``at_least`` of :func:`cgcl_fast.data.read_image`); None: all."""
        return (self.load_size, self.load_size) if self.mode == "resize_and_crop" else None

    def __call__(self, image: Image.Image, rng: random.Random | None = None, *, load_size: int | None = None) -> Tensor:
        """PIL RGB image -> float32 (3,H,W) in [-1,1].

        Args:
            image: mode RGB, any size.
            rng: source of the random choices; needed in training.
            load_size: in place of the configured one for this image (only ``resize_and_crop`` looks at it).

        Raises:
            ValueError: training without ``rng``.
        """
        if self.train and rng is None:
            raise ValueError("rng must be given in training: the random crop and flip are drawn from it")
        if self.mode == "resize_and_crop":
            image = self._resize_and_crop(image, rng, self.load_size if load_size is None else load_size)
        elif self.mode == "crop":
            image = self._crop(image, rng)
        else:
            image = self._whole(image)
        if self.train and self.flip and rng is not None and rng.random() < 0.5:
            image = F.horizontal_flip(image)
        return to_tensor(image)

    def _resize_and_crop(self, image: Image.Image, rng: random.Random | None, load_size: int) -> Image.Image:
        side = max(load_size, self.size) if self.train else self.size
        image = _resize(image, side, side)
        if side == self.size:
            return image
        top, left = _offset(side - self.size, rng), _offset(side - self.size, rng)
        return F.crop(image, top, left, self.size, self.size)

    def _crop(self, image: Image.Image, rng: random.Random | None) -> Image.Image:
        # The window is cut before it is enlarged: enlarging all of a long thin image could take gigabytes.
        window = min(self.size, *image.size)
        rng = rng if self.train else None
        left, top = _offset(image.width - window, rng), _offset(image.height - window, rng)
        return _resize(F.crop(image, top, left, window, window), self.size, self.size)

    def _whole(self, image: Image.Image) -> Image.Image:
        scale = self.load_size / image.width if self.mode == "scale_width" else 1.0
        width = round_to_multiple(image.width * scale, self.multiple)
        height = round_to_multiple(image.height * scale, self.multiple)
        return _resize(image, height, width)


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return F.resize(image, [height, width], interpolation=_BICUBIC, antialias=True)


def _offset(room: int, rng: random.Random | None) -> int:
    """A crop offset from 0 to ``room``: random, or the centre without a source of randomness."""
    return room // 2 if rng is None else int(rng.random() * (room + 1))
