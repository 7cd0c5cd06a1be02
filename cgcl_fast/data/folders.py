"""Unpaired data sets in folders: ``trainA trainB testA testB``, or a folder per domain with ``train`` and ``test``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cgcl_fast.data.images import UnreadableImageError, _content, find_images, list_images, printable, read_image
from cgcl_fast.data.transforms import Preprocess
from cgcl_fast.data.unpaired import UnpairedDataset, collate

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")


def find_domain_folders(root: Path, domains: Sequence[str], split: str) -> dict[str, Path]:
    """The folder of each domain.

    Either ``root/trainA`` (split and domain, for every domain), or ``root/NAME/train``. In the second layout the names
    are the domains; for domains called A and B it is also taken if exactly two folders have a ``train`` folder, which
    are A and B in alphabetical order.

    Raises:
        ValueError: the folders are not there; names what was expected and what is there.
    """
    if not root.is_dir():
        raise ValueError(f"data must be a folder with {_expected(domains)}; {printable(root)} is missing or no folder")
    joined = {domain: root / f"{split}{domain}" for domain in domains}
    present = [domain for domain, folder in joined.items() if folder.is_dir()]
    if len(present) == len(domains):
        return joined
    nested = {domain: root / domain / split for domain in domains}
    if not present and all(folder.is_dir() for folder in nested.values()):
        return nested
    named = sorted(folder.parent for folder in root.glob(f"*/{split}") if folder.is_dir())
    if not present and tuple(domains) == ("A", "B") and len(named) == 2:
        logger.info("%s: A is %s and B is %s", printable(root), named[0].name, named[1].name)
        return {"A": named[0] / split, "B": named[1] / split}
    raise ValueError(
        f"data must be a folder with {_expected(domains, split)}; {printable(root)} holds {_content(root)}"
    )


def _expected(domains: Sequence[str], split: str = "train") -> str:
    return " ".join(f"{split}{domain}" for domain in domains) + f", or a folder per domain with {split} in it"


class FolderDataset(UnpairedDataset):
    """Images in the folders of :func:`find_domain_folders`.

    Files that cannot be read are left out when the folder is opened (see :func:`cgcl_fast.data.find_images`). One that
    fails later is named in the log once and replaced by the next readable one, so that nothing but the files' own
    content decides what an item is.

    Args:
        root: the data folder.
        domains: names of the domains.
        split: "train" or "test".
        preprocess: what is done to an image.
        seed: seed of everything random.
        limit: use no more than the first ``limit`` files of each domain.

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
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be train or test, got {split!r}")
        super().__init__(domains, preprocess, seed)
        self.root = Path(root)
        self.split = split
        folders = find_domain_folders(self.root, self.domains, split)
        self.paths = {domain: find_images(folder, limit=limit) for domain, folder in folders.items()}
        self._broken: set[Path] = set()

    def count(self, domain: str) -> int:
        return len(self.paths[domain])

    def image(self, domain: str, index: int) -> tuple[Image.Image, str]:
        return self._read(self.paths[domain], index)

    def _read(self, paths: list[Path], index: int) -> tuple[Image.Image, str]:
        for step in range(len(paths)):
            path = paths[(index + step) % len(paths)]
            try:
                return read_image(path, at_least=self.preprocess.reads_at_least), str(path)
            except UnreadableImageError as error:
                if path not in self._broken:
                    self._broken.add(path)
                    logger.warning("skipped %s: %s", printable(path), error.reason)
        raise ValueError(f"none of the {len(paths)} image files in {printable(paths[0].parent)} can be read any more")

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """Test images (training images if there are no readable test images), spread evenly over the folder.

        A folder ``truth`` beside the others, with the names of the first domain's test images, gives ``"truth"``.
        """
        if self.split == "train":
            try:
                # Only those that are shown are read: there may be a great many.
                folders = find_domain_folders(self.root, self.domains, "test")
                return self._fixed_batch({domain: list_images(folder) for domain, folder in folders.items()}, count)
            except ValueError as error:
                logger.info("sample images are training images: %s", error)
        return self._fixed_batch(self.paths, count)

    def _fixed_batch(self, paths: dict[str, list[Path]], count: int) -> dict[str, Any]:
        for domain, found in paths.items():
            if not found:
                raise ValueError(f"no images of domain {domain}")
        # A batch needs one size, so the modes that keep an image's own shape show its centre.
        mode = self.preprocess.mode if self.preprocess.fixed_size else "crop"
        shown = Preprocess(mode, size=self.preprocess.size, train=False, multiple=self.preprocess.multiple)
        count = min(count, *(len(found) for found in paths.values()))
        items: list[dict[str, Any]] = []
        for number in range(count):
            item: dict[str, Any] = {}
            for domain, found in paths.items():
                image, name = self._read(found, number * len(found) // count)
                item[domain] = shown(image)
                item[f"{domain}_paths"] = name
            items.append(item)
        truths = [self._truth(item[f"{self.domains[0]}_paths"]) for item in items]
        for item, truth in zip(items, truths, strict=True):
            if truth is not None and None not in truths:
                item["truth"] = shown(truth)
        return collate(items)

    def _truth(self, path: str) -> Image.Image | None:
        """The counterpart of a test image in the second domain, if there is one that can be read."""
        try:
            same = [other for other in list_images(self.root / "truth") if other.stem == Path(path).stem]
            return read_image(same[0]) if same else None
        except ValueError:
            return None
