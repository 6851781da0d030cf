"""YAML text to plain data, with the environment's values put in, and the line of every setting.

The environment is put into scalars after the text is parsed, so what a variable holds stays one string whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

Place = tuple[str | int, ...]

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
_TEXT_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp")}
_VARIABLE = re.compile(r"\$\$|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")


@dataclass
class Source:
    """`data` as parsed; `lines` of every setting, counted from 1; `problems` by place, in the order of the text."""

    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)


def parse(text: str, environment: Mapping[str, str]) -> Source:
    """Never raises for what the text holds: a syntax error is a problem with its line, too."""
    source = Source()
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            source.data = _value(loader, node, (), (), source, environment)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            source.lines[()] = mark.line + 1
        source.problems.append(((), f"not YAML: {error.problem or error.context}"))
    except yaml.YAMLError as error:
        source.problems.append(((), f"not YAML: {str(error).splitlines()[0]}"))
    return source


def _value(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    place: Place,
    parents: tuple[yaml.Node, ...],
    source: Source,
    environment: Mapping[str, str],
) -> Any:
    source.lines.setdefault(place, node.start_mark.line + 1)
    if node in parents:
        source.problems.append((place, "an alias must not contain itself"))
        return None
    parents = (*parents, node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*place, index), parents, source, environment) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, item in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            inside = (*place, name)
            source.lines[inside] = key.start_mark.line + 1
            if not name or key.tag == "tag:yaml.org,2002:merge":
                source.problems.append((place, "names must be plain words"))
            elif name in mapping:
                source.problems.append((inside, "is given twice"))
            else:
                mapping[name] = _value(loader, item, inside, parents, source, environment)
        return mapping
    if node.tag in _PLAIN_TAGS:
        return loader.construct_object(node)
    if node.tag not in _TEXT_TAGS:
        source.problems.append((place, f"the tag {node.tag} is not supported"))
    return _substituted(node.value, place, source, environment)


def _substituted(text: str, place: Place, source: Source, environment: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match["name"], match["default"]
        if name is None:
            source.problems.append((place, "${ is no variable; write ${NAME}, ${NAME:-default}, or $${ for the characters"))
        elif value := environment.get(name) or default:
            return value
        elif default is None and name not in environment:
            source.problems.append((place, f"the environment variable {name} is not set; set it or give a default, ${{{name}:-…}}"))
        return ""

    return _VARIABLE.sub(replacement, text)
