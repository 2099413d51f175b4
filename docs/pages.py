"""The reference pages: commands from the command line itself, settings from the schema that checks a space.

A page says where with a line such as `<!-- the commands -->`; docstrings need no page of their own.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer.main
import yaml

from metabench.cli import app as command_line
from metabench.search import space as spaces

FIELD = re.compile(r"^    (?P<name>[a-z]\w*): [^#]*?(?:  # (?P<what>.*))?$")
MOVED = {"../benchmarks/RESULTS.md": "results.md"}
"""Addresses that are right where a page is read in the repository, to those of the site."""


def fill(app: Any, page: str, source: list[str]) -> None:
    """Put what the code says into a page."""
    for address, other in MOVED.items():
        source[0] = source[0].replace(f"]({address})", f"]({other})")
    for mark, write in MARKS.items():
        line = f"<!-- {mark} -->"
        if line in source[0]:
            source[0] = source[0].replace(line, "\n".join(write()))


def describe(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make a docstring safe to read as reStructuredText, and add what is said beside a tuple's fields."""
    lines[:] = [_escaped(line) for line in lines]
    if what == "class" and hasattr(thing, "_fields"):
        matches = map(FIELD.match, inspect.getsource(thing).splitlines())
        texts = {match["name"]: match["what"] for match in matches if match and match["what"]}
        lines += ["", *(f"* ``{key}``: {_escaped(text)}" for key, text in texts.items())] if texts else []
        lines.append("")


def is_left_out(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Python writes of itself, such as the fields of a tuple, one by one."""
    doc = getattr(thing, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") or name == "model_config" else None


def _escaped(line: str) -> str:
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*|])", r"\\\1", part) for part in parts)


def commands() -> Iterator[str]:
    """Describe every command with its arguments and options."""
    yield from _command("metabench", typer.main.get_command(command_line), True)


def _command(name: str, command: Any, is_root: bool = False) -> Iterator[str]:
    below = getattr(command, "commands", {})
    if not is_root:
        kinds = get_type_hints(inspect.unwrap(command.callback))
        shown = [one for one in command.params if one.name != "help"]
        words = [_argument(one) for one in shown if one.param_type_name == "argument"]
        yield f"## {name}\n"
        yield f"```text\n{' '.join([name, *(['COMMAND'] if below else words), '[OPTIONS]'])}\n```\n"
        yield f"{_text(command.help)}\n"
        if shown:
            yield "| | | | default |\n|---|---|---|---|"
            # What is made from a model stands in no signature.
            yield from (_parameter(o, kinds.get(o.name, o.type_descriptor.annotation)) for o in shown)
        yield "\n"
    for word, one in below.items():
        yield from _command(f"{name} {word}", one)


def _argument(parameter: Any) -> str:
    return parameter.name.upper() + ("..." if parameter.nargs == -1 else "")


def _parameter(parameter: Any, kind: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = f"`{_argument(parameter)}`" if is_argument else ", ".join(f"`{one}`" for one in parameter.opts)
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    shown = "needed" if parameter.required else default
    return f"| {names} | {_type(kind)} | {_cell(parameter.help)} | {shown} |"


def _type(kind: Any) -> str:
    """Say in words what may be typed."""
    inside = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in inside)
    if get_origin(kind) is list:
        return f"{_type(inside[0])}, may be repeated"
    if inside:
        return _type(inside[0])
    return {str: "text", Path: "path", int: "whole number", float: "number", bool: ""}[kind]


def models() -> Iterator[str]:
    """Describe the parts of a search space that are the same for every algorithm."""
    schema = spaces.schema()
    yield "### The file\n"
    yield from _table(schema)
    named = re.findall(r"#/\$defs/(\w+)", json.dumps(schema["properties"]))
    for name in dict.fromkeys([*named, *schema["$defs"]]):
        part = schema["$defs"][name]
        yield f"### {name}\n"
        yield _text(part.get("description")) + "\n"
        yield from _table(part)


def settings() -> Iterator[str]:
    """Describe the settings of every algorithm; those that all have come once, first."""
    blocks = spaces.schema()["properties"]["algorithms"]["properties"]
    rest = [block["properties"] for block in blocks.values() if block["properties"]]
    common = {key: value for key, value in rest[0].items() if all(one.get(key) == value for one in rest)}
    yield "### All algorithms that learn\n"
    yield from _table({"properties": common})
    for name, block in blocks.items():
        yield f"### {name}\n"
        properties = {key: value for key, value in block["properties"].items() if key not in common}
        yield from _table({"properties": properties}) if properties else ["None of its own.\n"]


def _table(block: dict[str, Any]) -> Iterator[str]:
    if not block.get("properties"):
        return
    yield "| key | may be | default | |\n|---|---|---|---|"
    needed = block.get("required", ())
    for name, value in block["properties"].items():
        default = value.get("default", "")
        said = "as there" if isinstance(default, dict) else f"`{_yaml(default)}`" if default != "" else ""
        shown = "needed" if name in needed else said
        yield f"| `{name}` | {_kind(value)} | {shown} | {_cell(value.get('description'))} |"
    yield "\n"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _kind(value: dict[str, Any]) -> str:
    """Say in words what a value may be."""
    if "$ref" in value:
        name = value["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(map(_kind, value["anyOf"])))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_yaml(one)}`" for one in value.get("enum", [value.get("const")]))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    inside = f" of {_kind(value['items'])}" if value.get("items") else ""
    return ", ".join([value.get("type", "anything") + inside, *limits])


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str | None) -> str:
    return _text(text).replace("|", "\\|")


MARKS: dict[str, Callable[[], Iterator[str]]] = {
    "the commands": commands,
    "the parts of a search space": models,
    "the settings of the algorithms": settings,
}
