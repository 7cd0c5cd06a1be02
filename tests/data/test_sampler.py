"""Order of the data and loaders that resume."""

from __future__ import annotations

import os
import random
import resource
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loader_checks import take
from PIL import Image

from cgcl_fast.data import DataError, ResumableSampler, build_loader, open_dataset
from cgcl_fast.data.sampler import epoch_order


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("trainA", "trainB"):
        (root / name).mkdir()
        for number in range(7):
            values = np.random.RandomState(number).randint(0, 256, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(values).save(root / name / f"{number}.png")
    return open_dataset(root, size=8)


def same(one, two):
    return (
        one["A_paths"] == two["A_paths"]
        and one["B_paths"] == two["B_paths"]
        and torch.equal(one["A"], two["A"])
        and torch.equal(one["B"], two["B"])
    )


def test_the_order_never_changes():
    # Runs of earlier versions must resume: these numbers are a promise.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [6, 0, 2, 5, 4, 9, 3, 1, 7, 8]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [4, 7, 8, 6, 1, 2, 3, 9, 0, 5]


@given(length=st.integers(1, 60), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_an_epoch_has_every_item_once(length, seed, epoch):
    assert sorted(epoch_order(length, seed=seed, epoch=epoch)) == list(range(length))


@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 5),
    replicas=st.integers(1, 3),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_replicas_share_an_epoch_and_positions_continue_it(length, batch_size, replicas, drop_last, data):
    if drop_last and batch_size * replicas > length:
        with pytest.raises(ValueError, match="batch_size must be at most"):
            ResumableSampler(length, batch_size=batch_size, replicas=replicas, drop_last=drop_last)
        return
    samplers = [
        ResumableSampler(length, batch_size=batch_size, replicas=replicas, rank=rank, drop_last=drop_last)
        for rank in range(replicas)
    ]
    epochs = [list(sampler) for sampler in samplers]
    assert len({len(epoch) for epoch in epochs}) == 1 and len(epochs[0]) == len(samplers[0])
    assert all(len({len(epoch[step]) for epoch in epochs}) == 1 for step in range(len(epochs[0])))
    drawn = [key.number for epoch in epochs for batch in epoch for key in batch]
    if drop_last:
        assert len(set(drawn)) == len(drawn) == length // (batch_size * replicas) * batch_size * replicas
    else:
        assert set(drawn) == set(range(length))
    position = data.draw(st.integers(0, len(epochs[0])))
    samplers[0].position = position
    assert list(samplers[0]) == epochs[0][position:]


def test_epochs_differ_and_seeds_differ():
    sampler, other = ResumableSampler(50, seed=1), ResumableSampler(50, seed=2)
    first = [key.number for [key] in sampler]
    sampler.epoch = 1
    assert first != [key.number for [key] in sampler]
    assert first != [key.number for [key] in other]
    assert [key.number for [key] in ResumableSampler(5, shuffle=False)] == list(range(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"length": 3, "batch_size": 0}, "batch_size must be at least 1"),
        ({"length": 3, "batch_size": 4}, "batch_size must be at most the 3 images there are, got 4"),
        ({"length": 3, "rank": 1}, "rank must be from 0 to 0, got 1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ResumableSampler(**options)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_anywhere_gives_the_same_batches(data, workers):
    whole = take(build_loader(data, batch_size=2, seed=5), 8)
    assert [state["epoch"] for _, state in whole] == [0, 0, 0, 1, 1, 1, 2, 2]
    for stop in (1, 3, 5) if workers else range(8):
        loader = build_loader(data, batch_size=2, seed=5, num_workers=workers)
        loader.load_state_dict(whole[stop][1])
        rest = take(loader, 8 - stop - 1) if stop < 7 else []
        loader.close()
        assert all(same(got, expected) for (got, _), (expected, _) in zip(rest, whole[stop + 1 :], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_full_view_begins_with_a_batch_and_goes_on_after_resuming(data, workers):
    def crops(loader, count):
        found = []
        for batch, _ in take(loader, count):
            for path, image in zip(batch["A_paths"], batch["A"], strict=True):
                whole = data.preprocess(Image.open(path), random.Random(0), load_size=data.preprocess.size)
                assert image.shape == whole.shape
                found.append(not (torch.equal(image, whole) or torch.equal(image, whole.flip(-1))))
        return found

    options = {"batch_size": 2, "seed": 1, "num_workers": workers}  # an epoch has three batches
    loader = build_loader(data, **options)
    loader.sampler.full_view_from = 5
    assert crops(loader, 8) == [True] * 10 + [False] * 6
    state = loader.state_dict()
    loader.close()
    resumed = build_loader(data, **options)
    resumed.load_state_dict(state)
    resumed.sampler.full_view_from = 9
    assert crops(resumed, 2) == [True] * 2 + [False] * 2
    resumed.close()


def test_workers_change_nothing_and_are_kept(data):
    plain = take(build_loader(data, batch_size=3, seed=1), 5)
    loader = build_loader(data, batch_size=3, seed=1, num_workers=2)
    assert all(same(a, b) and s == t for (a, s), (b, t) in zip(plain, take(loader, 5), strict=True))
    loader.close()


def test_the_position_counts_batches_in_use_not_those_prepared(data):
    loader = build_loader(data, batch_size=1, num_workers=1)
    batches = iter(loader)
    next(batches)
    next(batches)
    assert (loader.epoch, loader.position, len(loader)) == (0, 2, 7)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_off_pass_is_taken_up_where_it_was(data, workers):
    loader = build_loader(data, batch_size=2, num_workers=workers)
    found = [next(iter(loader)) for _ in range(4)]
    loader.close()
    expected = take(build_loader(data, batch_size=2), 4)
    assert all(same(a, b) for a, (b, _) in zip(found, expected, strict=True))


def test_global_random_numbers_are_left_alone(data):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    loader = build_loader(data, num_workers=1)
    take(loader, 9)
    loader.close()
    take(build_loader(data), 9)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]


def test_a_position_of_other_data_is_refused(data):
    state = build_loader(data, batch_size=2, seed=5).state_dict()
    for options, message in (
        ({"batch_size": 1, "seed": 5}, "batch_size must be 2 as when the position was saved, got 1"),
        ({"batch_size": 2, "seed": 6}, "seed must be 5"),
    ):
        with pytest.raises(ValueError, match=message):
            build_loader(data, **options).load_state_dict(state)
    loader = build_loader(data, batch_size=2, seed=5)
    with pytest.raises(ValueError, match="number of images must be 9"):
        loader.load_state_dict({**state, "length": 9})
    with pytest.raises(ValueError, match="position must be from 0 to 3"):
        loader.load_state_dict({**state, "position": 4})
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        build_loader(data, num_workers=-1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal_to_the_group(data, number):
    expected = take(build_loader(data, seed=2), 7)
    loader = build_loader(data, seed=2, num_workers=2)
    batches = iter(loader)
    found = [next(batches), next(batches)]  # one of each worker: both have set up what they do with signals
    for worker in loader._loader._iterator._workers:
        os.kill(worker.pid, number)
    found += list(batches)
    loader.close()
    assert all(same(a, b) for a, (b, _) in zip(found, expected, strict=True))


def test_workers_are_refused_where_too_few_files_may_be_open(data, monkeypatch):
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 40))
    build_loader(data)
    with pytest.raises(ValueError, match="num_workers must be fewer: 64 open files may be needed, and ulimit -n is 40"):
        build_loader(data, num_workers=2)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, resource.RLIM_INFINITY))
    build_loader(data, num_workers=2)
    assert limits == [(64, resource.RLIM_INFINITY)]


