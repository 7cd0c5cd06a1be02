"""The street scenes as an unpaired data set, like a folder of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgcl_fast.data.streets import CLASSES, DOMAINS, MAX_SIZE, MIN_SIZE, Box, generate_scene, render, scene_boxes
from cgcl_fast.data.streets.scene import Scene
from cgcl_fast.data.transforms import Preprocess
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate, item_random

COUNTS = {"train": 1000, "test": 100}

# Rendered pictures are kept up to this many bytes, since drawing one takes longer than looking it up.
_CACHE_BYTES = 64 * 2**20


def street_domains(domains: Sequence[str]) -> dict[str, str]:
    """Which of ``DOMAINS`` each name stands for: itself, or for A and B sunny and night.

    Raises:
        ValueError: other names.
    """
    if tuple(domains) == ("A", "B"):
        return {"A": "sunny", "B": "night"}
    unknown = [domain for domain in domains if domain not in DOMAINS]
    if unknown:
        raise ValueError(
            f"domains of the built-in streets must be A and B, or of {', '.join(DOMAINS)}, got {unknown[0]!r}"
        )
    return {domain: domain for domain in domains}


class StreetsDataset(UnpairedDataset):
    """Unpaired street scenes: every domain has scenes of its own, none of which is rendered in another domain.

    Args:
        domains: names of the keys; see :func:`street_domains`.
        split: "train" or "test": different scenes.
        size: side in pixels, 32 to 1024.
        seed: seed of the scenes and of which are combined.
        limit: number of scenes of each domain; None: 1000 to train, 100 to test.
        classes, object_size, least_object, random_pairs: see :class:`UnpairedDataset`; the streets' classes are
            ``CLASSES``.

    Raises:
        ValueError: an unknown domain, or a size out of range.
    """

    def __init__(
        self,
        *,
        domains: Sequence[str] = ("A", "B"),
        split: str = "train",
        size: int = 256,
        seed: int = 0,
        limit: int | None = None,
        classes: Sequence[str] | None = None,
        object_size: int | None = None,
        least_object: int = 16,
        random_pairs: bool = False,
    ) -> None:
        if split not in COUNTS:
            raise ValueError(f"split must be train or test, got {split!r}")
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"size of the built-in streets must be {MIN_SIZE} to {MAX_SIZE}, got {size}")
        super().__init__(
            domains,
            Preprocess("none", train=False, multiple=1),
            seed,
            classes=classes,
            object_size=object_size,
            least_object=least_object,
            random_pairs=random_pairs,
        )
        if self._table is not None:
            for name in CLASSES:  # says now, and not in every worker, which are left out
                self._table.find(name)
        self.looks = street_domains(domains)
        self.split = split
        self.size = size
        self._count = COUNTS[split] if limit is None else limit
        self._cache()

    def _cache(self) -> None:
        self._rendered = lru_cache(maxsize=max(16, _CACHE_BYTES // (3 * self.size * self.size)))(self._render)
        self._boxes = lru_cache(maxsize=4 * COUNTS["train"])(self.boxes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rendered", "_boxes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cache()

    def count(self, domain: str) -> int:
        return self._count

    def scene(self, domain: str, index: int, *, split: str | None = None) -> Scene:
        """Scene ``index`` of a domain. ``split`` in place of the data set's own."""
        look = self.looks[domain]
        return generate_scene(int(item_random(self.seed, split or self.split, look, index).random() * 2**53))

    def boxes(self, domain: str, index: int) -> list[Box]:
        """Boxes of the cars, persons and signs of an image, in its pixels."""
        return scene_boxes(self.scene(domain, index), self.size)

    def picture(self, domain: str, index: int) -> Picture:
        image, name = Image.fromarray(self._rendered(domain, index)), self._name(self.split, domain, index)
        return _picture(image, name, self._boxes(domain, index) if self.wants_boxes else [])

    def _name(self, split: str, domain: str, index: int) -> str:
        return f"streets/{split}/{self.looks[domain]}/{index:05d}"

    def _render(self, domain: str, index: int) -> np.ndarray:
        return render(self.scene(domain, index), self.looks[domain], self.size)

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """Test scenes, with ``"truth"``: the first domain's scenes as they look in the second one."""
        items = []
        for index in range(min(count, self._tests())):
            item: dict[str, Any] = {}
            if self.random_pairs:
                source = index % len(self.domains)
                domain = self.domains[source]
                self._add_sample(item, "A", domain, index)
                item["A_domain"] = torch.tensor(source)
                for other in self.domains:
                    # Another scene also where the reference is of the source's own domain.
                    reference = (index + 1) % self._tests() if other == domain else index
                    item[f"reference_{other}"] = self.preprocess(self._sample(other, other, reference))
                    item[f"truth_{other}"] = self.preprocess(self._sample(domain, other, index))
            else:
                for domain in self.domains:
                    self._add_sample(item, domain, domain, index)
                if len(self.domains) > 1:
                    item["truth"] = self.preprocess(self._sample(self.domains[0], self.domains[1], index))
            items.append(item)
        return collate(items)

    def _tests(self) -> int:
        return COUNTS["test"] if self.split == "train" else self._count

    def _sample(self, domain: str, look: str, index: int) -> Image.Image:
        """Test scene ``index`` of a domain, as it looks in a domain."""
        return Image.fromarray(render(self.scene(domain, index, split="test"), self.looks[look], self.size))

    def _add_sample(self, item: dict[str, Any], name: str, domain: str, index: int) -> None:
        image = self._sample(domain, domain, index)
        boxes = scene_boxes(self.scene(domain, index, split="test"), self.size) if self.wants_boxes else []
        picture = _picture(image, self._name("test", domain, index), boxes)
        self._add(item, name, picture, self.preprocess, None, None, ("sample", index))


def _picture(image: Image.Image, name: str, boxes: Sequence[Box]) -> Picture:
    corners = torch.tensor([box[1:] for box in boxes], dtype=torch.float32).reshape(-1, 4)
    return Picture(image, name, corners, tuple(box.name for box in boxes))
