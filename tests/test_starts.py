"""How runs start and continue: --init, --resume in a new phase, --direction, and files in the published layout."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from methods import plain_cut
from networks.plain_weights import randomise
from PIL import Image

from cgcl_fast import compat
from cgcl_fast._generator import find_generator
from cgcl_fast._initial import take_weights
from cgcl_fast._networks import trained
from cgcl_fast._train_options import resolve
from cgcl_fast.compat.__main__ import main as publish
from cgcl_fast.engine import CheckpointError, Trainer, read_checkpoint
from cgcl_fast.methods import METHODS, Method
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.networks import DisentangledGenerator, load_generator, save_generator
from cgcl_fast.networks.files import read_safetensors
from cgcl_fast.train import main
from cgcl_fast.translate import main as translate

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from engine_checks import assert_same, last_state, log_of  # noqa: E402
from photographs import write_folders  # noqa: E402
from test_files import another_process_in  # noqa: E402

NETWORKS = {"ngf": 4, "ndf": 4, "n_blocks": 1}
CUT = {**NETWORKS, "nce_layers": (0, 4, 8), "nce_dim": 8, "num_patches": 16}
RUN = ["--size", "32", "--device", "cpu", "--log-every", "1", "--workers", "0"]


def as_arguments(options: dict[str, object]) -> list[str]:
    return [f"--{name}={list(value) if isinstance(value, tuple) else value}" for name, value in options.items()]


def method_of(name: str, seed: int = 0, **options: object) -> Method:
    torch.manual_seed(seed)
    return METHODS[name](METHODS[name].Config(**options))


def weights(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def last_line(capsys: pytest.CaptureFixture) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def noise(folder: int, number: int) -> Image.Image:
        values = np.random.RandomState(10 * folder + number).randint(0, 256, (36, 40, 3)).astype(np.uint8)
        return Image.fromarray(values)

    return write_folders(tmp_path_factory.mktemp("photographs"), ("trainA", "trainB", "testA", "testB"), 4, noise)


@pytest.fixture(scope="module")
def cut(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CUT of one epoch of four steps, and another of decay."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    length = ["--epochs", "1", "--decay-epochs", "1"]
    assert main(["cut", "--data", str(photographs), *RUN, *as_arguments(CUT), *length, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def cyclegan(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cyclegan") / "run"
    arguments = ["cyclegan", "--data", str(photographs), *RUN, *as_arguments(NETWORKS), "--save-every", "1"]
    assert main([*arguments, "--steps", "3", "--keep", "1", "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder of published files of G and D: of modules built as the published ones are."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name, module in (("G", plain_cut.Generator(ngf=4, n_blocks=1)), ("D", plain_cut.Discriminator(ndf=4))):
        randomise(module)
        torch.save(module.state_dict(), folder / f"latest_net_{name}.pth")
    return folder


# --------------------------------------------------------------------------------------------------------------- --init


def test_a_published_generator_is_fine_tuned_and_saved_as_it_was(
    published: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    arguments = ["fastcut", "--data", str(photographs), *RUN, *as_arguments(CUT), "--lr", "1e-4", "--batch-size", "2"]
    begin = ["--init", str(published / "latest_net_G.pth")]
    assert main([*arguments, "--steps", "2", *begin, "--output", str(output)]) == 0
    assert f"{begin[1]}: taken: G, D; not taken: H (absent)" in capsys.readouterr().err
    assert "taken: G, D; not taken: H (absent)" in (output / "train.log").read_text()
    first, fresh = read_checkpoint(output / "checkpoints" / "step_00000000.pt"), method_of("fastcut", **CUT)
    assert first["step"] == 0 and all(not any(o["state"].values()) for o in first["optimizers"].values())
    assert_same(weights(first["method"], "H"), dict(fresh.H.state_dict()))
    assert not torch.equal(last_state(output)["method"]["G.stem.weight"], first["method"]["G.stem.weight"])
    assert yaml.safe_load((output / "config.yaml").read_text())["init"] == begin[1]

    assert publish([str(output / "checkpoints" / "step_00000000.pt"), "--output", str(tmp_path / "back")]) == 0
    for name in ("G", "D"):
        theirs, ours = (torch.load(folder / f"latest_net_{name}.pth") for folder in (published, tmp_path / "back"))
        assert list(ours) == list(theirs)
        for key, tensor in theirs.items():  # what published modules compute of the blurs rounds otherwise
            torch.testing.assert_close(ours[key], tensor, atol=0, rtol=1e-7 if key.endswith(".filt") else 0)
    plain_cut.Heads([3, 8, 16], 8).load_state_dict(torch.load(tmp_path / "back" / "latest_net_F.pth"))

    # The options are in config.yaml: going on begins with no weights again.
    assert main(["--resume", "--output", str(output), "--steps", "3"]) == 0
    assert "taken" not in capsys.readouterr().err


def test_a_run_of_the_same_method_gives_all_networks(cut: Path) -> None:
    state = last_state(cut)["method"]
    for path in (cut, cut / "checkpoints", cut / "checkpoints" / "step_00000008.pt"):
        method = method_of("cut", 7, **CUT, negatives="both", queue_size=16)
        assert take_weights(method, path).endswith("step_00000008.pt: taken: G, D, H")
        for name in ("G", "D", "H"):
            assert_same(dict(getattr(method, name).state_dict()), weights(state, name))
        assert_same(dict(method.momentum_G.state_dict()), dict(method.G.state_dict()))
        assert_same(dict(method.momentum_H.state_dict()), dict(method.H.state_dict()))


def test_a_generator_alone_is_taken_alone(cut: Path) -> None:
    method = method_of("fastcut", 7, **CUT)
    before = {name: getattr(method, name).state_dict() for name in ("D", "H")}
    before = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in before.items()}
    path = cut / "checkpoints" / "step_00000008.safetensors"
    assert take_weights(method, path) == f"init: {path}: taken: G; not taken: D, H (absent)"
    assert_same(dict(method.G.state_dict()), weights(last_state(cut)["method"], "G"))
    for name, state in before.items():
        assert_same(dict(getattr(method, name).state_dict()), state)


def test_networks_of_another_method_are_taken_for_what_they_do(cyclegan: Path, tmp_path: Path) -> None:
    """G and the D that judges it, of the way that the file is of; and the other way round."""
    plain = {**CUT, "antialias": False}
    assert publish([str(cyclegan), "--output", str(tmp_path)]) == 0
    state = last_state(cyclegan)["method"]
    for file, generator, judge in (("G_A", "G", "D_Y"), ("G_B", "F", "D_X")):
        method = method_of("cut", 7, **plain)
        assert take_weights(method, tmp_path / f"latest_net_{file}.pth").endswith("taken: G, D; not taken: H (absent)")
        assert_same(dict(method.G.state_dict()), weights(state, generator))
        assert_same(dict(method.D.state_dict()), weights(state, judge))
        (tmp_path / file).mkdir()
        for name in ("G", "D"):
            state_dict = compat.published_state_dict(getattr(method, name))
            torch.save(state_dict, tmp_path / file / f"latest_net_{name}.pth")
        back = method_of("cyclegan", 7, **NETWORKS)
        assert take_weights(back, tmp_path / file).endswith("taken: G, D_Y; not taken: F, D_X (absent)")
        assert_same(dict(back.G.state_dict()), weights(state, generator))
    back = method_of("cyclegan", 7, **NETWORKS)
    assert take_weights(back, tmp_path).endswith("latest_net_G_A.pth: taken: G, F, D_X, D_Y")
    for name in ("G", "F", "D_X", "D_Y"):
        assert_same(dict(getattr(back, name).state_dict()), weights(state, name))


TINY_CGL = {"ngf": 2, "ndf": 2, "n_blocks": 1, "object_size": 16, "d_layers": 3, "style_dim": 3, "mlp_dim": 8}
TINY_SINCUT = {"ngf": 1, "ndf": 1, "crop_size": 16, "tile_size": 8}


@pytest.mark.parametrize(
    ("before", "now", "options", "absent"),
    [
        ("cgl", "cgcl", TINY_CGL, "; not taken: H_g, H_o (absent)"),
        ("mguit", "mguit", {"ngf": 2, "ndf": 2, "n_blocks": 1, "style_nc": 4, "d_layers": 2, "n_scales": 1}, ""),
        ("sincut", "sincut", TINY_SINCUT, ""),
    ],
)
def test_every_method_begins_with_the_networks_of_its_kind(
    before: str, now: str, options: dict[str, object], absent: str, tmp_path: Path
) -> None:
    """MGUIT's memory with them."""
    file, method = checkpoint_of(before, options, tmp_path), method_of(now, 7, **options)
    names = [name for name in trained(method) if name not in absent]
    assert take_weights(method, file) == f"init: {file}: taken: {', '.join(names)}{absent}"
    state = torch.load(file)["method"]
    for name in names:
        assert_same(dict(getattr(method, name).state_dict()), weights(state, name))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("cut", {**CUT, "ngf": 8}, "G of {} does not fit: ngf 4 there and 8 here"),
        ("cut", {**CUT, "antialias": False}, "G of {} does not fit: antialias True there and False here"),
        ("cut", {**CUT, "d_layers": 2}, "D of {} does not fit: d_layers 3 there and 2 here"),
        ("cut", {**CUT, "nce_dim": 4}, r"H of {} does not fit: mlps.0.0.weight is \(8, 3\) there and \(4, 3\) here"),
        ("mguit", {"ngf": 4, "ndf": 4}, "G of {} is a ResnetGenerator, and here it is a MGUITGenerator"),
        ("cgl", {"ngf": 4, "ndf": 4, "object_size": 64}, "{} has none of G_g, G_o"),
    ],
)
def test_networks_that_do_not_fit_are_one_line_and_change_nothing(
    cut: Path, method: str, options: dict[str, object], said: str
) -> None:
    built = method_of(method, **options)
    before = {key: value.clone() for key, value in built.state_dict().items() if isinstance(value, torch.Tensor)}
    said = said.format(cut / "checkpoints" / "step_00000008.pt")
    with pytest.raises(ValueError, match=f"^init: {said}[^\n]*$"):
        take_weights(built, cut)
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items() if key in before)


