"""Folders to share: written of a run or of a generator, read by name by the commands, and put on a stand-in Hub."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn

from cgcl_fast import hub, networks
from cgcl_fast._initial import take_weights
from cgcl_fast._model_card import STREETS
from cgcl_fast._pretrained import is_pretrained
from cgcl_fast.engine import CheckpointError
from cgcl_fast.evaluate import main as evaluate
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.registry import PAPERS
from cgcl_fast.networks.files import generator_bytes, read_safetensors
from cgcl_fast.train import main as train
from cgcl_fast.translate import main as translate

NARROW = {"ngf": 2, "ndf": 2, "n_blocks": 1}
STYLED = {**NARROW, "style_dim": 3, "mlp_dim": 8, "object_size": 64}
OPTIONS: dict[str, dict[str, Any]] = {
    "cut": {**NARROW, "nce_layers": (0, 4, 8)},
    "fastcut": {**NARROW, "nce_layers": (0, 4, 8)},
    "sincut": {"ngf": 1, "ndf": 1, "n_blocks": 2, "nce_layers": (0, 2, 3)},
    "enco": {**NARROW, "n_blocks": 5},
    "mguit": {**NARROW, "style_nc": 4, "d_layers": 3, "n_scales": 2, "content_layers": 1},
    "cgl": {**STYLED, "domains": ("sunny", "night", "cloudy")},
    "cgcl": {**STYLED, "domains": ("sunny", "night", "cloudy")},
    "cyclegan": NARROW,
}
RANGES = {"A": {"low": 0, "high": 4095, "type": "uint16"}, "B": {"low": 0, "high": 255, "type": "uint8"}}


def save_run(folder: Path, name: str, **options: Any) -> Path:
    """A run as training leaves one, as far as it is read here."""
    torch.manual_seed(0)
    method = METHODS[name](METHODS[name].Config(**OPTIONS[name]))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    plain = {"method": name, "data": "/home/someone/secret", "size": 64, "preprocess": "resize", "batch_size": 1}
    config = {**plain, **asdict(method.config), "output": "/home/someone/runs/mine", "ranges": RANGES, **options}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    lines = [
        {"step": step, "psnr/before": 10.1, "psnr/colour_transfer": 12.2, "psnr/after": after, "frechet_lite0": 7.5}
        for step, after in ((6, 11.25), (12, 13.75))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    direction = None if method.named_domains else "AtoB"
    ranges = None if method.named_domains else RANGES
    forth = generator_bytes(getattr(method, method.generator_name), ranges, direction=direction)
    (checkpoints / "step_00000012.safetensors").write_bytes(forth)
    if method.backward_name is not None:
        back = generator_bytes(getattr(method, method.backward_name), ranges, direction="BtoA")
        (checkpoints / "generator_B_00000012.safetensors").write_bytes(back)
    return folder


def share(*arguments: object) -> int:
    return hub.main([str(argument) for argument in arguments])


def a_photograph(path: Path) -> Path:
    noise = np.random.RandomState(0).randint(0, 256, (32, 36, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_every_method_is_shared_and_read_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = save_run(tmp_path / "run", name), tmp_path / "shared"
    assert share(run, "--output", folder) == 0
    both = name == "cyclegan"
    files = {"model.safetensors", "config.json", "README.md", *(["generator_B.safetensors"] if both else [])}
    assert {path.name for path in folder.iterdir()} == files
    # The files are those of the run, bit for bit: there is no second format.
    there = run / "checkpoints"
    assert (folder / "model.safetensors").read_bytes() == (there / "step_00000012.safetensors").read_bytes()
    if both:
        back = (there / "generator_B_00000012.safetensors").read_bytes()
        assert (folder / "generator_B.safetensors").read_bytes() == back

    about = json.loads((folder / "config.json").read_text())
    _, metadata = read_safetensors(folder / "model.safetensors")
    assert about["network"] == metadata["network"] and about["config"] == json.loads(metadata["config"])
    assert (about["method"], about["step"], about.get("direction")) == (name, 12, metadata.get("direction"))
    assert about["options"]["ngf"] == OPTIONS[name]["ngf"]

    # The card says what it is and what was measured of this step, and nothing of the machine; its example runs.
    text = (folder / "README.md").read_text()
    assert "someone" not in text and "someone" not in (folder / "config.json").read_text()
    assert PAPERS[name][0] in text and "images of the folder secret" in text
    assert "| 10.1" in text and "13.75" in text and "11.25" not in text and "Metrics at step 12" in text
    card = ModelCard(text)
    assert card.data.library_name == "cgcl_fast" and name in card.data.tags
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"psnr": 13.75, "frechet_lite0": 7.5}
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": torch.rand(2, 3, 32, 36) * 2 - 1}
    with torch.no_grad():
        exec(compile(code_of(text), "README.md", "exec"), names)
    assert names["translated"].shape == (2, 3, 32, 36) and not names["generator"].training

    out = ["--output", str(tmp_path / "out"), "--device", "cpu", "--workers", "0"]
    styled = isinstance(names["generator"], networks.StyledGenerator)
    domain = ["--domain", names["generator"].domains[-1]] if styled else []
    photograph = str(a_photograph(tmp_path / "a.png"))
    assert translate(["--checkpoint", str(folder), "--input", photograph, *domain, *out]) == 0
    out[1] = str(tmp_path / "same")
    assert translate(["--checkpoint", str(run), "--input", photograph, *domain, *out]) == 0
    of_folder, of_run = (next((tmp_path / place).glob("a.png*")).read_bytes() for place in ("out", "same"))
    assert of_folder == of_run


def test_both_ways_of_cyclegan(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", "cyclegan")
    assert share(run, "--output", tmp_path / "shared") == 0
    forth, back = hub.from_pretrained(tmp_path / "shared"), hub.from_pretrained(tmp_path / "shared", direction="BtoA")
    assert (forth.direction, back.direction) == ("AtoB", "BtoA") and back.ranges == RANGES
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    for direction, generator in (("AtoB", forth), ("BtoA", back)):
        assert torch.equal(generator(x), hub.from_pretrained(run, direction=direction)(x))
    assert not torch.equal(forth(x), back(x))
    with pytest.raises(ValueError, match="direction: expected AtoB or BtoA, got 'back'"):
        hub.from_pretrained(tmp_path / "shared", direction="back")
    # A file of the way back is the model then, and the other one its way back.
    assert share(run / "checkpoints" / "generator_B_00000012.safetensors", "--output", tmp_path / "turned") == 0
    turned = hub.from_pretrained(tmp_path / "turned")
    assert turned.direction == "BtoA" and torch.equal(turned(x), back(x))
    assert torch.equal(hub.from_pretrained(tmp_path / "turned", direction="AtoB")(x), forth(x))

    method = METHODS["cyclegan"](METHODS["cyclegan"].Config(**OPTIONS["cyclegan"]))
    taken = take_weights(method, tmp_path / "shared")
    assert torch.equal(method.G.eval()(x), forth(x)) and torch.equal(method.F.eval()(x), back(x))
    assert "taken: G, F; not taken: D_X, D_Y (absent)" in taken


def test_one_way_is_not_made_two_by_what_was_there_before(tmp_path: Path) -> None:
    run, one = save_run(tmp_path / "two", "cyclegan"), save_run(tmp_path / "one", "cut")
    assert share(run, "--output", tmp_path / "shared") == 0
    assert share(one, "--output", tmp_path / "shared", "--overwrite") == 0
    assert not (tmp_path / "shared" / "generator_B.safetensors").exists()
    with pytest.raises(CheckpointError, match="translates A to B only, not BtoA"):
        hub.from_pretrained(tmp_path / "shared", direction="BtoA")


def test_a_folder_is_exchanged_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves it as it was; while files of two models are in it, it is no model."""
    before, after = save_run(tmp_path / "before", "cyclegan"), save_run(tmp_path / "after", "cut")
    folder = tmp_path / "shared"
    assert share(before, "--output", folder) == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fsync, replace = os.fsync, os.replace
    written, seen = [], []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert share(after, "--output", folder, "--overwrite") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(target).name, is_pretrained(folder), (folder / "generator_B.safetensors").exists()))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", watched)
        assert share(after, "--output", folder, "--overwrite") == 0
    assert [name for name, *_ in seen] == ["README.md", "config.json", "model.safetensors"]
    assert not any(model or back for _, model, back in seen)
    assert {path.name for path in folder.iterdir()} == {name for name, *_ in seen}


