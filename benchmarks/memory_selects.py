"""How selective MGUIT's memory is, depending on the temperature of its softmax: small trainings on the built-in
streets.

    OMP_NUM_THREADS=1 python -m benchmarks.memory_selects [--json OUT.json] [--temperatures 1,0.3,0.1,0.07]

For each temperature the small preset is trained. Then the contents of the test scenes of both domains read the memory
as at test time, with all items and no boxes. Reported before and after the training, as means over the pixels:

- effective number of items: exp of the entropy of a pixel's weights, from 1 to the number of items;
- weight on the own class: the sum of the weights of the items whose class the boxes give a pixel, beside its value for
  equal weights. Nearly all pixels are background, so look at the mean over the classes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.machine import describe
from cgcl_fast._generator import find_generator
from cgcl_fast._train_options import config_of, resolve
from cgcl_fast.data import open_dataset
from cgcl_fast.methods.mguit import MGUIT
from cgcl_fast.networks import MGUITGenerator
from cgcl_fast.nn import class_map
from cgcl_fast.train import main as train

SCENES = 16


@torch.no_grad()
def selection(generator: MGUITGenerator, classes: tuple[str, ...], size: int) -> dict[str, Any]:
    """What the pixels of the test scenes read from all items."""
    generator.eval()
    memory, names = generator.memory, (*classes, "background")
    data = open_dataset(train=False, size=size, flip=False, limit=SCENES, classes=classes)
    effect, own, labels = [], [], []
    for d, domain in enumerate("AB"):
        for index in range(len(data)):
            item = data[index]
            content = generator.encode([item[domain][None]], [d])
            cosines = torch.einsum("bchw,nc->bhwn", F.normalize(content, dim=1), F.normalize(memory.keys, dim=1))
            weights = (cosines.double() / memory.temperature).softmax(dim=3)
            label = class_map([item[f"{domain}_boxes"]], [item[f"{domain}_classes"]], (size, size), len(classes))
            effect.append(torch.special.entr(weights).sum(dim=3).exp().flatten())
            own.append((weights * (memory.item_class == label[..., None])).sum(dim=3).flatten())
            labels.append(label.flatten())
    effects, owns, of_pixels = torch.cat(effect), torch.cat(own), torch.cat(labels)
    by_class = {name: owns[of_pixels == k] for k, name in enumerate(names)}
    means = {name: float(of_class.mean()) for name, of_class in by_class.items() if len(of_class)}
    total = sum(memory.items)
    return {
        "items_in_effect": float(effects.mean()),
        "own_class": float(owns.mean()),
        "own_class_mean_of_classes": sum(means.values()) / len(means),
        "own_class_by_class": means,
        "equal_weights_by_class": {name: memory.items[k] / total for k, name in enumerate(names) if name in means},
        "pixels_by_class": {name: len(of_class) for name, of_class in by_class.items()},
    }


def run(temperature: float, steps: int, seed: int) -> dict[str, Any]:
    """A training at one temperature, and the memory's selectivity before and after it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["mguit", "--preset", "small", "--steps", str(steps), "--memory-temperature", str(temperature)]
        arguments += ["--seed", str(seed), "--output", f"{folder}/run", "--device", "cpu"]
        options = resolve(arguments)
        config = config_of(options)
        torch.manual_seed(seed)
        before = selection(MGUIT(config).G, config.classes, options.size)
        if train(arguments) != 0:
            raise RuntimeError("the training ended with an error")
        generator, _ = find_generator(Path(folder) / "run")
        assert isinstance(generator, MGUITGenerator) and generator.memory.temperature == temperature
        after = selection(generator, config.classes, options.size)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        distances = {name: value for name, value in json.loads(lines[-1]).items() if name != "step"}
    record = {"temperature": temperature, "steps": steps, "size": options.size, "update": config.update}
    return {**record, "before": before, "after": after, "distances": distances}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory_selects", description="How far MGUIT's memory selects.")
    parser.add_argument("--temperatures", default="1,0.3,0.1,0.07", help="which (default: 1,0.3,0.1,0.07)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    machine, runs = describe(rates={}), []
    for temperature in map(float, arguments.temperatures.split(",")):
        runs.append(run(temperature, arguments.steps, arguments.seed))
        if arguments.json:
            result = {"machine": machine, "scenes": SCENES, "seed": arguments.seed, "runs": runs}
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'temperature':>11} {'items in effect':>22} {'own class, mean of classes':>28}")
    for record in runs:
        print(
            f"{record['temperature']:>11g}",
            *(f"{record['before'][key]:>{width}.3f} -> {record['after'][key]:<8.3f}"
              for key, width in (("items_in_effect", 10), ("own_class_mean_of_classes", 16))),
        )  # fmt: skip


if __name__ == "__main__":
    main()
