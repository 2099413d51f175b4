"""The JSON schema of a search space, from which editors complete and check YAML."""

from __future__ import annotations

import dataclasses
from typing import Any

from metabench import algorithms, data, nets
from metabench.core.config import SearchSpace, field_types

JSON_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string"}
KEYWORDS = {"choices": "enum", "minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}
"""Limits of `core.setting` as JSON schema calls them."""


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
    properties = {field.name: _parameter(field, settings) for field in dataclasses.fields(settings)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _parameter(field: dataclasses.Field[Any], settings: type) -> dict[str, Any]:
    kind, limits = JSON_TYPES[field_types(settings)[field.name]], field.metadata
    bounds = {keyword: limits[name] for name, keyword in KEYWORDS.items() if limits[name] is not None}
    if "enum" in bounds:
        bounds["enum"] = list(bounds["enum"])
    ranges = [{"$ref": "#/$defs/Range"}] if kind in ("number", "integer") else []
    return {
        "description": limits["help"],
        "default": field.default,
        "anyOf": [*ranges, {"$ref": "#/$defs/Choices"}, {"type": kind, **bounds}],
    }
