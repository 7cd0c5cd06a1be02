"""What the documentation says is there is there: names beside equations, errors, options, files to change, links."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from cgcl_fast import ops
from cgcl_fast._train_options import make_parser
from cgcl_fast.methods import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_what_computes_an_equation_is_there() -> None:
    named = re.findall(r"`(\w+)/(\w+)\.py:([\w.]+)`", (DOCS / "methods.md").read_text())
    assert len(named) > 50
    for layer, module, path in named:
        found = importlib.import_module(f"cgcl_fast.{layer}.{module}")
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found) and found.__module__ == f"cgcl_fast.{layer}.{module}", path


def test_every_method_and_op_has_its_section() -> None:
    page = (DOCS / "methods.md").read_text()
    assert set(re.findall(r"```\{options\} (\w+)", page)) == set(METHODS)
    for method in METHODS.values():
        name = f"{method.__module__}.{method.__name__}"
        assert f".. autoclass:: {name}\n" in page and f".. autoclass:: {name}Config\n" in page
    page = (DOCS / "ops.md").read_text()
    assert re.findall(r"^.. autofunction:: cgcl_fast\.ops\.(\w+)", page, re.M) == sorted(
        ops.__all__, key=lambda name: page.index(f"ops.{name}\n")
    )
    measured = [name for names in re.findall(r"```\{measured\} (.+)", page) for name in names.split()]
    assert sorted(measured) == sorted(ops.__all__)


def test_every_layout_and_format_of_boxes_is_on_its_page() -> None:
    named = re.findall(r"automodule:: cgcl_fast\.data\.(\w+)\.(\w+)", (DOCS / "data-layouts.md").read_text())
    for folder, others in (("layouts", set()), ("annotations", {"annotation", "reading", "streets"})):
        files = {path.stem for path in (ROOT / "cgcl_fast" / "data" / folder).glob("[!_]*.py")}
        assert {name for where, name in named if where == folder} == files - others


@cache
def messages() -> list[str]:
    """All texts in the package, with a zero in the place of what is filled in."""
    found = []
    for path in sorted((ROOT / "cgcl_fast").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_error_of_the_page_is_one_of_the_program() -> None:
    quoted = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) > 35
    for error in quoted:
        parts = [re.escape(part.strip(" :;,.()")) for part in error.split("…")]
        pattern = re.compile(r".*?\0.*?".join(part for part in parts if part), re.DOTALL)
        assert pattern.pattern and any(pattern.search(text) for text in messages()), error


def commands() -> list[tuple[str, str, list[str]]]:
    """(page, module, arguments) of each command of the package in a block of code."""
    found = []
    for page in (ROOT / "README.md", *PAGES):
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"-m (cgcl_fast\.[\w.]+)(.*)", line):
                    found.append((page.name, match[1], shlex.split(match[2], comments=True)))
    return found


def test_options_in_commands_are_options() -> None:
    known = {name for method in METHODS for name in re.findall(r"--([\w-]+)", make_parser(method).format_help())}
    seen = 0
    for page, module, arguments in commands():
        options = {word[2:].partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
        if module == "cgcl_fast.train":
            assert options <= known | {"help", "range"}, (page, arguments)
        else:
            source = importlib.import_module(module)
            path = Path(str(source.__file__))
            if path.name == "__init__.py":
                path = path.with_name("__main__.py")
            text = path.read_text()
            assert all(re.search(rf"\b{name.replace('-', '_')}\b|--{name}\b", text) for name in options), (page, module)
        seen += bool(options)
    assert seen > 20


def section(title: str) -> str:
    """That of CONTRIBUTING.md."""
    return CONTRIBUTING.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


TITLES = ["An op", "A method", "A data set", "A layout of folders, a format of boxes", "A metric"]


@pytest.mark.parametrize("title", TITLES)
def test_files_to_change_are_there(title: str) -> None:
    paths = [word for word in re.findall(r"`([\w./{},-]+)`", section(title)) if re.search(r"/.*\.(\w+|\{.+\})$", word)]
    assert len(paths) >= 2
    for path in paths:
        pattern = re.sub(r"\{(\w+),\w+\}", r"\1", path).replace("NAME", "[!_]*")
        assert any(list(root.glob(pattern)) for root in (ROOT, ROOT / "cgcl_fast")), path


EVERY_OP = """
ops/__init__.py tests/ops/test_wrong_arguments.py tests/ops/fuzz.py tests/native_check.py tests/gpu/gpu_cases.py
benchmarks/bench_host.py benchmarks/cuda_cases.py README.md docs/ops.md
"""

EVERY_METHOD = "cgcl_fast/methods/registry.py cgcl_fast/report/page.py tests/test_configs.py README.md docs/methods.md"


@pytest.mark.parametrize(
    ("title", "files", "names"), [(TITLES[0], EVERY_OP, ops.__all__), (TITLES[1], EVERY_METHOD, METHODS)]
)
def test_what_is_said_of_one_has_been_done_of_all(title: str, files: str, names: list[str]) -> None:
    for file in files.split():
        assert f"`{file}`" in section(title)
        path = ROOT / file if (ROOT / file).exists() else ROOT / "cgcl_fast" / file
        text = path.read_text()
        assert [name for name in names if not re.search(rf"\b{name}\b", text)] == [], file


def test_every_method_has_its_presets_and_every_op_its_files() -> None:
    modules = {getattr(ops, name).__module__.rpartition(".")[2] for name in ops.__all__}
    places = {"cgcl_fast/configs/NAME.yaml": METHODS, "cgcl_fast/configs/NAME-small.yaml": METHODS}
    places |= {
        f"{place}.py": modules for place in ("cgcl_fast/ops/NAME", "cgcl_fast/kernels/NAME", "tests/ops/test_NAME")
    }
    for place, names in places.items():
        assert f"`{place}`" in CONTRIBUTING
        assert [name for name in names if not (ROOT / place.replace("NAME", name)).exists()] == [], place


def test_links_to_files_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            assert (page.parent / target).exists(), (page.name, target)
