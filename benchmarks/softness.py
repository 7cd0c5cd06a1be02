"""How the offline distances rate soft pictures: the truth itself, blurred.

    python -m benchmarks.softness OUT.json

Test scenes of the built-in streets are rendered in another domain, blurred by Gaussians, and compared with real images
of that domain in EfficientNet-Lite0's features (extra ``metrics``). Without blur they are what a perfect translation
would give.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cgcl_fast.data import open_test_images, to_tensor
from cgcl_fast.data.needs import DataNeeds
from cgcl_fast.data.streets import DOMAINS
from cgcl_fast.metrics.feature_distances import frechet_distance
from cgcl_fast.metrics.features import load_network
from cgcl_fast.metrics.image_sets import pixels
from cgcl_fast.metrics.moments import moments
from cgcl_fast.metrics.protocol import versions
from cgcl_fast.metrics.weights import WeightFiles

SIGMAS = (0, 0.4, 0.6, 0.8, 1.0, 1.5)
"""Standard deviations of the blurs, in pixels."""


def measure(size: int = 64, domains: tuple[str, ...] = ("sunny", "night")) -> list[dict[str, Any]]:
    """Per domain, the Fréchet distances of the other domains' scenes: untouched, and of their truth by blur."""
    network = load_network("lite0", WeightFiles())
    dataset = open_test_images(None, domains=DOMAINS, size=size, needs=DataNeeds(random_pairs=True, multiple=1))
    batch = dataset.sample_batch(100)

    @torch.no_grad()
    def features(images: Tensor) -> np.ndarray:
        return np.concatenate([network(pixels(part))["pooled"].numpy() for part in images.split(16)])

    rows = []
    for name in domains:
        count = dataset.count(name)
        real = moments(features(torch.stack([to_tensor(dataset.picture(name, n).image) for n in range(count)])))
        others = batch["A_domain"] != DOMAINS.index(name)
        truth = batch[f"truth_{name}"][others]
        by_sigma = {
            str(sigma): frechet_distance(moments(features(gaussian_blur(truth, 9, sigma) if sigma else truth)), real)
            for sigma in SIGMAS
        }
        untouched = frechet_distance(moments(features(batch["A"][others])), real)
        rows.append({"to": name, "scenes": len(truth), "untouched": untouched, "truth_by_sigma": by_sigma})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    document = {"what": "Fréchet distances, EfficientNet-Lite0 features", "size": 64, "rows": measure()}
    options.output.write_text(json.dumps({**document, "versions": versions()}, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(document["rows"], indent=1))


if __name__ == "__main__":
    main()
