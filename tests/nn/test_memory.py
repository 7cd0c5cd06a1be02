from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from methods.plain_mguit import labels_of
from op_checks import DEVICE

from cgcl_fast.nn import ClassMemory, class_map
from cgcl_fast.nn.memory import memory_published, memory_triplet, published_update


def test_items_begin_as_unit_vectors_and_are_in_the_state() -> None:
    memory, other = ClassMemory((2, 1), 4, 3, 2).to(DEVICE), ClassMemory((2, 1), 4, 3, 2).to(DEVICE)
    assert memory.keys.shape == (3, 4) and memory.values.shape == (2, 3, 3)
    torch.testing.assert_close(memory.values.norm(dim=2), torch.ones(2, 3, device=DEVICE))
    memory.update([torch.randn(1, 4, 3, 3, device=DEVICE)] * 2, [torch.randn(1, 3, 3, 3, device=DEVICE)] * 2)
    assert set(memory.state_dict()) == {"keys", "values"} and not list(memory.parameters())
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.keys, memory.keys) and torch.equal(other.values, memory.values)
    assert other.item_class.tolist() == [0, 0, 1]


def test_pixels_use_their_class_unless_the_memory_is_single() -> None:
    torch.manual_seed(0)
    content, classes = torch.randn(1, 4, 1, 2, device=DEVICE), torch.tensor([[[0, 1]]], device=DEVICE)
    memory = ClassMemory((2, 1), 4, 3, 2).to(DEVICE)
    read = memory.read(content, memory.values[0], classes)
    torch.testing.assert_close(read[0, :, 0, 1], memory.values[0, 2])  # the only item of its class
    assert not torch.allclose(memory.read(content, memory.values[0])[0, :, 0, 1], memory.values[0, 2])
    losses = [memory.loss(content, memory.keys, classes, kind=kind) for kind in ("contrastive", "triplet")]
    before = memory.values.clone()
    memory.update(
        [content] * 2,
        [torch.randn(1, 3, 1, 2, device=DEVICE)] * 2,
        [torch.zeros(1, 1, 2, dtype=torch.int64, device=DEVICE)] * 2,
    )
    assert torch.equal(memory.values[:, 2], before[:, 2]) and not torch.equal(memory.values[:, :2], before[:, :2])

    single = ClassMemory((2, 1), 4, 3, 2, class_aware=False).to(DEVICE)
    single.load_state_dict({"keys": memory.keys, "values": memory.values})
    torch.testing.assert_close(single.read(content, single.values[0], classes), memory.read(content, single.values[0]))
    for kind, loss in zip(("contrastive", "triplet"), losses, strict=True):
        assert single.loss(content, single.keys, classes, kind=kind) != loss
        torch.testing.assert_close(
            single.loss(content, single.keys, classes, kind=kind), memory.loss(content, memory.keys, kind=kind)
        )


def test_triplet() -> None:
    items = torch.tensor([[0.0, 0], [3, 4], [0, 1], [9, 9]], device=DEVICE)
    features = torch.tensor([[0.0, 0.0], [0.0, 3.0]], device=DEVICE).T.reshape(1, 2, 1, 2).requires_grad_()
    # |f - m+| - |f - m-| + 1.5: of (0, 0) with its items 0 and 1, of (0, 3) with its items 2 and 1, and of all.
    item_class, pixel_class = torch.tensor([0, 0, 1, 1], device=DEVICE), torch.tensor([[[0, 1]]], device=DEVICE)
    found = memory_triplet(features, items, margin=1.5, pixel_class=pixel_class, item_class=item_class)
    expected = (max(0.0 - 5 + 1.5, 0) + max(2 - (81 + 36) ** 0.5 + 1.5, 0)) / 2
    torch.testing.assert_close(found, torch.tensor(expected, device=DEVICE))
    found = memory_triplet(features, items, margin=1.5)
    torch.testing.assert_close(found, torch.tensor(((0 - 1 + 1.5) + (2 - 3 + 1.5)) / 2, device=DEVICE))
    found.backward()
    assert features.grad is not None and features.grad.isfinite().all()
    # Away from (0, 0) and towards (0, 1); the distance to the feature's own place has no direction.
    torch.testing.assert_close(features.grad[0, :, 0, 1], torch.tensor([0.0, 0.0], device=DEVICE))
    torch.testing.assert_close(features.grad[0, :, 0, 0], torch.tensor([0.0, 0.5], device=DEVICE))


