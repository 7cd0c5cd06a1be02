"""From a decoded image to the network's input tensor: resizing, cropping, flipping, scaling to [-1,1].

Boxes are transformed together with their image, as ``torchvision.tv_tensors.BoundingBoxes``. Random choices come from a
``random.Random`` that the caller seeds, so an item is the same in every process.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cgcl_fast.data.decoding import Pixels, size_of, to_tensor

_RESIZE_AND_CROP = ("resize_and_crop", "scale_shortside_and_crop", "scale_width_and_crop")
PREPROCESS = (*_RESIZE_AND_CROP, "crop", "resize", "scale_width", "none")

LEAST_BOX = 1.0
"""Boxes with less than this many pixels a side left in the image are dropped."""

_BICUBIC = InterpolationMode.BICUBIC


class Preprocessed(NamedTuple):
    """The result of :meth:`Preprocess.apply`.

    Attributes:
        image: float32 (C,H,W) in [-1,1].
        boxes: float32 (M,4), x0 y0 x1 y1 in pixels of ``image``, within it.
        kept: int64 (M,), which of the given boxes these are, in order.
        flipped: whether the image was mirrored.
    """

    image: Tensor
    boxes: Tensor
    kept: Tensor
    flipped: bool


class _View(NamedTuple):
    """An image in process, and its boxes, which may extend beyond it; None for no boxes, which saves most of a
    millisecond."""

    image: Pixels
    boxes: tv_tensors.BoundingBoxes | None

    def resize(self, height: int, width: int) -> _View:
        if size_of(self.image) == (width, height):
            return self
        image = F.resize(self.image, [height, width], interpolation=_BICUBIC, antialias=True)
        return _View(image, None if self.boxes is None else F.resize(self.boxes, [height, width]))

    def crop(self, top: int, left: int, height: int, width: int) -> _View:
        window = (top, left, height, width)
        return _View(F.crop(self.image, *window), None if self.boxes is None else F.crop(self.boxes, *window))

    def flip(self) -> _View:
        return _View(F.horizontal_flip(self.image), None if self.boxes is None else F.horizontal_flip(self.boxes))


def round_to_multiple(length: float, multiple: int) -> int:
    """The multiple nearest to a length (halves round up), at least one."""
    return max(1, int((2 * length + multiple) // (2 * multiple))) * multiple


class Preprocess:
    """One of the ``preprocess`` modes of CUT and CycleGAN, for training (random) or for testing (deterministic).

    ========================  ===============================================  ==========================
    mode                      training                                         testing
    ========================  ===============================================  ==========================
    resize_and_crop           resize to load_size x load_size (aspect not      resize to size x size
                              kept), random crop of size x size
    scale_shortside_and_crop  resize the short side to load_size, aspect       resize the short side
                              kept, random crop of size x size                 to size, centre crop
    scale_width_and_crop      resize to width load_size, aspect kept but the   resize to width size and
                              height at least size, random crop of size x      a height of at least
                              size                                             size, centre crop
    crop                      random crop of size x size at native resolution  centre crop of size x size
    resize                    resize to load_size x load_size                  the same
    scale_width               resize to width load_size, aspect kept           the same
    none                      native size                                      the same
    ========================  ===============================================  ==========================

    In training, if ``flip``, a horizontal flip follows with probability 1/2. Sides are rounded to the nearest multiple
    of ``multiple``, which the networks need. An image smaller than the crop is first enlarged, keeping its aspect.

    Args:
        mode: see the table.
        size: side of the crops.
        load_size: see the table; None: 286/256 of ``size`` for ``resize_and_crop`` (the published 286 for 256), else
            ``size``.
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
        elif mode in _RESIZE_AND_CROP and train and load_size < size:
            raise ValueError(f"load_size must be at least size {size}, got {load_size}")
        # Not below the rounded size: a crop must fit.
        self.load_size = load_size if mode in ("resize", "scale_width") else max(load_size, self.size)

    @property
    def fixed_size(self) -> bool:
        """Whether every image comes out with the same size, so that images can be stacked to a batch."""
        return self.mode not in ("scale_width", "none")

    @property
    def reads_at_least(self) -> tuple[int, int] | None:
        """(height, width) sufficient for decoding (``at_least`` of :func:`cgcl_fast.data.read_image`); None: full
        size."""
        return (self.load_size, self.load_size) if self.mode in (*_RESIZE_AND_CROP, "resize") else None

    def __call__(self, image: Pixels, rng: random.Random | None = None, *, load_size: int | None = None) -> Tensor:
        """An image of any size -> float32 (C,H,W) in [-1,1].

        Args:
            image: see ``Pixels``: PIL of mode RGB or L, or a tensor.
            rng: source of the random choices; needed in training.
            load_size: replaces the configured one for this image (ignored by ``crop``, ``scale_width`` and ``none``):
                equal to ``size`` it gives the full view.

        Raises:
            ValueError: training without ``rng``.
        """
        return self.apply(image, torch.zeros(0, 4), rng, load_size=load_size).image

    def apply(
        self, image: Pixels, boxes: Tensor, rng: random.Random | None = None, *, load_size: int | None = None
    ) -> Preprocessed:
        """The same with the boxes of the image's objects, which are clipped to the image; see ``LEAST_BOX``.

        Args:
            image, rng, load_size: as for calling it.
            boxes: float (N,4), corners x0 y0 x1 y1 in pixels of ``image``.

        Raises:
            ValueError: training without ``rng``.
        """
        if self.train and rng is None:
            raise ValueError("rng must be given in training: the random crop and flip are drawn from it")
        view = _View(image, None)
        if len(boxes):
            size = size_of(image)[::-1]
            view = _View(image, tv_tensors.BoundingBoxes(boxes.to(torch.float32), format="XYXY", canvas_size=size))
        load_size = self.load_size if load_size is None else load_size
        if self.mode == "resize_and_crop":
            view = self._resize_and_crop(view, rng, load_size)
        elif self.mode == "scale_width_and_crop":
            view = self._scale_width_and_crop(view, rng, load_size)
        elif self.mode == "resize":
            side = round_to_multiple(load_size, self.multiple)
            view = view.resize(side, side)
        elif self.fixed_size:
            view = self._crop(view, rng, load_size)
        else:
            view = self._whole(view)
        flipped = self.train and self.flip and rng is not None and rng.random() < 0.5
        if flipped:
            view = view.flip()
        if view.boxes is None:
            return Preprocessed(to_tensor(view.image), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), flipped)
        inside = F.clamp_bounding_boxes(view.boxes).as_subclass(Tensor)
        kept = ((inside[:, 2:] - inside[:, :2]) >= LEAST_BOX).all(dim=1).nonzero().flatten()
        return Preprocessed(to_tensor(view.image), inside[kept], kept, flipped)

    def _resize_and_crop(self, view: _View, rng: random.Random | None, load_size: int) -> _View:
        side = max(load_size, self.size) if self.train else self.size
        view = view.resize(side, side)
        if side == self.size:
            return view
        top, left = _offset(side - self.size, rng), _offset(side - self.size, rng)
        return view.crop(top, left, self.size, self.size)

    def _scale_width_and_crop(self, view: _View, rng: random.Random | None, load_size: int) -> _View:
        # Cut the window before resizing it, as below.
        columns, rows = size_of(view.image)
        side = max(load_size, self.size) if self.train else self.size
        width = max(1, round(columns * self.size / side))
        height = min(rows, width)  # all rows if the crop would come out too low
        rng = rng if self.train else None
        left, top = _offset(columns - width, rng), _offset(rows - height, rng)
        return view.crop(top, left, height, width).resize(self.size, self.size)

    def _crop(self, view: _View, rng: random.Random | None, load_size: int) -> _View:
        # Cut the window before resizing it: enlarging a long thin image as a whole could take gigabytes.
        width, height = size_of(view.image)
        short = min(width, height)
        if self.mode == "crop":
            window = min(self.size, short)
        else:
            window = max(1, round(short * self.size / max(load_size, self.size))) if self.train else short
        rng = rng if self.train else None
        left, top = _offset(width - window, rng), _offset(height - window, rng)
        return view.crop(top, left, window, window).resize(self.size, self.size)

    def _whole(self, view: _View) -> _View:
        width, height = self.whole_size(*size_of(view.image))
        return view.resize(height, width)

    def whole_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which an image of this size is resized, in the modes that keep the whole image."""
        columns, rows = float(width), float(height)
        if self.mode == "scale_width":
            # Not by the quotient of the widths: 11 * (30 / 11) is less than 30, whose multiple of 4 is another.
            columns, rows = self.load_size, height * self.load_size / width
        return round_to_multiple(columns, self.multiple), round_to_multiple(rows, self.multiple)


def _offset(room: int, rng: random.Random | None) -> int:
    """A crop offset from 0 to ``room``: random, or the centre if there is no source of randomness."""
    return room // 2 if rng is None else int(rng.random() * (room + 1))
