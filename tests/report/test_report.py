"""The report of a run: its content, and how a browser shows it."""

from __future__ import annotations

import base64
import html
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgcl_fast._generator import find_generator
from cgcl_fast.report import page
from cgcl_fast.report.__main__ import main
from cgcl_fast.report.contents import read_contents, series
from cgcl_fast.report.pictures import translations
from cgcl_fast.train import main as train

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TINY = ["--size", "32", "--ngf", "4", "--ndf", "4", "--n-blocks", "1", "--device", "cpu", "--eval-images", "2"]
TINY += ["--workers", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step of a method with domains and styles."""
    folder = tmp_path_factory.mktemp("report") / "mine"
    assert train(["cgcl", *TINY, "--steps", "1", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    assert main([str(run), "--images", "2"]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


class Elements(html.parser.HTMLParser):
    """Every element's name and attributes, and that each that is opened is closed."""

    EMPTY = ("meta", "link", "img", "input", "line", "polyline", "circle", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_needs_no_other_file(text: str) -> None:
    elements = Elements(text)
    assert elements.open == []
    sources = [attrs[name] for _, attrs in elements.found for name in ("src", "href") if name in attrs]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources if source)
    assert "http://" not in text and "https://" not in text


def test_each_picture_has_words_and_each_link_a_target(text: str) -> None:
    found = Elements(text).found
    assert all(attrs.get("alt") for tag, attrs in found if tag == "img")
    ids = [attrs["id"] for _, attrs in found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in found if tag == "a"} <= {f"#{name}" for name in ids}


def test_options_other_than_the_papers_are_marked(text: str) -> None:
    rows = {name: bool(marked) for marked, name in re.findall(r"<tr( class=\"changed\")?><td>(\w+)</td>", text)}
    assert rows["ngf"] and rows["size"]
    assert not rows["lambda_rec"] and not rows["method"]


def test_options_of_an_old_run_are_compared_under_their_present_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: cgl\nleast_object: 8\ngp_most: 1000.0\n")
    with pytest.warns(FutureWarning, match="is now called"):
        options = {option.name: option for option in read_contents(tmp_path).options}
    assert options["min_object"].value == 8 and options["min_object"].default == 16
    assert options["min_object"].changed and not options["gp_max"].changed and "least_object" not in options


def test_every_loss_has_its_chart(run: Path, text: str) -> None:
    losses = series(run / "log.jsonl")
    assert "generator/loss" in losses
    charts = [attrs["aria-label"] for tag, attrs in Elements(text).found if attrs.get("class") == "chart"]
    assert len(charts) == len(losses) + len([name for name in series(run / "metrics.jsonl") if name.endswith("/after")])


def picture(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))).astype(float)


def test_translations_are_the_generators(run: Path) -> None:
    generator, _ = find_generator(run)
    generator.eval()
    source = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    references = {f"reference_{name}": source.flip(0) for name in generator.domains}
    batch = {"A": source, "A_domain": torch.zeros(2), **references, "truth_night": source}
    scenes = translations(generator, batch, styles=1)
    names = [each.name.partition(",")[0] for each in scenes[0].translations]
    assert names == [name for name in (*generator.domains[1:], generator.domains[0]) for _ in range(2)]
    assert (scenes[0].width, scenes[0].height) == (24, 16)
    night = generator.domains.index("night")
    with torch.no_grad():
        right = generator(source[:1], night, generator.style_of(source[1:], night))
        drawn = generator(source[:1], night, generator.random_style(1, torch.Generator().manual_seed(0)))
    by_name = {each.name: each for each in scenes[0].translations}
    assert len(by_name) == 2 * len(generator.domains)
    for name, expected in (("night, in a reference's style", right), ("night, random style 1", drawn)):
        shown = (expected[0].clamp(-1, 1) + 1).permute(1, 2, 0).numpy() * 127.5
        assert np.abs(picture(by_name[name].image) - shown).mean() < 12  # as far as JPEG of 16 noisy pixels is right
    assert by_name["night, in a reference's style"].truth and not by_name["night, random style 1"].truth
    assert not by_name[f"{generator.domains[0]}, in a reference's style"].truth


