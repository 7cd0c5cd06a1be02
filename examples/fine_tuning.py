"""Fine-tuning from Python: CUT goes on from a trained generator, whose encoder keeps its weights.

Run `python examples/fine_tuning.py CHECKPOINT OUTPUT [STEPS] [DATA]`. CHECKPOINT is a .safetensors file of a run of cut
or a published latest_net_G.pth; DATA a folder with trainA and trainB, without which the built-in street scenes do. To
go on with all networks and all weights, `python -m cgcl_fast.train cut --init CHECKPOINT --lr 5e-5` is enough.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from cgcl_fast import compat
from cgcl_fast.data import build_loader, open_dataset
from cgcl_fast.engine import Options, Trainer, linear_decay, seed_all
from cgcl_fast.methods.cut import CUT, CUTConfig
from cgcl_fast.metrics import evaluation_of
from cgcl_fast.networks import generator_bytes

SHAPE = ("input_nc", "output_nc", "ngf", "n_blocks", "n_down", "antialias", "antialias_up", "dropout")


def main(checkpoint: str, output: str, steps: str = "200", data: str | None = None, size: int = 64) -> list[dict]:
    trained = compat.load_generator(checkpoint)
    config = CUTConfig(lr=5e-5, **{name: trained.config[name] for name in SHAPE})
    seed_all(0)
    method = CUT(config)
    method.G.load_state_dict(trained.state_dict())
    for part in (method.G.stem, method.G.down):
        part.requires_grad_(False)
    dataset = open_dataset(data, size=size, needs=CUT.needs(config))
    trainer = Trainer(
        method,
        build_loader(dataset),
        Path(output),
        Options(int(steps), save_every=max(1, int(steps) // 4)),
        schedule=linear_decay(int(steps), int(steps) // 2),
        sample_batch=dataset.sample_batch(4),
        config={"method": "cut", "config": asdict(config)},
        generator_file=generator_bytes,
        evaluate=evaluation_of(dataset, 8),
    )
    print(trainer.fit().grid)
    known = trainer.evaluate is not None  # whether the truth is known
    lines = (Path(output) / "metrics.jsonl").read_text().splitlines() if known else []
    print(*lines, sep="\n")
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main(*sys.argv[1:])
