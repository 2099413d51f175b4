"""What `metabench label` prints: accuracy at each number of labels, and what asking well gained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench.acquisition import REFERENCE, table
from metabench.acquisition.config import LabelConfig
from metabench.api import labelling
from metabench.api.bar import plain_console
from metabench.cli.base import bare_table, print_json, print_table
from metabench.core.config import validated


def label(
    folders: Sequence[Path],
    acquire: Sequence[str],
    typed: Mapping[str, Any],
    reach: float,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Score runs while acquisitions ask for labels, and print a row for each."""
    config = validated(LabelConfig, typed)
    labels = labelling.label_into(
        folders, acquire or labelling.ACQUIRE, config, out, reach, device, plain_console(as_json)
    )
    if as_json:
        print_json({"folder": labels.folder, "rows": [table.flat(row) for row in labels.rows]})
        return
    shown = bare_table(
        "acquire", *(f"{n} labels" for n in labels.record["labels"]), f"gain over {REFERENCE}", "p", "wasted"
    )
    several = len({row["run"] for row in labels.rows}) > 1
    for row in labels.rows:
        name = f"{row['run']} {row['acquire']}" if several else row["acquire"]
        accuracy = [f"{100 * one.mean:.1f}" for one in row["accuracy"]]
        shown.add_row(name, *accuracy, *_gain(row), f"{row['wasted']:.0%}")
    print_table(shown, *_words(labels, reach))


def _gain(row: Mapping[str, Any]) -> tuple[str, str]:
    """Show what a row gains over the whole curve, and how sure that is among all."""
    if row["p_holm"] is None:
        return "", ""
    difference, low, high = (100 * one for one in row["area_gain"][:3])
    return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]", table.shown_p(row["p_holm"])


def _words(labels: labelling.Labels, reach: float) -> Iterator[str]:
    """Say below the table what it means, and where the rest is."""
    yield (
        f"accuracies in percent over {labels.record['config']['tasks']} tasks; gains are of the mean over "
        "all numbers of labels, in points, paired, with 95 % intervals over tasks; p is adjusted for all rows"
    )
    sure = [row for row in labels.rows if table.is_sure(row)]
    if not sure:
        yield f"none is surely ahead of {REFERENCE}, or behind"
    for row in labels.rows:
        if row["labels_to_reach"] is not None:
            yield f"{row['acquire']}: {row['labels_to_reach']} labels to reach {reach:.0%} ({row['run']})"
    yield f"{labels.folder}: by label count, by task and as a picture"