def test_a_killed_worker_is_an_error_where_its_batch_is_missing_and_not_before(data):
    loader = build_loader(data, num_workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = loader._loader._iterator._workers
    worker.kill()
    worker.join()
    with pytest.raises(OSError, match=rf"process {worker.pid} that loads data was killed.*--workers"):
        list(batches)
    loader.close()


@given(
    length=st.integers(6, 40),
    batch_size=st.integers(1, 2),
    was=st.integers(1, 3),
    now=st.integers(1, 3),
    data=st.data(),
)
def test_another_number_of_processes_goes_on_at_the_same_place(length, batch_size, was, now, data):
    def loaders(replicas):
        items = range(length)
        return [build_loader(items, batch_size=batch_size, rank=r, replicas=replicas) for r in range(replicas)]

    (first, *_), others = loaders(was), loaders(now)
    first.sampler.position = data.draw(st.integers(0, len(first)))
    for other in others:
        other.load_state_dict(first.state_dict())
    done = first.position * was * batch_size
    left = {key.number for other in others for batch in other.sampler for key in batch}
    order = epoch_order(length, seed=0, epoch=0).tolist()
    assert {*order[done : len(others[0]) * now * batch_size]} <= left  # but for what no epoch of theirs has
    assert left <= {*order[max(0, done - (now - 1) * batch_size) :]}


def test_images_of_different_sizes_make_no_batch(tmp_path):
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (12 + 4 * number, 12)).save(tmp_path / name / f"{number}.png")
    data = open_dataset(tmp_path, preprocess="none")
    for workers in (0, 1):
        loader = build_loader(data, batch_size=4, num_workers=workers)
        with pytest.raises(DataError, match="^images of one batch must have one size"):
            next(iter(loader))
        loader.close()
    assert len(list(build_loader(data, batch_size=1))) == 4


class Vanishing(torch.utils.data.Dataset):
    """Items of which one cannot be made."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __len__(self) -> int:
        return 6

    def __getitem__(self, key: tuple[int, int]) -> dict:
        if key[1] > self.last:
            raise DataError("the data are gone")
        return {"A": torch.tensor(key[1])}


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish_come_out_of_the_workers_as_what_they_are(workers):
    """Of its own type, with its own message, and after the batches before it: the position is that of the last one."""
    loader = build_loader(Vanishing(3), shuffle=False, num_workers=workers)
    found = []
    for _ in range(2):  # raised again when it is asked again
        with pytest.raises(DataError, match="^the data are gone$"):
            for batch in loader:
                found.append(int(batch["A"]))
        assert found == [0, 1, 2, 3] and (loader.epoch, loader.position) == (0, 4)
    loader.close()
