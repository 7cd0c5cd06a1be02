"""What a method asks of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Crops:
    """Minibatches of crops of one image a domain (SinCUT).

    Args:
        count: crops of each domain a step.
        size: side of a crop in pixels.
        min_width: least width in pixels to which the image is zoomed; None: a third of the greatest.
        max_width: greatest width; None: the image's own.
        per_crop: a zoom for each crop; else one for a minibatch.
        independent: draw the factors of width and height independently of each other.
        grid: crops are cells, side by side, of a grid with a random offset, without repetition; else they lie anywhere.
    """

    count: int
    size: int
    min_width: int | None = None
    max_width: int | None = None
    per_crop: bool = False
    independent: bool = False
    grid: bool = False


@dataclass(frozen=True)
class DataNeeds:
    """What a method asks of its data beyond unpaired images.

    Args:
        random_pairs: "A" and "B" of an item are two different domains drawn at random; the method has any number.
        classes: names of the classes whose boxes come with the images.
        object_size: side in pixels of the instance crops that come with the images.
        min_object: boxes with a side of fewer pixels, in the image's file, are not cropped.
        crops: images come as crops of a single one a domain.
        full_view_in_decay: images are resized without a crop in the epochs of decay.
        multiple: what the sides of images are multiples of.
    """

    random_pairs: bool = False
    classes: Sequence[str] | None = None
    object_size: int | None = None
    min_object: int = 16
    crops: Crops | None = None
    full_view_in_decay: bool = False
    multiple: int = 4


NOTHING_MORE = DataNeeds()
"""Unpaired images are all."""