def test_a_method_of_one_way_and_a_run_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for name in ("trainA", "trainB"):
        (data / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(data / name / f"{number}.png")
    folder = tmp_path / "run"
    options = ["cut", *TINY, "--nce-layers", "0", "--steps", "1", "--data", str(data), "--output", str(folder)]
    assert train([*options, "--preset", "small"]) == 0
    assert main([str(folder), "--output", str(tmp_path / "one.html")]) == 0
    assert (tmp_path / "one.html").read_text().count('class="compare"') == 2
    shutil.rmtree(data)
    capsys.readouterr()
    assert main([str(folder), "--output", str(tmp_path / "two.html")]) == 0
    said = capsys.readouterr().err
    assert "without test images:" in said and str(data) in said
    assert 'class="compare"' not in (tmp_path / "two.html").read_text()


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "expected the folder of a run, but it has no config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("method: cat\n")
    assert main([str(tmp_path)]) == 2
    assert "names no method" in capsys.readouterr().err


def long_run(run: Path, folder: Path, steps: int = 10_000) -> Path:
    """The same run as if it had gone on for long, and what other commands put beside it."""
    shutil.copytree(run, folder)
    line = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    names = [name for name, value in line.items() if name != "step"]
    with open(folder / "log.jsonl", "w") as file:
        for step in range(10, steps + 1, 10):
            file.write(json.dumps({"step": step, **{name: 1 + 1000 / (step + 100) for name in names}}) + "\n")
        file.write('{"step": 99, "cut sho')
    of = [{"of": "sunny to night", "figures": {"fid": 81.25}, "untouched": {"fid": 93.75}}]
    content = {"results": of, "truth": [{"of": "all", "psnr": 12.5}], "protocol": {"seed": 0, "crop": None}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    figures = {"psnr/before": 10.0, "psnr/after": 11.0, "frechet_lite0": 250.0}
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 10, **figures}) + "\n")
    for name in ("losses", "similarity"):
        (folder / "figures").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / "figures" / f"{name}.png")
    (folder / "train.log").write_text("<script>alert(1)</script>\n")
    return folder


def test_a_long_run_and_what_others_put_beside_it(run: Path, tmp_path: Path) -> None:
    contents = read_contents(long_run(run, tmp_path / "long"))
    assert contents.step == 10_000
    text = page(contents)
    assert len(text) < 2e6
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th><td[^>]*>([^<]*)</td></tr>', text)
    assert {("sunny to night", "81.2"), ("untouched", "93.8"), ("truth.all.psnr", "12.5"), ("protocol.seed", "0")} <= {
        *rows
    }
    assert "Fréchet distance, EfficientNet-Lite0 features (not FID) (lower is better)" in text
    assert 'alt="similarity"' in text and 'alt="losses"' not in text  # of which there are charts
    assert "&lt;script&gt;alert(1)" in text and "<script>alert" not in text
    assert Elements(text).open == []


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(text: str, tmp_path: Path, width: int) -> None:
    """A script of the test's own drags the slider, chooses the second translation, asks for the truth and writes down
    what it finds."""
    probe = """
<script>
const faults = [];
addEventListener("error", event => faults.push(String(event.message)));
addEventListener("load", () => {
  const scene = document.querySelector(".scene"), compare = scene.querySelector(".compare");
  const after = compare.querySelector(".after"), slider = compare.querySelector("input");
  const buttons = scene.querySelectorAll(".choices button"), before = after.src;
  slider.value = 25; slider.dispatchEvent(new Event("input"));
  buttons[1].click();
  const pressed = [...buttons].map(button => button.getAttribute("aria-pressed")).join();
  const second = after.src === buttons[1].firstElementChild.src && pressed.startsWith("false,true");
  buttons[0].click();
  const back = after.src === before, box = scene.querySelector(".truths input");
  box.checked = true; box.dispatchEvent(new Event("change"));
  const truth = after.src === scene.querySelector(".truths img").src;
  const clip = getComputedStyle(after).clipPath;
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const broken = [...document.images].filter(image => !image.hidden && !image.naturalWidth).length;
  document.body.dataset.found = JSON.stringify({second, back, truth, clip, wide, broken, faults});
});
</script>
"""
    file = tmp_path / "page.html"
    file.write_text(text.replace("</head>", probe + "</head>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += f"--disable-component-update --disable-sync --window-size={width},900 --user-data-dir={tmp_path}/profile"
    done = subprocess.run(
        [str(BROWSER), *flags.split(), "--virtual-time-budget=5000", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    noted = re.search(r'data-found="([^"]*)"', done.stdout)
    assert noted, done.stderr
    found = json.loads(html.unescape(noted[1]))
    assert found["second"] and found["back"] and found["truth"]
    assert "25%" in found["clip"]
    assert found["wide"] == 0 and found["broken"] == 0 and found["faults"] == []