def test_triplet_counts_only_pixels_with_two_items() -> None:
    items, item_class = torch.eye(3, device=DEVICE), torch.tensor([0, 0, 1], device=DEVICE)
    features = torch.randn(1, 3, 2, 2, device=DEVICE)
    alone = torch.ones(1, 2, 2, dtype=torch.int64, device=DEVICE)
    assert memory_triplet(features, items, pixel_class=alone, item_class=item_class) == 0
    assert memory_triplet(features, items[:1]) == 0
    alone[0, 0, 0] = 0
    first = memory_triplet(features[..., :1, :1], items[:2])
    torch.testing.assert_close(memory_triplet(features, items, pixel_class=alone, item_class=item_class), first)


def test_published_update_keeps_what_no_pixel_is_nearest_to() -> None:
    keys, values = torch.eye(3, device=DEVICE), torch.randn(2, 3, 4, device=DEVICE)
    content = torch.tensor([0.0, 2, 0], device=DEVICE).view(1, 3, 1, 1)
    style = torch.tensor([1.0, 2, 3, 4], device=DEVICE).view(1, 4, 1, 1)
    found_keys, found_values = published_update(keys, values, [content] * 2, [style, -style])
    torch.testing.assert_close(found_keys, keys)  # ½ (0,1,0) + ½ (0,1,0)
    unit = F.layer_norm(F.normalize(torch.tensor([1.0, 2, 3, 4], device=DEVICE), dim=0), (4,))
    # The softmax over one pixel is 1.
    torch.testing.assert_close(found_values[:, 1], torch.stack([values[0, 1] + unit, values[1, 1] - unit]) / 2)
    assert torch.equal(found_values[:, [0, 2]], values[:, [0, 2]])