@pytest.mark.parametrize("kind", ["absent", "no run", "text", "damaged", "foreign D"])
def test_what_has_no_weights_is_one_line_and_status_2(
    published: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    path = published / "latest_net_G.pth"
    if kind == "absent":
        path = tmp_path / "none"
    elif kind == "no run":
        path = photographs
    elif kind == "text":
        path.write_text("hello")
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        torch.save({"layer.weight": torch.ones(3, 3)}, published / "latest_net_D.pth")
    output = tmp_path / "run"
    assert (
        main(["cut", "--data", str(photographs), *RUN, *as_arguments(CUT), f"--init={path}", f"--output={output}"]) == 2
    )
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and str(path.parent) in err and not output.exists()


# ------------------------------------------------------------------------------------------------------------- --resume


def more_photographs(photographs: Path, folder: Path, count: int = 6) -> Path:
    data = Path(shutil.copytree(photographs, folder))
    for name in ("trainA", "trainB"):
        for number in range(4, count):
            shutil.copy(data / name / "0.png", data / name / f"{number}.png")
    return data


@pytest.mark.parametrize(
    ("arguments", "listed", "next_epoch"),
    [
        ("--lr 1e-3", "lr from 0.0002 to 0.001", False),
        ("--lambda-x 2 --temperature 0.1", "lambda_x from 1.0 to 2.0, temperature from 0.07 to 0.1", False),
        ("--size 64", "size from 32 to 64", False),
        ("--data {more}", "data from {old} to {more}", True),
        ("--limit 2", "limit from its default to 2", True),
        ("--batch-size 2", "batch_size from 1 to 2", True),
        ("--accumulate 2", "accumulate from 1 to 2", True),
        ("--seed 3", "seed from 0 to 3", True),
    ],
)
def test_a_run_goes_on_with_other_options_and_says_what_that_costs(
    cut: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: str, listed: str,
    next_epoch: bool,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(cut, tmp_path / "run"))
    places = {"old": photographs, "more": tmp_path / "more"}
    if "{more}" in arguments:
        more_photographs(photographs, places["more"])
    changed = arguments.format(**places).split()
    assert main(["--resume", "--output", str(folder), "--steps", "9", *changed]) == 0
    line = f"a new phase of training from step 8: {listed.format(**places)}; weights and optimisers go on, but not bit "
    line += f"for bit as an uninterrupted run{', and with the next epoch' if next_epoch else ''}"
    assert line in capsys.readouterr().err.splitlines() and line in (folder / "train.log").read_text()
    before, after = last_state(cut), last_state(folder)
    assert after["step"] == 9 and after["stage"]["step"] == (8 if next_epoch else 0)
    for name, state in after["optimizers"].items():
        assert {float(one["step"]) for one in state["state"].values() if one} == {9.0}, name  # some are not trained
    change = (after["method"]["G.stem.weight"] - before["method"]["G.stem.weight"]).abs().max()
    assert 0 < change < 3e-3  # of one step of Adam, and not of other weights


def test_what_changes_no_step_is_no_phase_and_how_numbers_are_kept_is_one(cut: Path) -> None:
    same = ["--log-every", "3", "--save-every", "7", "--keep", "1", "--workers", "1", "--steps", "99"]
    assert resolve(["--resume", "--output", str(cut), *same]).changed == {}
    other = resolve(["--resume", "--output", str(cut), "--precision", "bf16", "--tf32", "false"])
    assert other.changed == {"precision": ("fp32", "bf16"), "tf32": (True, False)}


def test_more_images_in_the_folder_are_taken_and_said(
    cut: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(cut, tmp_path / "run"))
    data = more_photographs(photographs, tmp_path / "data")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "data": str(data)}))
    assert main(["--resume", "--output", str(folder), "--steps", "9"]) == 0
    assert "from step 8: other images; weights and optimisers go on, but not bit for bit" in capsys.readouterr().err
    assert last_state(folder)["loader"]["length"] == 6


