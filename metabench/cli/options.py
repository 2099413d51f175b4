"""Options of a command that are the fields of a model: name, type, help, default and bounds are the model's.

The models, and the libraries behind them, are only imported when such a command is called or explained.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
OPTION = inspect.Parameter.KEYWORD_ONLY


@dataclass(frozen=True)
class From:
    """Marks a parameter of a command: a dict of those of a model's fields that were typed."""

    model: str  # its name
    fields: tuple[str, ...] = ()  # only these; else all
    names: Mapping[str, str] = field(default_factory=dict)  # of options that are not called as their fields
    help: Mapping[str, str] = field(default_factory=dict)  # by field, in place of the model's
    default: str = ""  # what stands for a field that is not typed, in place of the model's default
    module: str = "metabench.core.config"  # where the model is

    def items(self) -> dict[str, tuple[str, Any]]:
        """Return options to the names of their fields, and what the model says of those."""
        fields = getattr(importlib.import_module(self.module), self.model).model_fields
        return {self.names.get(name, name): (name, fields[name]) for name in self.fields or fields}

    def parameter(self, option: str, name: str, about: Any) -> inspect.Parameter:
        """Return an option as the parameter of a function, for typer to read."""
        kind, shown, choices = _kind(about.annotation)
        limits = [(sign, getattr(one, key, None)) for one in about.metadata for key, sign in SIGNS.items()]
        bounds = ", ".join(f"x{sign}{limit}" for sign, limit in limits if limit is not None)
        text = self.help.get(name) or f"{choices}{about.description}."
        default = self.default or (None if kind == list[str] or about.is_required() else about.default)
        described = typer.Option(
            help=(text if choices else text[0].upper() + text[1:])
            + ("" if default is None else rf" \[default: {default}]"),
            metavar=f"<{shown} range> [{bounds}]" if bounds else f"<{shown}>",
            show_default=False,
        )
        return inspect.Parameter(option, OPTION, default=None, annotation=Annotated[kind | None, described])

    def take(self, values: dict[str, Any]) -> dict[str, Any]:
        """Take what was typed of the fields out of the values of all options."""
        typed = [(name, about, values.pop(option)) for option, (name, about) in self.items().items()]
        return {name: _read(value, about.annotation) for name, about, value in typed if value is not None}


def _kind(annotation: Any) -> tuple[Any, str, str]:
    """Return what typer is to read for a field of a type, how it is called, and the choices there are."""
    from metabench.core.config import COUNT

    if get_origin(annotation) is Literal:
        *names, last = get_args(annotation)
        return str, "str", f"{', '.join(names)} or {last}: "
    if annotation == COUNT:
        return str, "int or LOW-HIGH", ""
    for kind in (int, float, str):
        if annotation in (kind, kind | None):
            return kind, kind.__name__, ""
    return list[str], "key=value", ""


def _read(value: Any, annotation: Any) -> Any:
    """Read a number, or a range LOW-HIGH; anything else stays as it is, for the check to refuse."""
    from metabench.core.config import COUNT

    low, _, high = value.partition("-") if annotation == COUNT else ("", "", "")
    if low.isdecimal() and high.isdecimal():
        return {"low": int(low), "high": int(high)}
    return int(value) if low.isdecimal() and low == value else value


def takes_models(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have parameters that are marked `From`; it must be registered as a `ModelCommand`."""
    parameters = inspect.signature(command, eval_str=True).parameters
    models = {
        name: mark
        for name, parameter in parameters.items()
        for mark in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(mark, From)
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        typed = {name: model.take(values) for name, model in models.items()}
        command(**values, **typed)

    def complete() -> inspect.Signature:
        """Return the signature with the options of models in the place of their parameters."""
        options = {name: [one.replace(kind=OPTION)] for name, one in parameters.items()}
        for name, model in models.items():
            options[name] = [model.parameter(option, *item) for option, item in model.items().items()]
        return inspect.Signature([one for listed in options.values() for one in listed])

    plain = inspect.Signature([one for name, one in parameters.items() if name not in models])
    vars(run).update(complete=complete, __signature__=plain)
    return run


class ModelCommand(TyperCommand):
    """A command some of whose options come from models: they are made when it is called or explained."""

    def __init__(self, **parts: Any) -> None:
        """Leave the options for `__getattr__` to make."""
        super().__init__(**parts)
        del self.params

    def __getattr__(self, name: str) -> Any:
        """Make the options, and what reads them, at their first use."""
        if name != "params":
            raise AttributeError(name)
        command: Any = inspect.getattr_static(self.callback, "__wrapped__")
        command.__signature__ = command.complete()
        app = typer.Typer(add_completion=False)
        app.command()(command)
        full = typer.main.get_command(app)
        self.params, self.callback = full.params, full.callback
        return self.params
