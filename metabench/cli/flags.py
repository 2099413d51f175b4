"""What was typed, as configuration: values of the right type, and all that is wrong with them together."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import algorithms, data
from metabench.api import describe
from metabench.core import MetabenchError
from metabench.core.config import (
    AugmentConfig,
    RunConfig,
    Scalar,
    TaskConfig,
    attempt,
    field_types,
    parse_pairs,
    parse_settings,
    validated,
)

PAIRS = {
    "hyperparameters": "--set",
    "options": "--option",
    "augment": "--distort",
    "network.options": "--network-option",
}
"""Settings that are typed as key=value, to their flags."""


def describe_task(name: str, split: str | None, pairs: Sequence[str], **shape: Any) -> TaskConfig:
    """Describe a task of a data set, by its name, its named split and its options."""
    options = parse_settings(data.get(name).options, pairs, "--option")
    return validated(
        TaskConfig, {"dataset": data.canonical(name), "split": split, "options": options, **shape}
    )


def describe_run(
    task: Mapping[str, Any],
    network: Mapping[str, Any],
    run: Mapping[str, Any],
    settings: Sequence[str],
    n_reports: int | None,
    recorded: RunConfig | None = None,
) -> RunConfig:
    """Build a run's configuration from what was typed, as `describe.describe_run` does."""
    before = (None, None) if recorded is None else (recorded.algorithm, recorded.task.dataset)
    kinds = {
        "hyperparameters": _types(algorithms, run.get("algorithm", before[0]), "hparams"),
        "options": _types(data, task.get("dataset", before[1]), "options"),
        "augment": {key: field.annotation for key, field in AugmentConfig.model_fields.items()},
    }
    pairs = {"hyperparameters": settings, "options": (), "augment": (), **task}
    wrong: list[str] = []
    values = {}
    for key, its in kinds.items():
        values[key], unpaired = parse_pairs(its, pairs[key])
        wrong += [f"{key}.{line}" for line in unpaired]
    h = values.pop("hyperparameters")
    if "options" in network:
        parsed, unpaired = parse_pairs({}, network["options"])
        wrong += [f"network.options.{line}" for line in unpaired]
        network = {**network, "options": {key: _scalar(text) for key, text in parsed.items()}}
    config = attempt(wrong, describe.describe_run, {**task, **values}, network, run, h, n_reports, recorded)
    if wrong or config is None:
        with typed():
            raise MetabenchError("\n".join(wrong))
    return config


def _scalar(text: str) -> Scalar:
    """Read a value whose type nobody says: a number, true or false, or a word."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Write lines about settings as they are typed."""
    try:
        yield
    except MetabenchError as error:
        pattern = rf"^({'|'.join(PAIRS)})\."
        text = re.sub(pattern, lambda start: f"{PAIRS[start[1]]} ", str(error), flags=re.MULTILINE)
        raise MetabenchError(text.replace("`options`", "`option`")) from None


def read_options(place: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Read what was typed of the options of a data set, or of the folder that is at a place."""
    name = str(place) if attempt([], data.get, str(place)) else "folder"
    options, unpaired = parse_pairs(_types(data, name, "options"), task.get("options", ()))
    if unpaired:
        raise MetabenchError("\n".join(f"--option {line}" for line in unpaired))
    return {**task, **({"options": options} if options else {})}


def _types(registry: Any, name: str | None, what: str) -> dict[str, Any]:
    """Return the types of the settings of an algorithm or a data set; none of one that is not there."""
    is_there = name is not None and attempt([], registry.get, name) is not None
    return field_types(getattr(registry.get(name), what)) if is_there else {}