def test_epochs_stay_epochs_when_a_batch_grows_and_a_phase_is_as_exact_as_a_run(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two epochs of four steps, then two of two steps, in which the rate decays as in the second half of four epochs of
    two steps."""
    go_on = ["--resume", "--epochs", "2", "--decay-epochs", "2", "--batch-size", "2"]
    whole, broken = (Path(shutil.copytree(cut, tmp_path / name)) for name in ("whole", "broken"))
    assert main([*go_on, "--output", str(whole)]) == 0
    rates = {line["step"]: line["lr/generator"] for line in log_of(whole) if "lr/generator" in line}
    assert [rates[step] for step in (9, 10, 11, 12)] == pytest.approx([2e-4 * left / 5 for left in (4, 3, 2, 1)])
    assert len(rates) == 12 and last_state(whole)["loader"]["epoch"] == 3

    train_step = Trainer.train_step

    def terminated(self: Trainer, parts: list) -> dict:
        if self.step == 8 + 1:
            signal.raise_signal(signal.SIGTERM)
        return train_step(self, parts)

    monkeypatch.setattr(Trainer, "train_step", terminated)
    assert main([*go_on, "--output", str(broken)]) == 143
    monkeypatch.undo()
    assert last_state(broken)["step"] == 10
    capsys.readouterr()
    assert main(["--resume", "--output", str(broken)]) == 0
    assert "new phase" not in capsys.readouterr().err
    assert_same(last_state(broken), last_state(whole))
    assert log_of(broken) == log_of(whole)


def test_learning_rates_that_part_keep_the_averages_of_each_network(photographs: Path, tmp_path: Path) -> None:
    """EnCo's G and H have one rate at first, and so one group of parameters."""
    enco = {**NETWORKS, "n_blocks": 5, "nce_dim": 8, "num_patches": 8}
    run = ["enco", "--data", str(photographs), *RUN, *as_arguments(enco), "--output", str(tmp_path)]
    assert main([*run, "--steps", "1"]) == 0
    before = last_state(tmp_path)
    assert main(["--resume", "--output", str(tmp_path), "--steps", "2", "--lr-h", "0", "--lr-d", "0"]) == 0
    after = last_state(tmp_path)
    assert [len(each["optimizers"]["generator"]["param_groups"]) for each in (before, after)] == [1, 2]
    assert_same(weights(after["method"], "H"), weights(before["method"], "H"))
    assert not torch.equal(after["method"]["G.stem.weight"], before["method"]["G.stem.weight"])
    averages = after["optimizers"]["generator"]["state"]
    tensors = {f"{name}.{key}": t for name in ("G", "H") for key, t in weights(after["method"], name).items()}
    assert len(averages) == len(tensors)
    for i, (name, tensor) in enumerate(tensors.items()):
        if name.startswith("G.blocks.") and name.endswith(".bias"):  # a norm follows, so it is not trained
            assert averages[i] == {}
        else:
            assert averages[i]["exp_avg"].shape == tensor.shape


@pytest.mark.parametrize(
    "arguments", ["--n-blocks 2", "--negatives both", "--nce-dim 4", "--direction BtoA", "--beta1 0.4"]
)
def test_what_cannot_change_names_the_way_that_can(cut: Path, capsys: pytest.CaptureFixture, arguments: str) -> None:
    assert main(["--resume", "--output", str(cut), *arguments.split()]) == 2
    err = last_line(capsys)
    name = arguments.split()[0].removeprefix("--").replace("-", "_")
    assert f"{name} is " in err and f"cannot become {arguments.split()[1]}; --init {cut} --output NEW" in err


def test_resume_and_init_exclude_each_other(cut: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--resume", "--output", str(cut), "--init", str(cut)]) == 2
    assert "--resume and --init exclude each other" in last_line(capsys)


def test_a_second_process_that_resumes_a_run_is_told_of_the_first(cut: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    with another_process_in(cut) as other:
        assert main(["--resume", "--output", str(cut), "--steps", "20", "--lr", "1e-3"]) == 2
        assert f"{cut} is in use by process {other} on " in last_line(capsys)
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


def test_a_config_from_before_initialisations_were_called_types_is_read(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("method: cgl\ninit: kaiming_uniform\n")
    options = resolve(["--config", str(tmp_path / "options.yaml")])
    assert options.init_type == "kaiming_uniform" and options.init is None
    file = checkpoint_of("cgl", TINY_CGL, tmp_path)
    state = torch.load(file)
    state["config"]["config"]["init"] = "kaiming"
    torch.save(state, file)
    assert isinstance(find_generator(file)[0], DisentangledGenerator)


# ---------------------------------------------------------------------------------------------------------- --direction


def translated(generator: torch.nn.Module, image: Path) -> np.ndarray:
    pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return ((translate_any_size(generator, pixels)[0].permute(1, 2, 0) + 1) * 127.5).numpy()


def assert_translates(arguments: list[object], image: Path, output: Path, generator: torch.nn.Module) -> None:
    arguments = ["--checkpoint", *arguments, "--input", image, "--output", output, "--device", "cpu"]
    assert translate(list(map(str, arguments))) == 0
    found = np.asarray(Image.open(output / image.name)).astype(float)
    assert np.abs(found - translated(generator, image)).max() <= 0.51


def test_cyclegan_translates_both_ways_with_what_its_run_has(cyclegan: Path, photographs: Path, tmp_path: Path) -> None:
    checkpoints, image = cyclegan / "checkpoints", photographs / "testB" / "0.png"
    names = {path.name for path in checkpoints.iterdir()} - {"best.json"}
    assert names == {"step_00000003.pt", "step_00000003.safetensors", "generator_B_00000003.safetensors"}
    method, state = method_of("cyclegan", **NETWORKS), last_state(cyclegan)["method"]
    for name in ("G", "F"):
        getattr(method, name).load_state_dict(weights(state, name))
    assert publish([str(cyclegan), "--output", str(tmp_path / "published")]) == 0
    without = Path(shutil.copytree(checkpoints, tmp_path / "of before"))
    (without / "generator_B_00000003.safetensors").unlink()
    places = [cyclegan, checkpoints, checkpoints / "step_00000003.pt", checkpoints / "step_00000003.safetensors"]
    for number, place in enumerate([*places, tmp_path / "published", without]):
        assert_translates([place, "--direction", "BtoA"], image, tmp_path / f"back {number}", method.F)
        assert_translates([place], image, tmp_path / f"forth {number}", method.G)
    second = checkpoints / "generator_B_00000003.safetensors"
    assert_translates([second], image, tmp_path / "second", method.F)
    assert_translates([second, "--direction", "AtoB"], image, tmp_path / "first", method.G)


def test_a_direction_of_training_exchanges_the_domains_and_is_kept(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    swapped = tmp_path / "swapped"
    for name in ("train", "test"):
        for ours, theirs in ("AB", "BA"):
            shutil.copytree(photographs / f"{name}{theirs}", swapped / f"{name}{ours}")
    run = ["cyclegan", *RUN, *as_arguments(NETWORKS), "--steps", "2"]
    for folder, data, more in (("one", swapped, []), ("two", photographs, ["--direction", "BtoA"])):
        assert main([*run, "--data", str(data), *more, "--output", str(tmp_path / folder)]) == 0
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    assert_same(one["method"], two["method"])
    assert yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())["direction"] == "BtoA"
    assert (one["config"]["direction"], two["config"]["direction"]) == ("AtoB", "BtoA")

    # What a run was trained for is what it does unless told otherwise; the names are those of the data.
    folder, image = tmp_path / "two", photographs / "testA" / "0.png"
    checkpoints = folder / "checkpoints"
    forward = load_generator(checkpoints / "step_00000002.safetensors")
    backward = load_generator(checkpoints / "generator_B_00000002.safetensors")
    for number, place in enumerate((folder, checkpoints / "step_00000002.pt")):
        assert_translates([place], image, tmp_path / f"own {number}", forward)
        assert_translates([place, "--direction", "BtoA"], image, tmp_path / f"BtoA {number}", forward)
        assert_translates([place, "--direction", "AtoB"], image, tmp_path / f"AtoB {number}", backward)


@pytest.mark.parametrize("which", [".", "checkpoints/step_00000008.pt", "checkpoints/step_00000008.safetensors"])
def test_a_method_of_one_way_says_so(
    cut: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, which: str
) -> None:
    place = ["--checkpoint", str(cut / which), "--input", str(photographs / "testA"), "--output", str(tmp_path / "out")]
    assert translate([*place, "--direction", "BtoA", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "translates A to B only, not BtoA; train with --direction BtoA, or train cyclegan" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert translate([*place, "--direction", "AtoB", "--device", "cpu"]) == 0


def test_a_published_generator_that_is_alone_is_of_one_way(published: Path) -> None:
    assert find_generator(published, "AtoB")[1] == published / "latest_net_G.pth"
    with pytest.raises(CheckpointError, match="latest_net_G.pth: translates A to B only"):
        find_generator(published, "BtoA")


def test_a_direction_names_one_of_two_domains_and_no_others(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    image, outputs = photographs / "testA" / "0.png", {}
    for domains in (("day", "night"), ("day", "night", "rain")):
        file = tmp_path / f"{len(domains)}.safetensors"
        save_generator(file, DisentangledGenerator(domains, ngf=2, n_blocks=1))
        place = ["--checkpoint", str(file), "--input", str(image), "--device", "cpu"]
        for name, more in (("named", ["--domain", "day"]), ("BtoA", ["--direction", "BtoA"])):
            output = tmp_path / f"{name} {len(domains)}"
            outputs[name, len(domains)] = translate([*place, *more, "--output", str(output)]), output / "0.png"
    assert outputs["BtoA", 2][0] == 0
    assert outputs["BtoA", 2][1].read_bytes() == outputs["named", 2][1].read_bytes()
    assert outputs["BtoA", 3][0] == 2 and "the checkpoint has 3 domains; name one with --domain" in last_line(capsys)
    assert translate([*place, "--domain", "day", "--direction", "BtoA", "--output", str(tmp_path)]) == 2
    assert "leave it out where --domain names where to translate to" in last_line(capsys)


@pytest.mark.parametrize("method", ["cgl", "cgcl", "mguit"])
def test_methods_that_name_their_domains_take_no_direction(
    tmp_path: Path, capsys: pytest.CaptureFixture, method: str
) -> None:
    assert main([method, "--direction", "BtoA", "--output", str(tmp_path / "run")]) == 2
    assert f"direction: {method} learns all ways between its domains; translate takes --domain NAME" in last_line(
        capsys
    )


# ------------------------------------------------------------------------------------------------- the published layout


def test_cyclegan_is_written_in_the_published_layout(
    cyclegan: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert publish([str(cyclegan), "--output", str(tmp_path), "--epoch", "3"]) == 0
    state = last_state(cyclegan)["method"]
    modules: dict[str, tuple[Callable[[], torch.nn.Module], Callable, str]] = {
        f"{kind}_{way}": (build, load, ours)
        for kind, build, load, names in (
            ("G", lambda: plain_cut.Generator(ngf=4, n_blocks=1, antialias=False), compat.load_generator, "GF"),
            ("D", lambda: plain_cut.Discriminator(ndf=4, antialias=False), compat.load_discriminator, ("D_Y", "D_X")),
        )
        for way, ours in zip("AB", names, strict=True)
    }
    assert {path.name for path in tmp_path.iterdir()} == {f"3_net_{name}.pth" for name in modules}
    for name, (build, load, ours) in modules.items():
        file = tmp_path / f"3_net_{name}.pth"
        build().load_state_dict(torch.load(file))  # all keys, as the published code would have them
        assert_same(dict(load(file).state_dict()), weights(state, ours))
    capsys.readouterr()
    assert publish([str(cyclegan), "--output", str(tmp_path), "--epoch", "3"]) == 2
    assert "would be overwritten (--overwrite allows it)" in last_line(capsys)
    assert publish([str(cyclegan), "--output", str(tmp_path), "--epoch", "3", "--overwrite"]) == 0


@pytest.mark.parametrize("options", [{}, {"loss": "cosine"}, {"shared_projector": False}], ids=str)
def test_enco_is_written_but_for_a_second_projector(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: dict[str, object]
) -> None:
    file = checkpoint_of("enco", {**NETWORKS, "n_blocks": 5, **options}, tmp_path)
    assert publish([str(file), "--output", str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"latest_net_{name}.pth" for name in "GDF"}
    said = "not written: K, for which there is no published layout" in capsys.readouterr().out
    assert said == ("shared_projector" in options)


def test_sincut_is_written_with_its_published_networks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    published = {**TINY_SINCUT, "networks": "published", "minibatch_stddev": False}
    file = checkpoint_of("sincut", published, tmp_path)
    assert publish([str(file), "--output", str(tmp_path / "out")]) == 0
    state = torch.load(file)["method"]
    for name, load, ours in (
        ("G", compat.load_generator, "G"),
        ("D", compat.load_discriminator, "D"),
        ("F", compat.load_projector, "H"),
    ):
        assert_same(dict(load(tmp_path / "out" / f"latest_net_{name}.pth").state_dict()), weights(state, ours))


def checkpoint_of(method: str, options: dict[str, object], folder: Path) -> Path:
    built = method_of(method, **options)
    file = folder / "step_00000000.pt"
    config = {"method": method, "config": {**options}}
    torch.save({"format": "cgcl_fast.checkpoint", "step": 0, "config": config, "method": built.state_dict()}, file)
    return file


def test_what_has_no_published_layout_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("sincut", "cgl"):
        (tmp_path / folder).mkdir()
    sincut = checkpoint_of("sincut", TINY_SINCUT, tmp_path / "sincut")
    cgl = checkpoint_of("cgl", {"ngf": 4, "ndf": 4, "n_blocks": 1}, tmp_path / "cgl")
    for place, said in (
        (sincut, "published"),
        (cgl, "cgl has no published layout; these have: cut, fastcut, sincut, enco, cyclegan"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "no checkpoint"),
    ):
        assert publish([str(place), "--output", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_metadata_of_the_generators_of_a_run_have_their_direction(cyclegan: Path) -> None:
    found = [
        read_safetensors(file)[1]["direction"] for file in sorted((cyclegan / "checkpoints").glob("*.safetensors"))
    ]
    assert found == ["BtoA", "AtoB"]  # generator_B_..., step_...
