"""What the offline distances see of a run's translations: the coarse or the fine of them.

    python -m benchmarks.detail RUN [--output FILE.json]

A RUN is one on the built-in streets, of a method with styles of references. Its translations of test scenes, and what
they should be, are split by a Gaussian into coarse and fine parts, which are exchanged; what comes out is compared with
real images of the domain in EfficientNet-Lite0's features (extra ``metrics``). Beside it: the truth blurred, the
untouched scenes, and the images of the domain as the generator makes them again in their own style and domain.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cgcl_fast._run import Run, open_run
from cgcl_fast.data import to_tensor
from cgcl_fast.engine import CheckpointError
from cgcl_fast.metrics.feature_distances import frechet_distance
from cgcl_fast.metrics.features import load_network
from cgcl_fast.metrics.image_sets import pixels
from cgcl_fast.metrics.moments import moments
from cgcl_fast.metrics.protocol import versions
from cgcl_fast.metrics.weights import WeightFiles
from cgcl_fast.networks import StyledGenerator

BLURS = (0.4, 0.6, 0.8, 1.0)
SPLITS = (0.7, 1.0, 2.0)
"""Standard deviations of Gaussians, in pixels."""


def coarse(images: Tensor, sigma: float) -> Tensor:
    return gaussian_blur(images, 2 * round(4 * sigma) + 1, sigma)


def measure(run: Run, domains: tuple[str, ...], scenes: int = 100) -> list[dict[str, Any]]:
    """Per domain, Fréchet distances from its real test images.

    Args:
        run: of a method with styles of references, on the built-in streets.
        domains: to translate to.
        scenes: test scenes of all domains, those of the target's own left out.
    """
    generator = getattr(run.method, run.method.generator_name)
    if not isinstance(generator, StyledGenerator) or not generator.reads_references or run.options["data"] is not None:
        raise ValueError(f"{run.folder}: expected a run with styles of references on the built-in streets")
    dataset, network = run.test_images(), load_network("lite0", WeightFiles())
    batch = dataset.sample_batch(scenes)

    @torch.no_grad()
    def moments_of(images: Tensor) -> Any:
        return moments(np.concatenate([network(pixels(part))["pooled"].numpy() for part in images.split(16)]))

    @torch.no_grad()
    def translated(images: Tensor, references: Tensor, domain: int) -> Tensor:
        pairs = zip(images.split(8), references.split(8), strict=True)
        return torch.cat([generator(a, domain, generator.style_of(r, domain)) for a, r in pairs])

    rows = []
    for name in domains:
        domain = generator.domains.index(name)
        images = torch.stack([to_tensor(dataset.picture(name, n).image) for n in range(dataset.count(name))])
        real = moments_of(images)
        others = batch["A_domain"] != domain
        source, reference, truth = (batch[key][others] for key in ("A", f"reference_{name}", f"truth_{name}"))
        outputs = translated(source, reference, domain)
        again = translated(images, images, domain)

        def distance(of: Tensor, real: Any = real) -> float:
            return round(frechet_distance(moments_of(of), real), 1)

        rows.append(
            {
                "to": name,
                "scenes": len(source),
                "untouched": distance(source),
                "truth": distance(truth),
                "truth_by_blur": {str(sigma): distance(coarse(truth, sigma)) for sigma in BLURS},
                "translated": distance(outputs),
                "real_images_made_again": distance(again),
                "their_psnr": round(float(10 * torch.log10(4 / (again - images).square().mean())), 2),
                "coarse_translated_fine_true": {
                    str(sigma): distance(coarse(outputs, sigma) + truth - coarse(truth, sigma)) for sigma in SPLITS
                },
                "coarse_true_fine_translated": {
                    str(sigma): distance(coarse(truth, sigma) + outputs - coarse(outputs, sigma)) for sigma in SPLITS
                },
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--domains", nargs="+", default=("sunny", "night"))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/detail-streets-SIZE-DATE.json")
    arguments = parser.parse_args()
    try:
        run = open_run(arguments.run)
        rows = measure(run, tuple(arguments.domains))
    except (CheckpointError, ValueError) as error:
        parser.error(str(error))
    size = run.options["size"]
    document = {
        "what": "Fréchet distances from real images of the domain, EfficientNet-Lite0 features",
        "run": {"method": run.kind, "step": run.step, "size": size},
        "rows": rows,
        "versions": versions(),
    }
    output = arguments.output or Path(__file__).parent / "results" / f"detail-streets-{size}-{date.today()}.json"
    output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
