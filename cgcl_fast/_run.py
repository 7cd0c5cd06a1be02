"""A run's folder, for commands that need more than its generator: all networks, and the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgcl_fast._networks import direction_of, empty_method, network_of, one_line_error
from cgcl_fast._yaml import read_yaml
from cgcl_fast.data import UnpairedDataset, open_test_images
from cgcl_fast.data.readings import readings_of
from cgcl_fast.engine import CheckpointError, Checkpoints
from cgcl_fast.methods import Method
from cgcl_fast.methods.base import channels_of


@dataclass(frozen=True)
class Run:
    """A run and its newest checkpoint.

    Attributes:
        folder: of the run.
        kind: name of the method.
        method: with the checkpoint's weights, on the CPU, in evaluation mode.
        step: of the checkpoint.
        direction: AtoB or BtoA.
        options: from the run's ``config.yaml``.
    """

    folder: Path
    kind: str
    method: Method
    step: int
    direction: str
    options: dict[str, Any]

    def test_images(self, data: Path | None = None) -> UnpairedDataset:
        """The test images of the run's data, prepared as in training but without flips and random crops; see
        :func:`open_test_images`.

        Args:
            data: a folder to use instead of the run's.

        Raises:
            ValueError: the data no longer exists, or has other domains.
        """
        options, config = self.options, self.method.config
        domains, most = self.method.domains, int(options.get("max_megapixels", 179))
        return open_test_images(
            data or options.get("data"),
            domains=domains,
            needs=type(self.method).needs(config),
            size=options.get("size", 256),
            load_size=options.get("load_size"),
            preprocess=options.get("preprocess", "resize_and_crop"),
            seed=options.get("seed", 0),
            direction=self.direction,
            readings=readings_of(options.get("ranges"), domains, channels_of(config), self.direction, most),
        )


def open_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        CheckpointError: there is no run, or it cannot be read; one line that names it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected the folder of a run, which is not there")
    try:
        path, state = Checkpoints(folder / "checkpoints").newest()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: holds no run (no checkpoints/step_*.pt)") from error
    config = folder / "config.yaml"
    try:
        options = read_yaml(config)
        if not isinstance(options, dict):
            raise ValueError(f"must hold options as 'name: value', got {type(options).__name__}")
    except (OSError, ValueError) as error:
        raise one_line_error(config, "not the options of a run", error) from error
    try:
        method = empty_method(state)
        for name, child in method.named_children():
            if any(True for _ in (*child.parameters(), *child.buffers())):  # excludes pools of past translations
                network_of(method, state, name)
        method.eval().requires_grad_(False)
        return Run(folder, state["config"]["method"], method, state["step"], direction_of(state), options)
    except Exception as error:  # foreign files fail in many ways
        raise one_line_error(path, "not a checkpoint of a method", error) from error