def test_the_published_loss_has_a_probability_in_its_exponent() -> None:
    """Three pixels of class 0, whose nearest items are 0, 1 and 1, and one of class 1, which is alone."""
    items, item_class = torch.eye(3, device=DEVICE), torch.tensor([0, 0, 1], device=DEVICE)
    rows = torch.tensor([[2.0, 1, 9], [0, 3, 9], [1, 2, 9], [5, 5, 4]], device=DEVICE)
    features = rows.T.reshape(1, 3, 2, 2).contiguous().requires_grad_()
    labels = torch.tensor([[[0, 0], [0, 1]]], device=DEVICE)

    def share(column: list[float], at: int) -> float:
        return math.exp(column[at]) / sum(math.exp(value) for value in column)

    of_first = (share([2, 0, 1], 0) + share([1, 3, 2], 1) + share([1, 3, 2], 2)) / 3
    expected = 0.1 * math.exp(-of_first) + 0.1 * math.exp(-1)
    found = memory_published(features, items, pixel_class=labels, item_class=item_class)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(found, features)
    assert gradient[0, :2, 0].any() and not gradient[0, :, 1, 1].any()  # alone, a pixel has all of the share
    alone = memory_published(features, items, pixel_class=torch.full_like(labels, 7), item_class=item_class)
    assert alone == 0
    # The nearest is item 0 of the last pixel, and item 2 of the others.
    of_all = [share([2, 0, 1, 5], 3), *(share([9, 9, 9, 4], p) for p in range(3))]
    assert memory_published(features, items).item() == pytest.approx(0.1 * math.exp(-sum(of_all) / 4), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_published_update_weighs_the_directions_of_the_sums(temperature: float) -> None:
    """Pixel by pixel in float64: each domain's sum has length 1 before it counts a quarter, however few pixels chose
    the item and however long they are, where it is not zero."""
    generator = torch.Generator().manual_seed(1)
    keys, values, *maps = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
        for shape in ((4, 3), (2, 4, 5), (1, 3, 2, 3), (1, 3, 3, 3), (1, 5, 2, 3), (1, 5, 3, 3))
    )
    contents, styles = [maps[0], 7 * maps[1]], maps[2:]
    labels = [torch.randint(2, c[:, 0].shape, generator=generator, device="cpu") for c in contents]
    item_class = torch.tensor([0, 0, 1, 1], device="cpu")
    found_keys, found_values = published_update(keys, values, contents, styles, labels, item_class, temperature)
    chosen = set()
    for n in range(4):
        key, rivals = 0.5 * keys[n], [m for m in range(4) if item_class[m] == item_class[n]]
        for d in (0, 1):
            rows, shown = contents[d].flatten(2)[0].T, styles[d].flatten(2)[0].T
            own = [p for p, k in enumerate(labels[d].flatten().tolist()) if k == item_class[n]]
            e = {p: [float((rows[p] @ keys[m] / rows[p].norm() / keys[m].norm() / temperature).exp()) for m in rivals]
                 for p in own}  # fmt: skip
            place = rivals.index(n)
            total, hits = sum(e[p][place] for p in own), [p for p in own if max(e[p]) == e[p][place]]
            assert own
            if not hits:
                torch.testing.assert_close(found_values[d, n], values[d, n])
                continue
            chosen.add(d)
            sum_c = torch.stack([e[p][place] / total * rows[p] for p in hits]).sum(0)
            sum_s = torch.stack([e[p][place] / total * shown[p] for p in hits]).sum(0)
            key = key + 0.25 * sum_c / sum_c.norm()
            unit = sum_s / sum_s.norm()
            unit = (unit - unit.mean()) / (unit.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(found_values[d, n], 0.5 * values[d, n] + 0.5 * unit, rtol=0, atol=1e-14)
        torch.testing.assert_close(found_keys[n], key / key.norm(), rtol=0, atol=1e-14)
    assert chosen == {0, 1}


def test_the_temperature_reaches_reading_and_both_updates() -> None:
    torch.manual_seed(0)
    content, style = torch.randn(1, 4, 2, 3, device=DEVICE), torch.randn(1, 3, 2, 3, device=DEVICE)
    for rule in ("paper", "published"):
        found = []
        for temperature in (1.0, 0.1):
            torch.manual_seed(1)
            memory = ClassMemory((2, 2), 4, 3, update=rule, temperature=temperature).to(DEVICE)
            cosines = F.normalize(content.flatten(2)[0].T, dim=1) @ memory.keys.T
            read = (cosines / temperature).softmax(dim=1) @ memory.values[1]
            torch.testing.assert_close(memory.read(content, memory.values[1]), read.T.reshape(1, 3, 2, 3))
            memory.update([content] * 2, [style] * 2)
            found.append(memory.keys.clone())
        assert not torch.allclose(*found)


def test_a_low_temperature_keeps_the_items_of_the_paper_apart() -> None:
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(2, 8, device=DEVICE), dim=1)
    alike = {}
    for temperature in (1.0, 0.1):
        memory = ClassMemory((2,), 8, 4, temperature=temperature).to(DEVICE)
        memory.keys.copy_(centres)
        for _ in range(100):
            rows = centres[torch.arange(30, device=DEVICE) % 2] + 0.1 * torch.randn(30, 8, device=DEVICE)
            content = F.normalize(rows, dim=1).T.reshape(1, 8, 5, 6)
            memory.update([content] * 2, [torch.randn(1, 4, 5, 6, device=DEVICE)] * 2)
        alike[temperature] = float(memory.keys[0] @ memory.keys[1])
    assert alike[1.0] > 0.999 and alike[0.1] < centres[0] @ centres[1] + 0.1


@pytest.mark.parametrize("rule", ["paper", "published"])
def test_only_the_published_update_keeps_items_apart(rule: str) -> None:
    """Features around two directions, and an item for each of them."""
    torch.manual_seed(0)
    memory = ClassMemory((2,), 8, 4, update=rule).to(DEVICE)
    centres = F.normalize(torch.randn(2, 8, device=DEVICE), dim=1)
    for _ in range(100):
        rows = centres[torch.randint(2, (30,), device=DEVICE)] + 0.1 * torch.randn(30, 8, device=DEVICE)
        content = F.normalize(rows, dim=1).T.reshape(1, 8, 5, 6)
        memory.update([content] * 2, [torch.randn(1, 4, 5, 6, device=DEVICE)] * 2)
    alike = memory.keys[0] @ memory.keys[1]
    assert alike > 0.999 if rule == "paper" else alike < centres[0] @ centres[1] + 0.1


