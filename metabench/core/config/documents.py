"""YAML files as people write them: from the first byte to plain values, or one message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from metabench.core import MetabenchError
from metabench.core.config import refusal

LARGEST = 2**20
"""Bytes of a file."""

MOST_VALUES = 5_000
"""Keys and values of a space, each alias counted as what it stands for: a few lines of them make billions."""

DEEPEST = 50
"""Levels of lists and mappings within each other."""

DIGITS = 18
"""Of a whole number; arithmetic with longer ones leaves 64 bits, or floats."""


class Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 read as the number that YAML 1.2 says it is, and numbers of some size."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number that 64 bits hold."""
        if len(str(node.value)) > 4 * DIGITS or abs(number := super().construct_yaml_int(node)) >= 10**DIGITS:
            problem = f"a whole number of more than {DIGITS} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)

KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")

WORDS: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""A loader whose scalars all stay words: class 01 is not class 1."""


def read_yaml(
    path: Path, loader: Any = Loader, largest: int = LARGEST, most: int = MOST_VALUES
) -> tuple[Any, list[str]]:
    """Read one YAML document, and list the keys in it that stand twice.

    Args:
        largest, most: bytes of a file, and keys and values in it.
    """
    text = _read_text(path, largest)
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if node is None:
                return None, []
            no_words, twice = _check(node, most)  # first: construction writes what `<<` merges into the nodes
            if no_words:
                raise refusal(path, no_words + twice)
            return reader.construct_document(node), twice
        finally:
            reader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise MetabenchError(f"{path}:{place} not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise MetabenchError(f"{path}: not YAML: character U+{code:04X} is not allowed in text") from None
    except RecursionError:
        raise MetabenchError(f"{path}: lists or mappings stand in each other too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        # What a value that is no number or no date makes of the loader.
        raise MetabenchError(f"{path}: not YAML: a value cannot be read: {error}") from None


def as_document(value: Any, where: str) -> Any:
    """Return Python's values as a file of YAML would have them, or refuse what no file has.

    Args:
        where: what to call the value in a message.
    """
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise MetabenchError(f"{where}: key {strange[0]!r} is no word; put it in quotes")
        return {key: as_document(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_document(item, where) for item in value]
    if hasattr(value, "item"):  # a number of numpy's or torch's
        value = value.item()
    if isinstance(value, PurePath):
        return str(value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise MetabenchError(
            f"{where}: is of type {type(value).__name__}; give a number, a word, a boolean, a list or a dict"
        )
    return value


def _read_text(path: Path, largest: int) -> str:
    try:
        if path.exists() and not path.is_file() and path.parts[:2] != ("/", "dev"):
            raise MetabenchError(f"{path}: is no file; give one of YAML")
        with path.open("rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise MetabenchError(
                f"{path}: is larger than {largest / 2**20:g} MB, which nobody writes by hand"
            )
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise MetabenchError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise MetabenchError(
            f"{path}: cannot be read as text: byte {error.start} is no UTF-8; save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MetabenchError(f"{path}: cannot be read as text: {reason}") from None


def _check(root: yaml.Node, most: int) -> tuple[list[str], list[str]]:
    """List keys that are no words, and that stand twice; refuse what is too deep or much, or holds itself."""
    no_words: list[str] = []
    twice: list[str] = []
    counts: dict[int, int] = {}  # of nodes that were looked through

    def count(node: yaml.Node, path: tuple[str, ...], depth: int) -> int:
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(None, None, f"more than {DEEPEST} levels", node.start_mark)
        if (known_size := counts.get(id(node))) == 0:
            raise yaml.MarkedYAMLError(
                None, None, "an alias stands within what it stands for", node.start_mark
            )
        if known_size is not None:
            return known_size
        counts[id(node)] = 0
        size = 1
        if isinstance(node, yaml.MappingNode):
            for lines, more in zip((no_words, twice), _keys(node, path), strict=True):
                lines += more
            for key, value in node.value:
                size += 1 + count(value, (*path, str(key.value)), depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(count(value, path, depth + 1) for value in node.value)
        if size > most:
            raise yaml.MarkedYAMLError(None, None, f"more than {most} values", node.start_mark)
        counts[id(node)] = size
        return size

    count(root, (), 0)
    return no_words, twice


def _keys(node: yaml.MappingNode, path: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """List what of a mapping's keys is no word, and which stand twice."""
    no_words, twice = [], []
    seen: set[str] = set()
    for key, _ in node.value:
        line, where = f"line {key.start_mark.line + 1}", ".".join(path) or "the file"
        if not isinstance(key, yaml.ScalarNode):
            no_words.append(f"{where}: a key in {line} is a list or mapping; a key must be a word")
        elif key.tag not in KEYS:
            no_words.append(f"{where}: key {key.value} in {line} is no word; put it in quotes")
        elif key.value in seen:
            twice.append(f"{'.'.join((*path, key.value))}: the key stands twice (again in {line})")
        else:
            seen.add(key.value)
    return no_words, twice
