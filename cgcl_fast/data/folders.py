"""Unpaired data sets in folders, with the boxes of their annotations."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.data.annotations import Annotation, AnnotationIndex
from cgcl_fast.data.decoding import RGB, Pixels, StoredImage, read_size, read_stored, size_of
from cgcl_fast.data.formats import DataError, Reading, UnreadableImageError, printable
from cgcl_fast.data.images import find_images, list_images
from cgcl_fast.data.layouts import SPLITS, Place, find_places, in_direction
from cgcl_fast.data.measuring import with_values
from cgcl_fast.data.needs import NOTHING_MORE, DataNeeds
from cgcl_fast.data.transforms import Preprocess
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate

logger = logging.getLogger(__name__)


class FolderDataset(UnpairedDataset):
    """Images in the folders of :mod:`cgcl_fast.data.layouts`, or in tars there, and with ``classes`` or ``object_size``
    the boxes of the annotations beside them, see :mod:`cgcl_fast.data.annotations.index`.

    Unreadable files are left out when the folder is opened (see :func:`cgcl_fast.data.find_images`). A file that fails
    later is logged once and replaced by the next readable one, so that an item depends only on the files' content; if
    none is left, a :class:`DataError` is raised. An image whose annotation is missing, empty or broken has no boxes and
    is logged once.

    Args:
        root: the data folder.
        domains: names of the domains.
        split: "train" or "test".
        preprocess: how an image is resized, cropped and flipped.
        seed: seed of everything random.
        limit: use no more than the first ``limit`` files of each domain.
        readings: how the images of each domain are read; with three channels if not given.
        span: the numbers that become -1 and 1, for domains whose reading has no values; if not given they are measured
            in the domain's images, see :mod:`cgcl_fast.data.values`.
        needs: see :class:`UnpairedDataset`.
        direction: BtoA exchanges two domains: the images of each are in the other's folders, and their truth in
            ``truth/B_as_A``.

    Raises:
        ValueError: folders are missing, or one has no readable image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        domains: Sequence[str] = ("A", "B"),
        split: str = "train",
        preprocess: Preprocess,
        seed: int = 0,
        limit: int | None = None,
        readings: Mapping[str, Reading] | None = None,
        span: tuple[float, float] | None = None,
        needs: DataNeeds = NOTHING_MORE,
        direction: str = "AtoB",
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be train or test, got {split!r}")
        super().__init__(
            domains,
            preprocess,
            seed,
            needs=needs,
        )
        self.root = Path(root)
        self.split = split
        wanted = {domain: (readings or {}).get(domain, RGB) for domain in self.domains}
        self.direction = direction
        there = find_places(self.root, self.domains, split)
        self._names = [place.name or domain for domain, place in there.items()]  # as the folders have them
        places = in_direction(there, direction)
        self.paths = {
            domain: find_images(
                place.folder,
                tars=place.tars,
                limit=limit,
                keep=place.keep,
                files=place.files,
                reading=wanted[domain],
            )
            for domain, place in places.items()
        }
        self.readings = with_values(wanted, self.paths, span)
        self.values = {domain: reading.values for domain, reading in self.readings.items() if reading.values}
        self._annotations = self._read_annotations(places, self.paths)
        self._found = [self._describe(domain, place) for domain, place in places.items()]
        self._broken: set[Path] = set()

    def _read_annotations(
        self, places: dict[str, Place], paths: dict[str, list[Path]]
    ) -> dict[str, AnnotationIndex | None]:
        if not self.wants_boxes:
            return dict.fromkeys(places)
        found: dict[str, AnnotationIndex | None] = {}
        for domain, place in places.items():
            index = place.annotations(self.root)
            index.read(paths[domain])
            if self._table is not None:
                for name in sorted(index.names()):  # says now, and not in every worker, which are left out
                    self._table.find(name)
            found[domain] = index
        self._say_shared([(index, paths[domain]) for domain, index in found.items() if index is not None])
        return found

    def _say_shared(self, domains: list[tuple[AnnotationIndex, list[Path]]]) -> None:
        """Warn of annotations shared by images with the same name: these are seldom of the same scene."""
        of: dict[tuple[Path, str, str], Path] = {}
        shared = [
            (path, other, file)
            for index, paths in domains
            for path in paths
            if path in index.sources
            for file, entry in [index.sources[path]]
            if (other := of.setdefault((file, entry, path.stem), path)) != path
        ]
        if shared:
            image, other, file = shared[0]
            logger.warning(
                "%s: %s and %s have the same boxes in it, as do %d images more; a file about images of one name in "
                "several folders must name the folders",
                *map(printable, (file, other, image)),
                len(shared) - 1,
            )

    def _describe(self, domain: str, place: Place) -> str:
        called = f"{domain} is {place.name}" if place.name not in (None, domain) else domain
        said = f"{printable(called)}: {len(self.paths[domain])} images in {place}"
        index = self._annotations[domain]
        if index is not None:
            said += f", {index.count(self.paths[domain], self._wanted)}"
        logger.info("%s", said)
        return said

    def _wanted(self, name: str) -> bool:
        return self._table is None or self._table.find(name) is not None

    def summary(self) -> list[str]:
        return list(self._found)

    def count(self, domain: str) -> int:
        return len(self.paths[domain])

    def picture(self, domain: str, index: int) -> Picture:
        return self._read(domain, self.paths[domain], index, self._annotations[domain])

    def _read(self, domain: str, paths: list[Path], index: int, annotations: AnnotationIndex | None = None) -> Picture:
        # Objects are cut from all the pixels that there are.
        at_least = None if self.needs.object_size is not None else self.preprocess.reads_at_least
        broken: dict[Path, str] = {}
        for step in range(len(paths)):
            path = paths[(index + step) % len(paths)]
            try:
                stored = read_stored(path, at_least=at_least, reading=self.readings[domain])
            except UnreadableImageError as error:
                broken[path] = error.reason
                continue
            for skipped, reason in broken.items():
                self._skip(skipped, reason)
            if annotations is None:
                return Picture(stored.image, str(path))
            found = annotations[path]
            return Picture(stored.image, str(path), place_boxes(found, stored), found.names)
        # One line of all of them: where a disk is gone they are thousands, and nothing is wrong with the files.
        first, reason = next(iter(broken.items()))
        raise DataError(
            f"none of the {len(paths)} image files in {printable(paths[0].parent)} can be read any more "
            f"({printable(first.name)}: {reason})"
        )

    def _skip(self, path: Path, reason: str) -> None:
        if path not in self._broken:
            self._broken.add(path)
            logger.warning("skipped %s: %s", printable(path), reason)

    def check_sizes(self, least: int, batch_size: int = 1) -> int:
        if self.preprocess.fixed_size:
            return 1
        mode = self.preprocess.mode
        sizes = {domain: self._whole_sizes(domain) for domain in self.domains}
        found = {path: size for each in sizes.values() for path, size in each.items()}
        small = [f"{printable(path)} gives {w}x{h}" for path, (w, h) in found.items() if min(w, h) < least]
        if small:
            more = f", and {len(small) - 1} more of {len(found)} are too small" if len(small) > 1 else ""
            remedy = "a larger load_size" if mode == "scale_width" else "larger images"
            raise DataError(
                f"preprocess: networks with these options need images of at least {least}x{least} pixels, but with "
                f"{mode!r} {small[0]}{more}: take {remedy}, or a mode that crops"
            )
        # Any two images of a domain may meet in a batch; with pairs of random domains, any two.
        for each in [found] if self.needs.random_pairs else sizes.values():
            (first, size), *others = each.items()
            for path, (w, h) in others:
                if batch_size > 1 and (w, h) != size:
                    raise DataError(
                        f"batch_size: expected 1 where sizes differ, got {batch_size}, but with preprocess {mode!r} "
                        f"{printable(first)} gives {size[0]}x{size[1]} and {printable(path)} {w}x{h}: take "
                        f"batch_size 1, with accumulate {batch_size} for as many images a step, or a mode that crops"
                    )
        return len(set(found.values()))

    def _whole_sizes(self, domain: str) -> dict[Path, tuple[int, int]]:
        """(width, height) of each image as the networks get it; of those that can be read."""
        found = {}
        for path in self.paths[domain]:
            try:
                found[path] = self.preprocess.whole_size(*read_size(path, self.readings[domain]))
            except UnreadableImageError as error:
                self._skip(path, error.reason)
        return found

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """Test images (training images if there are no readable test images), spread evenly over the folder.

        A folder ``truth`` beside the others, with the names of the first domain's test images, gives ``"truth"``; with
        ``random_pairs`` folders ``truth/SOURCE_as_NAME`` give ``"truth_NAME"``.
        """
        if self.split == "train":
            try:
                there = find_places(self.root, self._names, "test")
                places = in_direction(dict(zip(self.domains, there.values(), strict=True)), self.direction)
                # Only those that are shown are read: there may be a great many.
                paths = {domain: place.images() for domain, place in places.items()}
                for domain, found in paths.items():
                    if not found:
                        raise ValueError(f"no images of domain {domain}")
                return self._fixed_batch(paths, count, places)
            except ValueError as error:
                logger.info("sample images are training images: %s", error)
        return self._fixed_batch(self.paths, count)

    def _fixed_batch(
        self, paths: dict[str, list[Path]], count: int, places: dict[str, Place] | None = None
    ) -> dict[str, Any]:
        # A batch needs one size, so the modes that keep an image's own shape show its centre.
        mode = self.preprocess.mode if self.preprocess.fixed_size else "crop"
        shown = Preprocess(mode, size=self.preprocess.size, train=False, multiple=self.preprocess.multiple)
        annotations = self._annotations
        if places is not None and self.wants_boxes:
            annotations = {domain: place.annotations(self.root) for domain, place in places.items()}
        if self.needs.random_pairs:
            return self._fixed_pairs(paths, count, shown, annotations)
        count = min(count, *(len(found) for found in paths.values()))
        items: list[dict[str, Any]] = []
        for number in range(count):
            item: dict[str, Any] = {}
            for domain, found in paths.items():
                picture = self._read(domain, found, number * len(found) // count, annotations[domain])
                self._add(item, domain, picture, shown, None, None, ("sample", number))
            items.append(item)
        folder, target = "B_as_A" if self.direction == "BtoA" else "", self.domains[-1]
        truths = [self._truth(item[f"{self.domains[0]}_paths"], target, folder) for item in items]
        for item, truth in zip(items, truths, strict=True):
            if truth is not None and None not in truths:
                item["truth"] = shown(truth)
        return collate(items)

    def _fixed_pairs(
        self,
        paths: dict[str, list[Path]],
        count: int,
        shown: Preprocess,
        annotations: dict[str, AnnotationIndex | None],
    ) -> dict[str, Any]:
        count = min(count, len(self.domains) * min(len(found) for found in paths.values()))
        rounds = -(-count // len(self.domains))  # rows of each domain
        items: list[dict[str, Any]] = []
        for number in range(count):
            which, turn = number % len(self.domains), number // len(self.domains)
            domain = self.domains[which]
            item: dict[str, Any] = {"A_domain": torch.tensor(which)}
            at = turn * len(paths[domain]) // rounds
            picture = self._read(domain, paths[domain], at, annotations[domain])
            self._add(item, "A", picture, shown, None, None, ("sample", number))
            for other, found in paths.items():
                # Another image also where the reference is of the source's own domain.
                reference = (turn * len(found) // rounds + (1 if other == domain else 0)) % len(found)
                item[f"reference_{other}"] = shown(self._read(other, found, reference).image)
            items.append(item)
        for target in self.domains:
            truths = [
                item["A"] if self.domains[item["A_domain"]] == target else self._shown_truth(item, target, shown)
                for item in items
            ]
            if all(truth is not None for truth in truths):
                for item, truth in zip(items, truths, strict=True):
                    item[f"truth_{target}"] = truth
        return collate(items)

    def _shown_truth(self, item: dict[str, Any], target: str, shown: Preprocess) -> torch.Tensor | None:
        source = self.domains[item["A_domain"]]
        truth = self._truth(item["A_paths"], target, f"{source}_as_{target}")
        return None if truth is None else shown(truth)

    def _truth(self, path: str, domain: str, folder: str = "") -> Pixels | None:
        """The counterpart of a test image in a domain, if there is one that can be read."""
        try:
            same = [other for other in list_images(self.root / "truth" / folder) if other.stem == Path(path).stem]
            return read_stored(same[0], reading=self.readings[domain]).image if same else None
        except UnreadableImageError as error:
            self._skip(error.path, error.reason)
        except ValueError:  # there is no such folder
            pass
        return None


def place_boxes(found: Annotation, stored: StoredImage) -> Tensor:
    """The boxes of an annotation in an image that was read: float32 (N,4), corners in pixels of ``stored.image``.

    An annotation refers to the pixels of the file, not to the image turned upright as its EXIF orientation says, so its
    boxes are turned as the image was; unless it states the image's size and that is the size of the upright image only.
    """
    width, height = stored.size
    turned = stored.orientation >= 5
    boxes = torch.from_numpy(found.boxes)
    if turned and found.size == (height, width) != (width, height):
        width, height = height, width
    else:
        if found.relative:
            boxes = boxes * torch.tensor([width, height, width, height], dtype=torch.float64)
        boxes = _upright(boxes, width, height, stored.orientation)
        if turned:
            width, height = height, width
    here = size_of(stored.image)
    scale = torch.tensor([here[0] / width, here[1] / height] * 2, dtype=torch.float64)
    # Far outside is as good as outside, and float32 would make it infinite.
    limit = torch.tensor(here * 2, dtype=torch.float64)
    return (boxes * scale).clamp(-limit, 2 * limit).to(torch.float32)


def _upright(boxes: Tensor, width: int, height: int, orientation: int) -> Tensor:
    """Rotate or mirror the boxes of a file with this width and height as its EXIF orientation says."""
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    if orientation in (2, 3):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4):
        y0, y1 = height - y1, height - y0
    if orientation in (6, 7):  # the file's bottom is at the left
        y0, y1 = height - y1, height - y0
    if orientation in (7, 8):  # the file's right is at the top
        x0, x1 = width - x1, width - x0
    if orientation >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
    return torch.stack((x0, y0, x1, y1), dim=1)
