"""The street scenes as an unpaired data set, like a folder of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgcl_fast.data.needs import NOTHING_MORE, DataNeeds
from cgcl_fast.data.random import item_random
from cgcl_fast.data.streets import CLASSES, DOMAINS, MAX_SIZE, MIN_SIZE, Box, generate_scene, render, scene_boxes
from cgcl_fast.data.streets.scene import Scene
from cgcl_fast.data.transforms import Preprocess
from cgcl_fast.data.unpaired import Picture, UnpairedDataset, collate

COUNTS = {"train": 1000, "test": 100}

# Rendered pictures are kept up to this many bytes, since drawing one takes longer than looking it up.
_CACHE_BYTES = 64 * 2**20


def street_domains(domains: Sequence[str], direction: str = "AtoB") -> dict[str, str]:
    """Which of ``DOMAINS`` each name stands for: itself, or for A and B sunny and night, with the direction BtoA night
    and sunny.

    Raises:
        ValueError: other names.
    """
    if tuple(domains) == ("A", "B"):
        return {"A": "night", "B": "sunny"} if direction == "BtoA" else {"A": "sunny", "B": "night"}
    unknown = [domain for domain in domains if domain not in DOMAINS]
    if unknown:
        raise ValueError(
            f"domains of the built-in streets must be A and B, or of {', '.join(DOMAINS)}, got {unknown[0]!r}"
        )
    return {domain: domain for domain in domains}


class StreetsDataset(UnpairedDataset):
    """Unpaired street scenes: every domain has scenes of its own, none of which is rendered in another domain.

    With ``random_pairs``, which methods with styles ask for, each scene has a look of its own within its domain, and
    what a scene should look like in the style of another one is known: a rendering of it in the other one's look.
    Without, all scenes of a domain have its typical look, since nothing would say which look a translation should have.

    Args:
        domains: names of the keys; see :func:`street_domains`.
        split: "train" or "test": different scenes.
        size: side in pixels, 32 to 1024.
        seed: seed of the scenes and of which are combined.
        limit: number of scenes of each domain; None: 1000 to train, 100 to test.
        needs: see :class:`UnpairedDataset`; the streets' classes are ``CLASSES``.
        direction: see :func:`street_domains`.

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
        needs: DataNeeds = NOTHING_MORE,
        direction: str = "AtoB",
    ) -> None:
        if split not in COUNTS:
            raise ValueError(f"split must be train or test, got {split!r}")
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"size of the built-in streets must be {MIN_SIZE} to {MAX_SIZE}, got {size}")
        super().__init__(
            domains,
            Preprocess("none", train=False, multiple=1),
            seed,
            needs=needs,
        )
        if self._table is not None:
            for name in CLASSES:  # says now, and not in every worker, which are left out
                self._table.find(name)
        self.streets_domains = street_domains(domains, direction)
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
        where = (split or self.split, self.streets_domains[domain], index)
        return generate_scene(int(item_random(self.seed, *where).random() * 2**53))

    def boxes(self, domain: str, index: int) -> list[Box]:
        """Boxes of the cars, persons and signs of an image, in its pixels."""
        return scene_boxes(self.scene(domain, index), self.size)

    def picture(self, domain: str, index: int) -> Picture:
        image, name = Image.fromarray(self._rendered(domain, index)), self._name(self.split, domain, index)
        return _picture(image, name, self._boxes(domain, index) if self.wants_boxes else [])

    def _name(self, split: str, domain: str, index: int) -> str:
        return f"streets/{split}/{self.streets_domains[domain]}/{index:05d}"

    def _render(self, domain: str, index: int) -> np.ndarray:
        scene = self.scene(domain, index)
        return self._looking(scene, domain, scene)

    def _looking(self, scene: Scene, domain: str, like: Scene) -> np.ndarray:
        """A scene in a domain, and in the look of a scene there where looks vary."""
        look = like if self.needs.random_pairs else None
        return render(scene, self.streets_domains[domain], self.size, like=look)

    def sample_batch(self, count: int = 4) -> dict[str, Any]:
        """Test scenes, with ``"truth"``: the first domain's scenes as they look in the second one. With
        ``random_pairs`` the truth of a domain is in the look of the reference of that domain."""
        items = []
        for index in range(min(count, self._tests())):
            item: dict[str, Any] = {}
            if self.needs.random_pairs:
                source = index % len(self.domains)
                self._add_sample(item, "A", self.domains[source], index)
                item["A_domain"] = torch.tensor(source)
                scene = self._test_scene(self.domains[source], index)
                for other in self.domains:
                    # Another scene also where the reference is of the source's own domain.
                    at = (index + 1) % self._tests() if other == self.domains[source] else index
                    reference = self._test_scene(other, at)
                    item[f"reference_{other}"] = self._image(reference, other, reference)
                    item[f"truth_{other}"] = self._image(scene, other, reference)
            else:
                for domain in self.domains:
                    self._add_sample(item, domain, domain, index)
                if len(self.domains) > 1:
                    scene = self._test_scene(self.domains[0], index)
                    item["truth"] = self._image(scene, self.domains[1], scene)
            items.append(item)
        return collate(items)

    def style_batch(self, scenes: int, references: int) -> dict[str, Any] | None:
        """With ``random_pairs``; the references are the last of the test scenes, the scenes the first."""
        tests = self._tests()
        if not self.needs.random_pairs or tests < 2:
            return None
        references = min(references, max(2, tests - scenes))
        rows = [(n % len(self.domains), n) for n in range(min(scenes, tests))]
        sources = [self._test_scene(self.domains[domain], index) for domain, index in rows]
        batch: dict[str, Any] = {
            "A": torch.stack([self._image(s, self.domains[d], s) for s, (d, _) in zip(sources, rows, strict=True)]),
            "A_domain": torch.tensor([domain for domain, _ in rows]),
        }
        for domain in self.domains:
            shown = [self._test_scene(domain, tests - 1 - number) for number in range(references)]
            batch[f"reference_{domain}"] = torch.stack([self._image(scene, domain, scene) for scene in shown])
            batch[f"truth_{domain}"] = torch.stack(
                [torch.stack([self._image(scene, domain, like) for like in shown]) for scene in sources]
            )
        return batch

    def _tests(self) -> int:
        return COUNTS["test"] if self.split == "train" else self._count

    def _test_scene(self, domain: str, index: int) -> Scene:
        return self.scene(domain, index, split="test")

    def _image(self, scene: Scene, domain: str, like: Scene) -> Tensor:
        return self.preprocess(Image.fromarray(self._looking(scene, domain, like)))

    def _add_sample(self, item: dict[str, Any], name: str, domain: str, index: int) -> None:
        scene = self._test_scene(domain, index)
        boxes = scene_boxes(scene, self.size) if self.wants_boxes else []
        image = Image.fromarray(self._looking(scene, domain, scene))
        picture = _picture(image, self._name("test", domain, index), boxes)
        self._add(item, name, picture, self.preprocess, None, None, ("sample", index))


def _picture(image: Image.Image, name: str, boxes: Sequence[Box]) -> Picture:
    corners = torch.tensor([box[1:] for box in boxes], dtype=torch.float32).reshape(-1, 4)
    return Picture(image, name, corners, tuple(box.name for box in boxes))
