"""Work that is shared: every item is one process', whatever their number. More of it is in test_translate_processes."""

from __future__ import annotations

import pytest
import torch

from cgcl_fast.engine.peers import Peers, join_peers


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 6, 20])
def test_every_item_is_in_one_share(count: int, length: int) -> None:
    items = list(range(length))
    turns, blocks = Peers(0, count).in_turn(items), Peers(0, count).in_blocks(items)
    assert [each for share in blocks for each in share] == items  # neighbours
    assert sorted(each for share in turns for each in share) == items
    for shares in (turns, blocks):
        sizes = [len(share) for share in shares]
        assert len(sizes) == count and max(sizes) - min(sizes) <= 1


def test_a_process_that_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a launcher started only one; it takes the device that it is given."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = join_peers()
    assert alone.first and alone.gathered("own") == ["own"] and alone.handed_out(lambda: ["given"]) == "given"
    assert alone.device(torch.device("cuda")) == torch.device("cuda")
    with pytest.raises(ValueError, match="nothing here"):
        alone.handed_out(lambda: (_ for _ in ()).throw(ValueError("nothing here")))


def test_surroundings_that_name_no_peers_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK expected, but not set"):
        join_peers()