def test_a_runs_folder_is_not_made_one_to_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would go on to give the run's generator."""
    run, other = save_run(tmp_path / "run", "cyclegan"), save_run(tmp_path / "other", "cut")
    for folder in (run, run / "checkpoints"):
        assert share(other, "--output", folder) == 2
        assert f"{folder}: expected a folder without a run in it" in capsys.readouterr().err
        with pytest.raises(ValueError, match="expected a folder without a run in it"):
            hub.save_pretrained(hub.from_pretrained(other), folder)
        assert not (folder / "model.safetensors").exists() and not (folder / "README.md").exists()


def test_the_memory_and_the_domains_go_along(tmp_path: Path) -> None:
    torch.manual_seed(1)
    memory = networks.MGUITGenerator(ngf=2, n_blocks=1, style_nc=4, domains=("day", "night"))
    hub.save_pretrained(memory, tmp_path / "mguit")
    found = hub.from_pretrained(tmp_path / "mguit")
    assert found.domains == ("day", "night") and torch.equal(found.memory.values, memory.memory.values)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    memory.eval()
    style = memory.random_style(1, torch.Generator().manual_seed(3))
    assert torch.equal(found(x, 0), memory(x, 0)) and torch.equal(found(x, 1, style), memory(x, 1, style))
    assert "direction" not in json.loads((tmp_path / "mguit" / "config.json").read_text())


