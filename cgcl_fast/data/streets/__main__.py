"""Write street scenes as folders of PNG files with boxes: ``python -m cgcl_fast.data.streets --output DIR``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cgcl_fast.data.formats import printable
from cgcl_fast.data.streets import DOMAINS, MAX_SIZE, MIN_SIZE, render, scene_boxes
from cgcl_fast.data.streets.dataset import StreetsDataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 2 and one line on stderr for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        written = write(
            options.output,
            size=options.size,
            count=options.count,
            test_count=options.test_count,
            domains=options.domains,
            layout=options.layout,
            seed=options.seed,
            looks=options.looks,
        )
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    print(f"{written} images in {printable(options.output)}")
    return 0


def write(
    output: Path,
    *,
    size: int = 256,
    count: int = 200,
    test_count: int | None = None,
    domains: Sequence[str] | None = None,
    layout: str = "two-domain",
    seed: int = 0,
    looks: str = "typical",
) -> int:
    """Write the data set of :class:`StreetsDataset` to a folder; returns the number of images.

    Looks ``typical``: each domain's; ``varied``: in each domain the one that a scene's seed gives it there.

    Layout ``two-domain``: ``trainA trainB testA testB``, and ``truth`` with the scenes of testA in the second domain.
    Layout ``domains``: ``NAME/train`` and ``NAME/test`` for each domain, and ``truth/FROM_as_TO`` for each pair.
    Beside each image ``NUMBER.json`` has its boxes: ``{"size": [width, height], "boxes": [{"class": "car",
    "box": [x0, y0, x1, y1]}, ...]}`` in pixels, the second corner outside.

    Raises:
        ValueError: an argument out of range, or ``output`` holds something already.
    """
    if layout not in ("two-domain", "domains"):
        raise ValueError(f"layout must be two-domain or domains, got {layout!r}")
    if looks not in ("typical", "varied"):
        raise ValueError(f"looks must be typical or varied, got {looks!r}")
    varied = looks == "varied"
    names = tuple(domains) if domains else ("sunny", "night") if layout == "two-domain" else DOMAINS
    if len(set(names)) != len(names) or len(names) < 2 or (layout == "two-domain" and len(names) != 2):
        wanted = "two different domains" if layout == "two-domain" else "at least two different domains"
        raise ValueError(
            f"domains must be {wanted} of {', '.join(DOMAINS)} for layout {layout}, got {', '.join(names)}"
        )
    counts = {"train": count, "test": max(1, count // 10) if test_count is None else test_count}
    for name, value in (("count", count), ("test-count", counts["test"])):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"output must be a new or empty folder, {output} holds files")
    written = 0
    for split, number in counts.items():
        data = StreetsDataset(domains=names, split=split, size=size, seed=seed, limit=number)
        for letter, domain in zip("AB" if layout == "two-domain" else names, names, strict=True):
            folder = output / f"{split}{letter}" if layout == "two-domain" else output / domain / split
            for index in range(number):
                scene = data.scene(domain, index)
                _save(folder / f"{index:05d}.png", data, domain, index, varied)
                written += 1
                if split == "train":
                    continue
                for other in names[1:] if layout == "two-domain" and domain == names[0] else names:
                    if layout == "two-domain" and domain != names[0] or other == domain:
                        continue
                    place = output / "truth" / ("" if layout == "two-domain" else f"{domain}_as_{other}")
                    place.mkdir(parents=True, exist_ok=True)
                    image = render(scene, other, size, like=scene if varied else None)
                    Image.fromarray(image).save(place / f"{index:05d}.png")
                    written += 1
    return written


def _save(path: Path, data: StreetsDataset, domain: str, index: int, varied: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = data.scene(domain, index)
    Image.fromarray(render(scene, domain, data.size, like=scene if varied else None)).save(path)
    files = [
        {"class": box.name, "box": [round(value, 2) for value in box[1:]]} for box in scene_boxes(scene, data.size)
    ]
    path.with_suffix(".json").write_text(json.dumps({"size": [data.size, data.size], "boxes": files}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cgcl_fast.data.streets", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--size", type=int, default=256, help=f"side in pixels, {MIN_SIZE} to {MAX_SIZE} (default 256)")
    parser.add_argument("--count", type=int, default=200, help="training images of each domain (default 200)")
    parser.add_argument("--test-count", type=int, help="test images of each domain (default a tenth of --count)")
    parser.add_argument(
        "--domains", nargs="+", metavar="NAME", help=f"of {', '.join(DOMAINS)} (default: sunny night, or all)"
    )
    parser.add_argument("--layout", choices=("two-domain", "domains"), default="two-domain", help="see the README")
    parser.add_argument(
        "--looks",
        choices=("typical", "varied"),
        default="typical",
        help="one look for each domain, or another hour, light and air for each scene (default typical)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
