"""The JSON schema of a search space, from which editors complete and check YAML."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from metabench import algorithms, data, nets
from metabench.core.config import SearchSpace

JSON_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string"}


def schema() -> dict[str, Any]:
    """Build the JSON schema of a search space with the names and settings that exist."""
    result = SearchSpace.model_json_schema()
    result = {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
    definitions = result["$defs"]
    definitions["TaskConfig"]["properties"]["dataset"]["enum"] = data.names()
    definitions["NetworkConfig"]["properties"]["name"]["enum"] = sorted(nets.NETWORKS)
    blocks = {name: _block(algorithms.get(name).hparams) for name in algorithms.names()}
    shared = {key: value for block in blocks.values() for key, value in block["properties"].items()}
    properties = result["properties"]
    properties["shared"] |= {"properties": shared, "additionalProperties": False}
    labelled = {rf"^{name}\.[a-z0-9_]+$": block for name, block in blocks.items()}
    properties["algorithms"] |= {
        "properties": blocks,
        "patternProperties": labelled,
        "additionalProperties": False,
    }
    return result


def _block(settings: type) -> dict[str, Any]:
    kinds = get_type_hints(settings)
    fields = dataclasses.fields(settings)
    properties = {field.name: _parameter(field, kinds[field.name]) for field in fields}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _parameter(field: dataclasses.Field[Any], kind: type) -> dict[str, Any]:
    limits = field.metadata
    constant: dict[str, Any] = {"type": JSON_TYPES[kind]}
    if limits["choices"] is not None:
        constant["enum"] = list(limits["choices"])
    for name, keyword in {"minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}.items():
        if limits[name] is not None:
            constant[keyword] = limits[name]
    ranges = [{"$ref": "#/$defs/Range"}] if kind in (float, int) else []
    return {
        "description": limits["help"],
        "default": field.default,
        "anyOf": [*ranges, {"$ref": "#/$defs/Choices"}, constant],
    }
