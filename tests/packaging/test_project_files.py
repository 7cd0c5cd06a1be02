"""What says the same in several files says the same: versions, commands and addresses that would drift apart unseen."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cgcl_fast

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LINT = re.findall(r"^\t\$\(BIN\)/(.*)$", MAKEFILE.split("\nlint:")[1].split("\n\n")[0], re.MULTILINE)
SUPPORTED = [f"3.{minor}" for minor in range(*map(int, re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])))]
OLDEST_TORCH = re.search(r"'torch>=([\d.]+)'", str(PROJECT["project"]["dependencies"]))[1] + ".0"


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def steps(workflow: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each step of a workflow with its job."""
    return [(job, step) for job in read_yaml(f".github/workflows/{workflow}")["jobs"].values() for step in job["steps"]]


def pythons(workflow: str) -> set[str]:
    named = {step["with"]["python-version"] for _, step in steps(workflow) if "setup-python" in step.get("uses", "")}
    matrices = {
        version
        for job in read_yaml(f".github/workflows/{workflow}")["jobs"].values()
        for version in job.get("strategy", {}).get("matrix", {}).get("python", ())
    }
    return {version for version in named if not version.startswith("$")} | matrices


def test_workflows_run_supported_pythons_from_the_oldest_to_the_newest() -> None:
    assert SUPPORTED[0] == "3.10" and len(SUPPORTED) > 2
    for workflow in ("tests.yml", "wheels.yml"):
        assert {SUPPORTED[0], SUPPORTED[-1]} <= pythons(workflow) <= set(SUPPORTED)
    wheels = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert wheels == [f"cp{version.replace('.', '')}-*" for version in SUPPORTED]


def test_workflows_make_targets_that_exist_and_all_that_make_test_makes() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    made = {name for _, step in steps("tests.yml") for name in re.findall(r"make ([\w-]+)", step.get("run", ""))}
    (of_test,) = re.findall(r"^test: (.+)$", MAKEFILE, re.MULTILINE)
    assert set(of_test.split()) <= made <= targets


def test_the_oldest_torch_is_one() -> None:
    assert f"\nTORCH = {OLDEST_TORCH}\n" in MAKEFILE
    installed = {t for _, step in steps("wheels.yml") for t in re.findall(r"torch==([\d.]+)", step.get("run", ""))}
    assert installed == {OLDEST_TORCH}


def test_build_requirements_of_make_are_those_of_the_package() -> None:
    (needs,) = re.findall(r"^BUILD_NEEDS = (.+)$", MAKEFILE, re.MULTILINE)
    assert shlex.split(needs) == PROJECT["build-system"]["requires"]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    flags = ("--force-exclude", "make --silent ")  # of a command that is given the files of a commit
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    run = [re.sub("|".join(map(re.escape, flags)), "", hook["entry"]).strip() for hook in hooks.values()]
    assert run == [re.sub(r" (\.|\$\(CXX_FILES\))$", "", command) for command in LINT]
    packages = PROJECT["project"]["optional-dependencies"]["lint"]
    for hook in hooks.values():
        assert set(hook.get("additional_dependencies", ())) <= set(packages), hook["id"]
        assert hook["language"] == "system" or hook["additional_dependencies"]


@pytest.mark.parametrize("form", ["bug.yml", "idea.yml"])
def test_issue_forms_ask_for_what_info_prints(form: str) -> None:
    fields = {field["id"]: field for field in read_yaml(f".github/ISSUE_TEMPLATE/{form}")["body"]}
    assert "`python -m cgcl_fast.info`" in fields["info"]["attributes"]["label"]
    assert all("label" in field["attributes"] for field in fields.values())
    assert fields["what"]["validations"]["required"]


def test_citation_is_of_this_version_and_of_every_methods_paper() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == cgcl_fast.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Homepage"]
    from cgcl_fast.methods.registry import METHODS

    cited = {name.lower() for paper in citation["references"] for name in re.split(r", | and ", paper["notes"])}
    assert cited == set(METHODS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for paper in citation["references"]:
        assert f"{paper['authors'][0]['family-names']} et al., {paper['title']}, " in readme


def test_addresses_are_of_the_repository_in_pyproject() -> None:
    home = PROJECT["project"]["urls"]["Homepage"]
    texts = [*ROOT.glob(".github/**/*.yml"), ROOT / "pyproject.toml", ROOT / "CITATION.cff"]
    found = {address for path in texts for address in re.findall(r"https://github\.com/[\w-]+/\w+", path.read_text())}
    assert found == {home}


def test_image_is_made_of_a_supported_python_and_what_the_build_needs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=(.+)$", text, re.MULTILINE)[1] in SUPPORTED
    for package in PROJECT["build-system"]["requires"]:
        assert f'"{package}"' in text or f" {package}" in text, package
    # What the build reads of the repository is not left out of its context.
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"setup.py", "pyproject.toml", "csrc", "cgcl_fast", PROJECT["project"]["readme"]} <= kept
    assert set(PROJECT["project"]["license-files"]) <= kept
