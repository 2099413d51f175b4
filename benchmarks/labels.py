"""What asking for labels well is worth: one ProtoNet on Omniglot, all acquisitions, four kinds of pools.

Run it as `python benchmarks/labels.py`; METABENCH_DATA names the folder of Omniglot's archives. It goes on
where it was stopped, and prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import metabench as mb
from metabench import acquisition
from metabench.acquisition import table

POOLS: Mapping[str, dict[str, Any]] = {
    "5 classes of distractors": {"distractors": 5},
    "skewed, 10 : 1": {"skew": 10.0},
    "from no label on": {"start": 0, "batch": 2},
    "balanced": {},
}


def main() -> None:
    """Train, ask and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/labels"), help="folder of the run and of all labels"
    )
    parser.add_argument("--train", type=int, default=6000, help="meta-train tasks")
    parser.add_argument("--tasks", type=int, default=600, help="frozen meta-test tasks")
    asked = parser.parse_args()
    run = mb.train(
        "protonet", "omniglot", way=5, shot=1, query=5, width=32, seed=0, tasks=asked.train,
        validation_tasks=200, reports=5, out=asked.out / "protonet",
    )  # fmt: skip
    # What is learnt takes as long as all the others, and comes last.
    for is_learnt in (False, True):
        for number, (name, settings) in enumerate(POOLS.items()):
            rules = {one: acquisition.get(one) for one in acquisition.names()}
            names = [
                one
                for one, rule in rules.items()
                if (settings.get("start", 1) or not rule.needs_labels) and (is_learnt or rule.learns is None)
            ]
            folder = asked.out / f"pool{number}"
            labels = mb.label(run, names, out=folder, tasks=asked.tasks, pool=10, rounds=5, **settings)
            show(name, labels)


def show(name: str, labels: mb.Labels) -> None:
    """Print a table of one pool."""
    print("| pool | acquisition | 0 asked | 1st round | 3rd | 5th | gain over random, points | p | wasted |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for row in labels.rows:
        at = [f"{100 * row['accuracy'][number].mean:.1f}" for number in (0, 1, 3, 5)]
        gain = row["area_gain"]
        shown = [f"{100 * gain.difference:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"]
        shown = ["", ""] if row["p_holm"] is None else [*shown, table.shown_p(row["p_holm"])]
        print("|", " | ".join([name, row["acquire"], *at, *shown, f"{row['wasted']:.0%}"]), "|")


if __name__ == "__main__":
    main()
