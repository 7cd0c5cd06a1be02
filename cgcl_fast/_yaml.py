"""Reading YAML files of any origin as plain data: a few hundred bytes of YAML can expand beyond any memory.

Accepted are mappings, lists, text, numbers, true, false and null. Rejected are tags, which name other types, and
aliases, which let nested lists grow without bound. Numbers are read as in JSON, so that 1e-3 is one (for PyYAML it is
text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cgcl_fast._files import check_regular

MOST_BYTES = 2**20
DEEPEST = 32
"""Maximum nesting of mappings and lists."""

_FLOAT = (
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_PLAIN = (  # the tag, the pattern of its values, and their first characters
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = self.construct_object(key)
                if name in seen:
                    raise _refused(f"{name!r} stands there twice", key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``_Loader`` would read as something else."""


for _kind in (_Loader, _Dumper):
    for _tag, _pattern, _first in _PLAIN:
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def yaml_of(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        ValueError: it is not YAML, has aliases, tags or duplicate keys, or is nested too deeply; one line.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise _refused("aliases and tags are not read", event.start_mark)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _refused(f"nested more than {DEEPEST} deep", event.start_mark)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _refused(getattr(error, "problem", None) or error, getattr(error, "problem_mark", None)) from error


def _refused(reason: object, mark: Any) -> ValueError:
    return ValueError(" ".join(f"{reason}{f', line {mark.line + 1}' if mark else ''}".split()))


def read_yaml(path: Path, decode: Callable[[bytes], str] = bytes.decode) -> Any:
    """The content of a YAML file.

    Args:
        path: a file of at most ``MOST_BYTES``.
        decode: converts its bytes to text.

    Raises:
        OSError: it cannot be read, or is not a file.
        ValueError: it is too large, or as in :func:`yaml_of`; one line that names it.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 10} KiB")
        return yaml_of(decode(data))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def yaml_text(content: Mapping[str, Any]) -> str:
    """The text that :func:`yaml_of` reads as ``content``, a mapping of plain data without repeated objects."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)
