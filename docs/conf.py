"""The site of the documentation: ``make docs``. Pages are Markdown (MyST); the API is read from the docstrings."""

from __future__ import annotations

import builtins
import inspect
import pkgutil
import re
import sys
import textwrap
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cgcl_fast  # noqa: E402
from benchmarks import report  # noqa: E402
from benchmarks.markdown import table  # noqa: E402
from cgcl_fast.methods import METHODS  # noqa: E402
from cgcl_fast.methods.options import Config, DecayingConfig, expected  # noqa: E402

project = "cgcl_fast"
release = version = cgcl_fast.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = f"cgcl_fast {release}"
html_show_copyright = False
default_role = "code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
nitpicky = True
nitpick_ignore_regex = [("py:class", r"[\w.]+\[\w+")]  # of annotations in quotes


@cache
def results() -> list[tuple[str, dict[str, Any], list[report.Result]]]:
    """All measurements that are committed, the newest first: file, machine, cases."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    read = [(file.name, *report.read(file)) for file in files if '"benchmarks"' in file.read_text()]
    return sorted(read, key=lambda each: str(each[1]["date"]), reverse=True)


def measured(ops: list[str]) -> str:
    """The newest measurements of ops on a CPU and on a GPU, as Markdown."""
    parts = []
    for suite in ("cpu", "cuda"):
        for name, machine, cases in results():
            mine = [case for case in cases if case.op in ops]
            if report.suite(machine) == suite and mine:
                parts += [report.machine_text(machine), report.time_table(machine, mine)]
                parts.append(f"From `benchmarks/results/{name}`.")
                break
    return "\n\n".join(parts) or "Not among the measurements that are committed."


def measured_steps(suite: str) -> str:
    """The newest table of the methods' steps, of `benchmarks.run` ("cpu") or `benchmarks.gpu_step`, as Markdown."""
    make = report.cost_table if suite == "cpu" else report.step_table
    for name, machine, cases in results():
        if report.suite(machine) == suite and (found := make(cases)):
            notes = report.COST_NOTES if suite == "cpu" else report.STEP_NOTES
            return "\n\n".join([report.machine_text(machine), found, notes, f"From `benchmarks/results/{name}`."])
    raise ValueError(f"no result of {suite} in benchmarks/results")


class Measured(SphinxDirective):
    """``measured OP ...``, ``measured steps cpu`` or ``measured steps gpu_step``: tables of benchmarks/results."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        first, *rest = self.arguments[0].split()
        for file in (ROOT / "benchmarks" / "results").glob("*.json"):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes(measured_steps(*rest) if first == "steps" else measured([first, *rest]))


def explanations(kind: type) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each field, by its name."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "") + "\n").partition("\nArgs:\n")
        for entry in re.split(r"\n(?=\w)", textwrap.dedent(section.split("\n\n")[0])):
            names, _, text = entry.partition(": ")
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def rows_of(kind: type) -> dict[str, list[str]]:
    """A row for each option of a method's config, its own before those that most methods have."""
    types, texts = get_type_hints(kind, include_extras=True), explanations(kind)
    shared = [one.name for one in fields(DecayingConfig)]
    return {
        one.name: [f"`--{one.name.replace('_', '-')}`", texts[one.name], f"`{one.default}`", expected(types[one.name])]
        for one in sorted(fields(kind), key=lambda one: one.name in shared)
    }


class Options(SphinxDirective):
    """``options METHOD``: the options of a method, as its config's fields and docstring have them; of one whose config
    is made from another method's, those that are not as there."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = METHODS[self.arguments[0]].Config
        basis = rows_of(kind.__base__) if any(kind.__base__ is other.Config for other in METHODS.values()) else {}
        rows = [row for name, row in rows_of(kind).items() if row != basis.get(name)]
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        return self.parse_text_to_nodes(table(["option", "what it is", "default", "may be"], escaped))


def mend(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read as they are. As reStructuredText, formulas in dollars are mathematics and the
    bars of a norm are no substitutions; what :class:`Options` makes a table of is left out."""
    text = "\n".join(lines)
    if what in ("data", "attribute"):
        text = "..\n\n" + text  # napoleon would take what stands before a colon in the first line for a type
    if inspect.isclass(obj) and issubclass(obj, Config) and obj is not DecayingConfig:
        text = text.partition("\nArgs:")[0]
    parts = re.split(r"(\$\$.+?\$\$|\$[^$\n]+\$|``.+?``|`[^`]+`)", text, flags=re.DOTALL)
    for index, part in enumerate(parts):
        if part.startswith("$$"):
            parts[index] = "\n.. math::\n\n" + textwrap.indent(part.strip("$\n"), "    ") + "\n\n"
        elif part.startswith("$"):
            parts[index] = f":math:`{part.strip('$')}`"
        elif not part.startswith("`"):
            parts[index] = re.sub(r"(?<!\\)\|", r"\\|", part)
    lines[:] = "".join(parts).splitlines()


def without_options(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """No signature of dozens of options, of which there is a table."""
    return ("", None) if inspect.isclass(obj) and issubclass(obj, Config) else None


def find(app: Sphinx, env: BuildEnvironment, node: Any, text: nodes.TextElement) -> nodes.Element | None:
    """A name that is documented under a longer one is linked to it; one that is there but not documented, here or in
    another package, is not linked. Any other one is a mistake in a docstring, of which Sphinx then warns."""
    target, python = node["reftarget"], env.domains["py"]
    if node["refdomain"] != "py":
        return None
    longer = sorted((name for name in python.objects if name.endswith(f".{target}")), key=len)
    if longer:
        return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], longer[0], node, text)
    return text if all(map(exists, target.split(", "))) else None


def exists(name: str) -> bool:
    """Whether a module or a name in it is called so, or what a module of the package imports or defines."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        ours = [module for path, module in sys.modules.items() if path.partition(".")[0] == "cgcl_fast"]
        return any(hasattr(module, name.partition(".")[0]) for module in (builtins, *ours))
    return True


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("measured", Measured)
    app.add_directive("options", Options)
    app.connect("autodoc-process-docstring", mend, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", without_options)
    app.connect("missing-reference", find)
    return {"parallel_read_safe": True}
