"""Folders of images for the tests' trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image


def write_folders(root: Path, names: Sequence[str], count: int, image: Callable[[int, int], Image.Image]) -> Path:
    """Folders ``names`` in ``root``, each with ``count`` files 0.png, 1.png, ...; ``image`` makes that of the number of
    a folder and its own."""
    for folder, name in enumerate(names):
        (root / name).mkdir()
        for number in range(count):
            image(folder, number).save(root / name / f"{number}.png")
    return root
