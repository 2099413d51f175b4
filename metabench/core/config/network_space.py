"""The networks that a search may choose among: which settings of a network are sampled, and when."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, PrivateAttr, SerializationInfo, TypeAdapter, model_serializer, model_validator

from metabench.core.config.network import NetworkConfig
from metabench.core.config.parameters import Choices, Range, Sampled, in_order, is_active

PREFIX = "network."
"""What the names of a network's settings begin with, beside those of an algorithm."""

OPTIONS = "options."
"""What the names of its options begin with, within the network."""

OF_CELL = f"{PREFIX}{OPTIONS}"
"""What the names of a cell's settings begin with."""

NODES = f"{OF_CELL}nodes"

_SETTINGS: TypeAdapter[dict[str, Range | Choices]] = TypeAdapter(dict[str, Sampled])
_OPTIONS: TypeAdapter[Any] = TypeAdapter(dict[Literal["options"], dict[str, Sampled]])


def of_algorithm(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's settings without those of its network."""
    return {name: value for name, value in values.items() if not name.startswith(PREFIX)}


class NetworkSpace(NetworkConfig):
    """A network whose settings may be ranges and choices; its fields hold what is published."""

    grow: list[int] | None = Field(
        None,
        min_length=2,
        description="of cells: how many nodes those have that are proposed, one number after the other",
    )

    _sampled: dict[str, Range | Choices] = PrivateAttr(default_factory=dict)
    _constants: dict[str, Any] = PrivateAttr(default_factory=dict)  # all that is not

    @model_validator(mode="wrap")
    @classmethod
    def _apart(cls, values: Any, handler: Callable[[Any], NetworkSpace]) -> NetworkSpace:
        """Keep what is sampled apart from what is not."""
        if isinstance(values, NetworkSpace):
            return values
        values = values.model_dump() if isinstance(values, NetworkConfig) else values
        if not isinstance(values, Mapping):
            return handler(values)
        options = values["options"] if isinstance(values.get("options"), Mapping) else {}
        of_options = {key: one for key, one in options.items() if _is_sampled(one)}
        sampled = _SETTINGS.validate_python(
            {key: one for key, one in values.items() if key != "options" and _is_sampled(one)}
        )
        parsed = _OPTIONS.validate_python({"options": of_options})["options"]
        constants = {key: one for key, one in values.items() if key not in sampled}
        if of_options:
            constants["options"] = {key: one for key, one in options.items() if key not in of_options}
        sampled |= {f"{OPTIONS}{key}": one for key, one in parsed.items()}
        space = handler(_with(constants, _published(constants, sampled)))
        space._sampled, space._constants = sampled, space._without(sampled)
        return space

    def _without(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return all fields but what is sampled, which is what makes two spaces the same beside it."""
        fields = {key: getattr(self, key) for key in NetworkConfig.model_fields if key not in sampled}
        return {
            **fields,
            "options": {k: v for k, v in self.options.items() if f"{OPTIONS}{k}" not in sampled},
        }

    @model_serializer(mode="wrap")
    def _as_written(
        self, handler: Callable[[Any], dict[str, Any]], info: SerializationInfo
    ) -> dict[str, Any]:
        how: dict[str, Any] = {"mode": info.mode, "exclude_none": info.exclude_none}
        written = {name: one.model_dump(**how) for name, one in self._sampled.items()}
        fields = self._without_defaults(handler)
        return _with({key: one for key, one in fields.items() if key != "grow" or one is not None}, written)

    @property
    def parameters(self) -> dict[str, Range | Choices]:
        """Return what is sampled, by names that no setting of an algorithm has."""
        return _qualified(self._constants, self._sampled)

    @property
    def published(self) -> NetworkConfig:
        """Return the network that is tried first."""
        return NetworkConfig(**{key: getattr(self, key) for key in NetworkConfig.model_fields})

    @property
    def settled(self) -> dict[str, Any]:
        """Return by such names what the network's settings are before anything is sampled."""
        return _settled(self._constants)

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the network of a trial as it may be written.

        Args:
            values: the trial's settings, those of its network by their names among them.
        """
        names = [f"{PREFIX}{name}" for name in self._sampled]
        return _with(
            self._constants, {name.removeprefix(PREFIX): values[name] for name in names if name in values}
        )


def _is_sampled(value: Any) -> bool:
    return isinstance(value, Mapping | Range | Choices)


def _with(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write values into a network's document, options by their dotted names."""
    options = {key.removeprefix(OPTIONS): one for key, one in changes.items() if key.startswith(OPTIONS)}
    whole = {**document, **{key: one for key, one in changes.items() if not key.startswith(OPTIONS)}}
    return {**whole, "options": {**whole.get("options", {}), **options}} if options else whole


def _settled(constants: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: field.default for key, field in NetworkConfig.model_fields.items() if key != "options"}
    options = constants.get("options")
    named = {f"{OPTIONS}{key}": one for key, one in options.items()} if isinstance(options, Mapping) else {}
    values = {**fields, **{key: one for key, one in constants.items() if key != "options"}, **named}
    return {f"{PREFIX}{key}": one for key, one in values.items()}


def _qualified(
    constants: Mapping[str, Any], sampled: Mapping[str, Range | Choices]
) -> dict[str, Range | Choices]:
    """Return parameters by names that no setting of an algorithm has, also in their `when`.

    Among options a `when` speaks of other options, and of what is none, of the network; or by the whole name.
    """
    names = {*_settled(constants), *(f"{PREFIX}{one}" for one in sampled)}
    qualified: dict[str, Range | Choices] = {}
    for name, one in sampled.items():
        inner = f"{PREFIX}{OPTIONS}" if name.startswith(OPTIONS) else PREFIX
        when = {
            next((place for place in (key, f"{inner}{key}") if place in names), f"{PREFIX}{key}"): value
            for key, value in (one.when or {}).items()
        }
        qualified[f"{PREFIX}{name}"] = one.model_copy(update={"when": when or None})
    return qualified


def _published(constants: Mapping[str, Any], sampled: Mapping[str, Range | Choices]) -> dict[str, Any]:
    """Return the defaults of what is sampled then."""
    parameters, values = _qualified(constants, sampled), _settled(constants)
    try:
        order = in_order(parameters)
    except graphlib.CycleError:  # reported with the other conditions
        order = []
    published: dict[str, Any] = {}
    for name in order:
        if is_active(parameters[name], values):
            values[name] = published[name.removeprefix(PREFIX)] = parameters[name].default
    return published
