"""Compare the space that `search --time` chooses with the tutorial's, written by hand, at equal time.

The tutorial's space is searched first, on each data set, and the time that it took is what `--time` gets. The
best tuned learner of each, by its confirmation, is then asked the same meta-test tasks. A search that is
there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from metabench import data
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen
from metabench.predict.members import open_members
from metabench.training import evaluate, run

ROOT = Path(__file__).parents[1]

OPTIONS: Mapping[str, Mapping[str, Any]] = {"omniglot": {}, "quickdraw": {"examples_per_class": 25}}
"""Data sets, and options of them: the drawings of each class that all of Quick, Draw!'s have here."""

TEST_TASKS = 1000


def written_by_hand() -> dict[str, Any]:
    """Read the space that the tutorial tells people to write."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (space,) = map(yaml.safe_load, blocks)
    return dict(space)


def search(words: list[str], folder: Path) -> float:
    """Search from the command line, unless it is done; return the seconds from the first to the last word."""
    record = folder.parent / f"{folder.name}.json"
    if record.exists():
        return float(json.loads(record.read_text())["seconds"])
    load, begun = os.getloadavg()[0], time.monotonic()
    command = [sys.executable, "-m", "metabench", "search", *words, "--out", str(folder.parent)]
    subprocess.run([*command, "--name", folder.name], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    record.write_text(json.dumps({"seconds": seconds, "load": [load, os.getloadavg()[0]]}))
    return seconds


def scores(folder: Path, task: TaskConfig) -> tuple[str, NDArray[np.float64]]:
    """Return the best tuned row of a search by confirmation, and its accuracy on each meta-test task."""
    splits = data.load(task)
    tasks = frozen.frozen(splits, "meta_test", task, TEST_TASKS, "test")
    members = open_members(folder, None, "cpu")
    tested = [
        evaluate.test(run.open_run(path, splits).model, splits.meta_test.images, tasks).alone
        for path in members.folders
    ]
    return f"{members.row}, {len(tested)} seeds", np.mean(tested, axis=0)


def main() -> None:
    """Search both ways on each data set, and print accuracies and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/automatic"))
    parser.add_argument("--seeds", type=int, default=3, help="of the space that is written by hand")
    parser.add_argument("--datasets", nargs="+", choices=[*OPTIONS], default=[*OPTIONS])
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.datasets:
        space = written_by_hand()
        space["task"] = {**space["task"], "dataset": name, "options": dict(OPTIONS[name])}
        path = chosen.out / f"{name}.yaml"
        path.write_text(yaml.safe_dump(space))
        by_hand, automatic = (chosen.out / f"{name}-{way}" for way in ("by_hand", "automatic"))
        taken = search([str(path), "--seeds", str(chosen.seeds)], by_hand)
        pairs = [word for key, value in OPTIONS[name].items() for word in ("--option", f"{key}={value}")]
        kept = search([name, "--time", f"{taken:.0f}s", *pairs], automatic)
        task = TaskConfig(dataset=name, options=dict(OPTIONS[name]))
        (hand_row, hand), (auto_row, auto) = scores(by_hand, task), scores(automatic, task)
        gain = 100 * (auto - hand)
        error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
        print(
            f"{name}: by hand {100 * hand.mean():.1f} % ({hand_row}) in {taken:.0f} s; automatic "
            f"{100 * auto.mean():.1f} % ({auto_row}) in {kept:.0f} s; gain {gain.mean():+.1f} "
            f"[{gain.mean() - error:+.1f}, {gain.mean() + error:+.1f}] points over {len(gain)} tasks",
            flush=True,
        )


if __name__ == "__main__":
    main()
