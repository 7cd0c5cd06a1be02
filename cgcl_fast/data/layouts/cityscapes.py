"""Cityscapes as unpacked: ``leftImg8bit/train``, and beside it what was made of its images.

Foggy Cityscapes is ``leftImg8bit_foggy/train``, with some fog in an image's name (``..._foggy_beta_0.02.png``), and
RainCityscapes ``leftImg8bit_rain/train``. As a data folder by itself the domains are clear, foggy and rain. The
annotations in ``gtFine``, which there is once, are those of all; also of a domain without, from the folder of another.
"""

from __future__ import annotations

from pathlib import Path

from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, folders_in, place_in, subfolder

_FOLDER = "leftimg8bit"


def domains(root: Path, split: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for name in folders_in(root):
        if f"{name.lower()}_".startswith(f"{_FOLDER}_"):
            folder = subfolder(root / name, split)
            if folder is not None:
                found[name[len(_FOLDER) + 1 :] or "clear"] = place_in(folder, root / name)
    return found


def images(domain: Path, split: str) -> Place | None:
    """Of the folder of one domain: the clear images, or those of the only other kind."""
    found = domains(domain, split)
    place = found.get("clear") or (next(iter(found.values())) if len(found) == 1 else None)
    if place is not None and "gtFine" not in folders_in(domain):  # a scene's name is that of no other, in any domain
        place.borrowed = tuple(sorted(domain.parent.glob(f"*/gtFine/{split}")))
    return place


LAYOUT = Layout(domains=domains, images=images, pair=("clear", "foggy"))