@pytest.mark.parametrize("rule", ["paper", "published"])
def test_update_takes_no_gradient(rule: str) -> None:
    memory = ClassMemory((2, 2), 4, 3, 2, update=rule).to(DEVICE)
    contents = [torch.randn(1, 4, 2, 2, requires_grad=True, device=DEVICE) for _ in range(2)]
    memory.update(contents, [torch.randn(1, 3, 2, 2, requires_grad=True, device=DEVICE) for _ in range(2)])
    assert not memory.keys.requires_grad and not memory.values.requires_grad
    read = memory.read(contents[0], memory.values[0])
    read.sum().backward()
    assert contents[0].grad is not None and contents[0].grad.any()


def test_processes_go_on_with_the_average(tmp_path: Path) -> None:
    program = tmp_path / "two.py"
    program.write_text(
        """
import sys, torch
from cgcl_fast.engine.processes import leave_group
from cgcl_fast.nn import ClassMemory
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
memory = ClassMemory((2, 1), 4, 3)
maps = torch.randn(2, 2, 1, 7, 2, 2)
memory.update([m[:, :4] for m in maps[rank]], [m[:, 4:] for m in maps[rank]])
torch.save(memory.state_dict(), f"{sys.argv[1]}/{rank}.pt")
leave_group()  # else Gloo's threads may abort the process as it ends
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found, other = (torch.load(tmp_path / f"{rank}.pt", map_location="cpu") for rank in (0, 1))
    torch.manual_seed(0)
    memory = ClassMemory((2, 1), 4, 3).cpu()
    maps = torch.randn(2, 2, 1, 7, 2, 2, device="cpu")
    begin, after = {k: v.clone() for k, v in memory.state_dict().items()}, []
    for rank in (0, 1):
        memory.load_state_dict(begin)
        memory.update([m[:, :4] for m in maps[rank]], [m[:, 4:] for m in maps[rank]])
        after.append({k: v.clone() for k, v in memory.state_dict().items()})
    for name in ("keys", "values"):
        assert torch.equal(found[name], other[name])
        torch.testing.assert_close(found[name], F.normalize(after[0][name] + after[1][name], dim=-1))


def test_class_map_is_that_of_the_smallest_box_at_each_centre() -> None:
    torch.manual_seed(0)
    for seed in range(20):
        torch.manual_seed(seed)
        corner = torch.rand(5, 2) * torch.tensor([40.0, 24.0])
        boxes = torch.cat([corner, corner + 4 + torch.rand(5, 2) * 20], dim=1)
        boxes = torch.minimum(boxes, torch.tensor([48.0, 32, 48, 32]))
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 4).all(dim=1)]  # each has a centre in it
        classes = torch.randint(3, (len(boxes),))
        both = [boxes, torch.zeros(0, 4)], [classes, torch.zeros(0, dtype=torch.int64)]
        found = class_map(*both, (32, 48), 3)
        assert found.shape == (2, 8, 12) and torch.equal(found, labels_of(*both, (32, 48), 3))
        assert (found[1] == 3).all()


def test_a_box_between_the_centres_keeps_one_pixel() -> None:
    boxes = [torch.tensor([[2.5, 6.5, 5.0, 8.0], [31.0, 0.0, 32.0, 1.0]])]
    found = class_map(boxes, [torch.tensor([0, 1])], (16, 32), 2)
    expected = torch.full((1, 4, 8), 2, device="cpu")
    expected[0, 1, 0], expected[0, 0, 7] = 0, 1
    assert torch.equal(found, expected)


def test_wrong_memories_are_refused() -> None:
    with pytest.raises(ValueError, match="items: expected at least one item of each class"):
        ClassMemory((2, 0), 4, 3)
    with pytest.raises(ValueError, match="update: expected one of paper, published, got 'x'"):
        ClassMemory((2, 1), 4, 3, update="x")
    for temperature in (0.01, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature: expected at least 0.02 and finite"):
            ClassMemory((2, 1), 4, 3, temperature=temperature)
