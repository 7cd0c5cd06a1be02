"""Tars, as WebDataset has them: ``trainA-000000.tar trainA-000001.tar ... trainB-000000.tar``, or one ``trainA.tar``.

Split and domain are named as in :mod:`.joined`; the number may also be ``-00000-of-00010``. In the folder of a domain
they are called ``train-000000.tar``. This layout is tried last, because tars beside folders of images are usually the
archives that these were unpacked from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cgcl_fast.data.images import entries_of, is_folder, tars_in
from cgcl_fast.data.layouts._layout import Layout
from cgcl_fast.data.layouts._place import Place, after_split
from cgcl_fast.data.tars import stem_of

_NUMBER = re.compile(r"[-_. ]\d+(?:[-_]of[-_]\d+)?$")


def domains(root: Path, split: str) -> dict[str, Place]:
    tars = [root / entry.name for entry in entries_of(root) if not is_folder(entry)]
    found: dict[str, list[Path]] = {}
    for tar, name in _named(tars):
        domain = after_split(name, split)
        if domain is not None and not domain.isdigit():  # the number of a shard with images of any domain
            found.setdefault(domain, []).append(tar)
    return {domain: Place(root, tars=tuple(found[domain])) for domain in sorted(found)}


def images(domain: Path, split: str) -> Place | None:
    tars = tuple(tar for tar, name in _named(tars_in(domain)) if name.lower() == split)
    return Place(domain, tars=tars) if tars else None


def _named(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Those that are tars, each with its name without number and suffix."""
    return [(path, _NUMBER.sub("", stem)) for path in paths if (stem := stem_of(path.name)) is not None]


LAYOUT = Layout(domains=domains, images=images, expected="{split}{name}-000000.tar", last=True)
