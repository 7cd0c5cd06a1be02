"""``train`` as one of several processes, each of which notes what it holds at the end beside the run:
``python two_processes.py ARGUMENT... --output FOLDER`` writes FOLDER.RANK.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

from torch import Tensor

from cgcl_fast import train
from cgcl_fast.engine import Trainer

OWN = ("pool_", "queues.")
"""What every process has for itself: translations and keys of its own images."""


def digests(trainer: Trainer) -> dict[str, str]:
    state = {name: value for name, value in trainer.method.state_dict().items() if isinstance(value, Tensor)}
    shared = {name: value for name, value in state.items() if not name.startswith(OWN)}
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in shared.items()}


def main() -> int:
    trainers: list[Trainer] = []
    fit = Trainer.fit

    def remember(trainer: Trainer, **options: Any) -> Any:
        trainers.append(trainer)
        return fit(trainer, **options)

    Trainer.fit = remember  # type: ignore[method-assign]
    status = train.main(sys.argv[1:])
    if status == 0:
        with open(f"{sys.argv[-1]}.{os.environ['RANK']}.json", "w") as file:
            json.dump(digests(trainers[0]), file)
    return status


if __name__ == "__main__":
    sys.exit(main())
