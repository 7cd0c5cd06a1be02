"""The effect of references on translations of trained methods, on the built-in streets.

    python -m benchmarks.styles RUN... [--scenes 8] [--references 8] [--output FILE.json]

A RUN is a run's folder (its newest checkpoint is used) of a method with styles of references, such as CGL and CGCL. The
metrics are those of ``cgcl_fast.metrics.StyleEvaluation``, with more scenes and references than at a run's saves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine
from cgcl_fast._generator import find_generator
from cgcl_fast.data import open_dataset
from cgcl_fast.engine import CheckpointError
from cgcl_fast.metrics import StyleEvaluation, style_table
from cgcl_fast.networks import StyledGenerator


def measure(
    folder: Path, scenes: int = 8, references: int = 8, device: str = "cpu"
) -> tuple[dict[str, Any], StyleEvaluation]:
    """A run: its description and metrics, with the spread of each dimension of the codes by domain.

    Raises:
        ValueError: not a run, or one for which this cannot be measured.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        generator, file = find_generator(folder)
    except (OSError, CheckpointError) as error:
        raise ValueError(f"{folder}: expected a run ({error})") from error
    if not isinstance(generator, StyledGenerator) or not generator.reads_references:
        raise ValueError(f"{folder}: {config['method']} has no styles of references")
    if config["data"] is not None:
        raise ValueError(f"{folder}: the truth is known of the built-in streets only, got a run on {config['data']}")
    dataset = open_dataset(None, domains=generator.domains, size=config["size"], seed=config["seed"], random_pairs=True)
    batch = dataset.style_batch(scenes, references)
    if batch is None:
        raise ValueError(f"{folder}: what its scenes look like in the look of a reference is not known")
    evaluation = StyleEvaluation(batch)
    generator = generator.eval().to(device)
    codes = {domain: evaluation.codes(generator, domain) for domain in evaluation.domains}
    return {
        "run": folder.name,
        "method": config["method"],
        "size": config["size"],
        "step": int(file.stem.removeprefix("step_")),
        "scenes": evaluation.scenes,
        "references": evaluation.references,
        "figures": evaluation.of_generator(generator),
        "code_spread": {domain: domain_codes.std(0, correction=0).tolist() for domain, domain_codes in codes.items()},
    }, evaluation


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.styles", description="Measure what references change.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run on the built-in streets")
    parser.add_argument("--scenes", type=int, default=8, help="test scenes (default 8)")
    parser.add_argument("--references", type=int, default=8, help="test references of each domain (default 8)")
    parser.add_argument("--device", default="cpu", help="where the networks run (default cpu)")
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    if arguments.scenes < 1 or arguments.references < 2:
        given = f"{arguments.scenes} and {arguments.references}"
        parser.error(f"--scenes, --references: expected at least 1 and at least 2, got {given}")
    runs = []
    for folder in arguments.runs:
        try:
            run, evaluation = measure(folder, arguments.scenes, arguments.references, arguments.device)
        except ValueError as error:
            parser.error(str(error))
        runs.append(run)
        print(f"{run['run']} ({run['method']}, {run['size']}²), step {run['step']}")
        print(style_table(run["figures"], evaluation))
        for domain, spreads in run["code_spread"].items():
            print(f"codes of {domain}, spread by dimension: {' '.join(f'{spread:.3f}' for spread in spreads)}")
    if arguments.output:
        document = {"machine": machine.describe(arguments.device, {}), "runs": runs}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
