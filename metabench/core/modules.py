"""Code of a user's own, by `package.module:name`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from metabench.core import MetabenchError
from metabench.core.config import nearest

FORM = "package.module:name"


def load_object(spec: str, setting: str) -> Any:
    """Import what `package.module:name` names, which must be callable, or say what is wrong.

    Args:
        setting: what to call it in a message.
    """
    loaded = import_object(spec, setting)
    if not callable(loaded):
        kind = type(loaded).__name__
        raise MetabenchError(f"{setting}={spec!r}: is {kind}; it must be a function or a class")
    return loaded


def import_object(spec: str, setting: str) -> Any:
    """Import what `package.module:name` names, of whatever type."""
    module_name, colon, name = (word.strip() for word in spec.partition(":"))
    where = f"{setting}={spec!r}"
    if not (colon and all(map(str.isidentifier, [*name.split("."), *module_name.split(".")]))):
        raise MetabenchError(f"{where}: must be {FORM}, such as my_package.parts:make")
    loaded = module = _import(module_name, where)
    for part in name.split("."):  # Class.method, too
        if not hasattr(loaded, part):
            public = [one for one in dir(loaded) if not one.startswith("_")]
            place = getattr(module, "__file__", None) or "a folder without __init__.py"
            raise MetabenchError(f"{where}: {module_name} ({place}) has no {name!r}.{nearest(part, public)}")
        loaded = getattr(loaded, part)
    return loaded


def _import(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise MetabenchError(f"{where}: {_missing(error.name)}") from None
        raise MetabenchError(f"{where}: {_raised(name, error)}") from error
    except (Exception, SystemExit) as error:  # whatever a module does that is imported
        raise MetabenchError(f"{where}: {_raised(name, error)}") from error


def _missing(name: str) -> str:
    parent, _, last = name.rpartition(".")
    folders = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else sys.path
    if parent and not folders:
        return f"{parent} is a module, not a package: it holds no {last!r}"
    modules = [one.name for one in pkgutil.iter_modules(folders)]
    guess = nearest(last, modules)
    cure = "install its package, or name the folder that holds it in PYTHONPATH"
    return f"no module {name!r}.{guess} Looked in {_listed(folders)}; {cure}"


def _listed(folders: Iterable[str]) -> str:
    return ", ".join(folder or "the folder of work" for folder in folders)


def _raised(name: str, error: BaseException) -> str:
    """Say what a module raised, and in which line."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"importing {name} raised {type(error).__name__}: {text} ({place})"
