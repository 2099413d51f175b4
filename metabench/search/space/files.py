"""YAML files as users write them: read with the place of each mistake, without Python objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from metabench.core import MetabenchError


class Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 read as the number that YAML 1.2 says it is."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """Read one YAML document and list the keys that stand in it twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MetabenchError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MetabenchError(f"{path}: cannot be read as text: {error}") from None
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        twice = _duplicates(node, ())  # first: construction writes what `<<` merges into the nodes
        document = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise MetabenchError(f"{path}:{place} not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MetabenchError(f"{path}: not YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(document, dict):
        raise MetabenchError(f"{path}: must be a mapping of keys to values, not {type(document).__name__}")
    return document, twice


def _duplicates(node: yaml.Node | None, path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    seen: set[str] = set()
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if key.value in seen:
                lines.append(
                    f"{'.'.join(here)}: the key stands twice (again in line {key.start_mark.line + 1})"
                )
            seen.add(str(key.value))
            lines += _duplicates(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            lines += _duplicates(value, path)
    return lines
