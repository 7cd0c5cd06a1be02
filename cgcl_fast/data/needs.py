"""What a method needs of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cgcl_fast._renamed import takes_old_names


@takes_old_names
@dataclass(frozen=True)
class Crops:
    """Minibatches of crops of a single image per domain (SinCUT).

    Args:
        count: crops per domain and step.
        size: side of a crop in pixels.
        min_width: smallest width in pixels to which the image is zoomed; None: a third of the largest.
        max_width: largest width; None: the image's own.
        per_crop: zoom each crop separately instead of once per minibatch.
        independent: draw the zoom factors of width and height independently.
        grid: crops are distinct cells of a grid with a random offset; otherwise they can be anywhere.
    """

    count: int
    size: int
    min_width: int | None = None
    max_width: int | None = None
    per_crop: bool = False
    independent: bool = False
    grid: bool = False


@takes_old_names
@dataclass(frozen=True)
class DataNeeds:
    """What a method needs of its data beyond unpaired images.

    Args:
        random_pairs: "A" and "B" of an item are two different domains drawn at random; the method handles any number.
        classes: names of the classes whose boxes come with the images.
        object_size: side in pixels of the instance crops that come with the images.
        min_object: boxes with a side of fewer pixels, in the image's file, are not cropped.
        crops: use crops of a single image per domain.
        full_view_in_decay: in the epochs of decay, images are resized without a crop.
        multiple: sides of images are multiples of this.
    """

    random_pairs: bool = False
    classes: Sequence[str] | None = None
    object_size: int | None = None
    min_object: int = 16
    crops: Crops | None = None
    full_view_in_decay: bool = False
    multiple: int = 4


NOTHING_MORE = DataNeeds()
"""Just unpaired images."""
