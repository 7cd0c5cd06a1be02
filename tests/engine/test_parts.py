"""Small parts of the engine: states of generators, grids."""

from __future__ import annotations

import io
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast.engine import preserved_rng, rng_state, set_rng_state
from cgcl_fast.engine.log import image_grid, with_captions
from cgcl_fast.engine.signals import StopSignals


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def test_rng_state_survives_a_weights_only_file() -> None:
    draw()
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    expected = draw()
    buffer.seek(0)
    set_rng_state(torch.load(buffer, weights_only=True))
    assert draw() == expected


def test_preserved_rng_hides_what_is_drawn() -> None:
    state = rng_state()
    expected = draw()
    set_rng_state(state)
    with preserved_rng():
        draw()
    assert draw() == expected


@pytest.mark.parametrize(("before", "noted"), [(signal.SIG_IGN, None), (signal.SIG_DFL, signal.SIGHUP)])
def test_a_closed_terminal_is_noted_unless_it_is_to_be_ignored(before: signal.Handlers, noted: int | None) -> None:
    outside = signal.signal(signal.SIGHUP, before)
    try:
        with StopSignals() as stop:
            for _ in range(2):  # the terminal's and the shell's
                signal.raise_signal(signal.SIGHUP)
            assert stop.received == noted
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, outside)


def test_image_grid_has_one_column_a_name_and_one_row_an_image() -> None:
    grid = image_grid({"a": torch.full((3, 3, 4, 4), -1.0), "b": torch.ones(3, 1, 4, 4)}, rows=2)
    assert grid.shape == (3, 2 * 6 + 2, 2 * 6 + 2)
    assert grid[:, 2:6, 2:6].max() == 0 and grid[:, 2:6, 8:12].min() == 1


def test_captions_stand_above_their_columns() -> None:
    grid = Image.new("RGB", (2 * 62 + 2, 64), (9, 9, 9))
    picture = with_captions(grid, ["source", "night truth"])
    above = picture.height - grid.height
    assert picture.crop((0, above, *picture.size)).tobytes() == grid.tobytes()
    for left, right, low in ((0, 63, 12), (63, 126, 24)):  # the second name has two lines
        box = picture.crop((left, 0, right, above)).convert("L").point(lambda value: 255 * (value > 60)).getbbox()
        assert box is not None and box[0] > 0 and box[2] < 63 and low - 12 <= box[3] <= low + 2


def test_a_grid_of_other_than_three_channels() -> None:
    """One or two channels show the first in grey, more than three the first three."""
    drawn = torch.rand(1, 12, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for channels, shown in ((1, [0, 0, 0]), (2, [0, 0, 0]), (4, [0, 1, 2]), (12, [0, 1, 2])):
        grid = image_grid({"source": drawn[:, :channels], "truth": drawn[:, :3]})
        assert grid.shape == (3, 8, 14)
        torch.testing.assert_close(grid[:, 2:6, 2:6], (drawn[0, shown] + 1) / 2)