def test_a_card_that_someone_has_written_stays(tmp_path: Path) -> None:
    generator = networks.ResnetGenerator(ngf=2, n_blocks=1)
    hub.save_pretrained(generator, tmp_path, about={"trained_by": "me"})
    assert json.loads((tmp_path / "config.json").read_text())["trained_by"] == "me"
    (tmp_path / "README.md").write_text("# Mine\n")
    hub.save_pretrained(networks.UnetGenerator(ngf=1, n_down=5), tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert isinstance(hub.from_pretrained(tmp_path), networks.UnetGenerator)
    with pytest.raises(TypeError, match="module: expected one of ResnetGenerator, .* got Identity"):
        hub.save_pretrained(nn.Identity(), tmp_path / "none", card="# None\n")
    assert not (tmp_path / "none").exists()


def test_a_card_says_what_evaluate_found_of_this_step(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", "cut", data=None, ema_decay=0.999)
    for step, fid in ((12, 41.5), (6, 77.25)):
        content = {"results": [{"of": "A to B", "figures": {"fid": fid}}], "protocol": {"step": step}}
        (run / f"evaluation{step}.json").write_text(json.dumps(content))
    given = ["--license", "cc-by-4.0", "--data-description", "Streets | of nowhere"]
    assert share(run, "--output", tmp_path / "shared", *given) == 0
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "| A to B | 41.5" in text and "77.25" not in text
    assert "Streets \\| of nowhere" in text and "exponential moving average, decay 0.999" in text
    card = ModelCard(text)
    assert card.data.license == "cc-by-4.0" and "# CUT: sunny to night\n" in text
    assert {result.metric_type for result in card.data.eval_results} == {"psnr", "frechet_lite0", "fid"}


def test_a_card_gives_each_figure_to_the_images_it_is_of(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", "cut", data="/home/someone/secret/..")
    for name, data, fid in (("own", "/home/someone/secret/..", 41.5), ("other", "/home/someone/more", 77.25)):
        protocol = {"step": 12, "data": data}
        content = {"results": [{"of": "A to B", "figures": {"fid": fid}}], "protocol": protocol}
        (run / f"evaluation-{name}.json").write_text(json.dumps(content))
    streets = {"results": [{"of": "A to B", "figures": {"fid": 9.5}}], "protocol": {"step": 12, "data": STREETS}}
    (run / "evaluation-streets.json").write_text(json.dumps(streets))
    assert share(run, "--output", tmp_path / "shared", "--data-description", "horses") == 0
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "someone" not in text
    results = [
        (r.dataset_name, r.dataset_type, r.metric_type, r.metric_value) for r in ModelCard(text).data.eval_results
    ]
    rendered = "the built-in street scenes of cgcl_fast, which are rendered"
    assert sorted(results) == [
        ("horses", "folder", "fid", 41.5),
        ("horses", "folder", "frechet_lite0", 7.5),
        ("horses", "folder", "psnr", 13.75),
        ("images of the folder more", "folder", "fid", 77.25),
        (rendered, "streets", "fid", 9.5),
    ]
    assert "| `cgcl_fast.evaluate`, images of the folder more | FID |" in text
    assert share(run, "--output", tmp_path / "nameless") == 0
    assert "| data | images of a folder |" in (tmp_path / "nameless" / "README.md").read_text()


def test_the_way_back_has_no_figures_of_the_way_there(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", "cyclegan")
    for name, measured in (("step_00000012", True), ("generator_B_00000012", False)):
        assert share(run / "checkpoints" / f"{name}.safetensors", "--output", tmp_path / name) == 0
        assert ("13.75" in (tmp_path / name / "README.md").read_text()) == measured


def test_evaluate_knows_the_streets_that_a_folder_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--metrics", "truth", "--scenes", "2", "--limit", "2", "--device", "cpu"]
    found = []
    run = save_run(tmp_path / "run", "cut", data=None, size=32, seed=3, ranges=None)
    assert share(run, "--output", tmp_path / "shared") == 0
    for place in (run, tmp_path / "shared"):
        assert evaluate([str(place), *options]) == 0
        found.append(json.loads((place / "evaluation.json").read_text()))
    assert found[0]["truth"] == found[1]["truth"] and found[1]["protocol"]["step"] == 12
    assert found[1]["protocol"]["method"] == "cut" and found[1]["protocol"]["size"] == 32
    assert share(save_run(tmp_path / "other", "cut"), "--output", tmp_path / "photographs") == 0
    assert evaluate([str(tmp_path / "photographs"), *options]) == 2
    assert "--data: needed with a generator without its run" in capsys.readouterr().err


def test_a_training_begins_with_a_folder(tmp_path: Path) -> None:
    assert share(save_run(tmp_path / "run", "cut", ranges=None), "--output", tmp_path / "shared") == 0
    options = ["--ngf", "2", "--ndf", "2", "--n-blocks", "1", "--nce-layers", "0,4,8", "--antialias", "true"]
    more = ["--n-down", "2", "--size", "32", "--limit", "2", "--steps", "1", "--lr", "0", "--eval-images", "0"]
    place = ["--output", str(tmp_path / "fine"), "--device", "cpu", "--workers", "0"]
    assert train(["cut", *options, *more, *place, "--init", str(tmp_path / "shared")]) == 0
    before, after = (hub.from_pretrained(tmp_path / name).state_dict() for name in ("shared", "fine"))
    assert all(torch.equal(before[key], after[key]) for key in before)


# ------------------------------------------------------------------------------------------------------- by its name


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return hub.save_pretrained(networks.ResnetGenerator(ngf=2, n_blocks=1), tmp_path / "somewhere" / "cached")


@pytest.fixture
def asked(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the Hub, which has everything, is asked for from an empty folder."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(name: str, **options: Any) -> str:
        calls.append((name, options))
        return str(shared)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return calls


def test_names_are_looked_up_on_the_hub(asked: list[Any], shared: Path, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = hub.from_pretrained(shared)(x)
    assert not asked
    assert torch.equal(hub.from_pretrained("someone/horse2zebra@v1.0", token="mine")(x), expected)
    ((name, options),) = asked
    assert (name, options["revision"], options["token"]) == ("someone/horse2zebra", "v1.0", "mine")
    assert set(options["allow_patterns"]) == {
        "model.safetensors", "generator_B.safetensors", "config.json", "README.md",
    }  # fmt: skip
    out = ["--input", str(a_photograph(tmp_path / "a.png")), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert translate(["--checkpoint", "someone/horse2zebra", *out]) == 0
    method = METHODS["cut"](METHODS["cut"].Config(**OPTIONS["cut"]))
    take_weights(method, Path("someone/horse2zebra"))
    assert torch.equal(method.G.eval()(x), expected)
    options = ["--data", str(tmp_path / "nowhere"), "--device", "cpu", "--metrics", "truth"]
    assert evaluate(["someone/horse2zebra", *options]) == 2  # it has no such data
    assert [name for name, _ in asked] == ["someone/horse2zebra"] * 4


def test_what_is_here_comes_first(asked: list[Any], shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shared, Path("someone/mine"))
    hub.from_pretrained("someone/mine")
    for missing in ("someone/other", "nowhere/latest_net_G.pth", "nowhere/a/b", "nowhere", "../nowhere"):
        with pytest.raises(CheckpointError, match="does not exist"):
            hub.from_pretrained(missing)
    assert not asked


def test_a_model_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(name: str, **options: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand nothing in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert translate(["--checkpoint", "someone/none", "--input", ".", "--output", "out"]) == 2
    said = "someone/none: is not here, and cannot be had from the Hugging Face Hub (no connection and nothing in the"
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_another_model_of_the_hub_is_said_to_be_none_of_this_library(asked: list[Any], shared: Path) -> None:
    (shared / "model.safetensors").rename(shared / "pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"someone/llm: on the Hub, but no generator of cgcl_fast \(no model"):
        hub.from_pretrained("someone/llm")
    assert len(asked) == 1


def test_from_a_cache_without_the_network(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is laid out as huggingface_hub does; nothing stands in for it here."""
    monkeypatch.chdir(tmp_path)
    place, commit = tmp_path / "cache" / "models--someone--streets", "0" * 40
    shutil.copytree(shared, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    found = hub.from_pretrained("someone/streets", cache_dir=tmp_path / "cache", local_files_only=True)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(found(x), hub.from_pretrained(shared)(x))
    with pytest.raises(CheckpointError, match="someone/other: is not here, and cannot be had"):
        hub.from_pretrained("someone/other", cache_dir=tmp_path / "cache", local_files_only=True)


# ---------------------------------------------------------------------------------------------------------- the push


RealApi = huggingface_hub.HfApi


class StandInApi:
    """Of huggingface_hub's what a push calls; it keeps the files that would be on the Hub."""

    repos: dict[str, dict[str, bytes]] = {}
    calls: list[dict[str, Any]] = []
    trouble: Exception | None = None

    def __init__(self, token: Any = None) -> None:
        self.token = token

    def create_repo(self, name: str, **options: Any) -> str:
        signature(RealApi.create_repo).bind(self, name, **options)
        self.calls.append({"private": options.get("private"), "token": self.token})
        if name in self.repos and not options.get("exist_ok"):
            raise ValueError("it exists")
        self.repos.setdefault(name, {})
        return f"https://hub/{name}"

    def upload_folder(self, **options: Any) -> None:
        signature(RealApi.upload_folder).bind(self, **options)
        if self.trouble is not None:
            raise self.trouble
        there = self.repos[options["repo_id"]]
        for name in options["delete_patterns"]:
            there.pop(name, None)
        for path in Path(options["folder_path"]).iterdir():
            if path.name in options["allow_patterns"]:
                there[path.name] = path.read_bytes()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[StandInApi]:
    monkeypatch.setattr(huggingface_hub, "HfApi", StandInApi)
    monkeypatch.setattr(StandInApi, "repos", {})
    monkeypatch.setattr(StandInApi, "calls", [])
    monkeypatch.setattr(StandInApi, "trouble", None)
    return StandInApi


def test_a_run_is_pushed_with_a_folder_and_without(
    api: type[StandInApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(tmp_path / "run", "cyclegan")
    assert share(run, "--push", "someone/streets", "--private") == 0
    assert "pushed to https://hub/someone/streets" in capsys.readouterr().out
    there = api.repos["someone/streets"]
    assert there.keys() == {"model.safetensors", "generator_B.safetensors", "config.json", "README.md"}
    assert "hub.from_pretrained('someone/streets')" in there["README.md"].decode()
    assert api.calls[0]["private"] is True
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "notes.txt").write_text("not to be shared")
    one = save_run(tmp_path / "one", "cut")
    assert share(one, "--push", "someone/streets", "--output", tmp_path / "shared") == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "shared").iterdir() if path.name != "notes.txt"}
    assert api.repos["someone/streets"] == files  # without the way back of the model before
    assert api.calls[1]["private"] is None


def test_a_folder_is_pushed_as_someone_has_edited_it(
    api: type[StandInApi], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert share(save_run(tmp_path / "run", "cut"), "--output", tmp_path / "shared") == 0
    (tmp_path / "shared" / "README.md").write_text("# Mine\n")
    assert share(tmp_path / "shared", "--push", "someone/mine") == 0
    assert api.repos["someone/mine"]["README.md"] == b"# Mine\n"
    assert share(tmp_path / "shared", "--push", "someone/mine", "--license", "mit") == 2
    assert "license: is for a run" in capsys.readouterr().err


def test_a_push_that_fails_is_one_line_and_loses_nothing(
    api: type[StandInApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StandInApi, "trouble", OSError("403 Forbidden:\nno right to write"))
    run = save_run(tmp_path / "run", "cut")
    assert share(run, "--output", tmp_path / "shared", "--push", "someone/streets") == 1
    error = capsys.readouterr().err
    expected = "error: someone/streets: could not be pushed to the Hub (403 Forbidden: no right to write)\n"
    assert error == expected
    assert isinstance(hub.from_pretrained(tmp_path / "shared"), networks.ResnetGenerator)
    monkeypatch.setattr(StandInApi, "trouble", None)
    generator = hub.from_pretrained(tmp_path / "shared")
    assert hub.push_to_hub(generator, "someone/streets", token="mine", private=False) == "https://hub/someone/streets"
    weights = (tmp_path / "shared" / "model.safetensors").read_bytes()
    assert api.repos["someone/streets"]["model.safetensors"] == weights
    assert api.calls[-1] == {"private": False, "token": "mine"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "output: expected --output DIR, --push USER/NAME or both"),
        (["--push", "nameless"], "name: expected USER/NAME, got 'nameless'"),
        (["--push", "some one/x"], "name: Repo id must use"),
        (["--output", "out", "--private"], "private: is of --push"),
        (["--output", "run"], "run: holds no checkpoint"),
        (["--output", "file"], "--output: file is no folder"),
        (["--output", "full"], "README.md would be overwritten (--overwrite allows it)"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("run", "full"):
        Path(name).mkdir()
    Path("file").write_text("")
    Path("full/README.md").write_text("# Mine\n")
    assert share("run", *arguments) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and Path("full/README.md").read_text() == "# Mine\n"
