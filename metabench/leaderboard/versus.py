"""One question on two rows: which is better, by how much, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench import stats
from metabench.core import MetabenchError, metrics
from metabench.core.config.problems import nearest
from metabench.core.metrics import SIGN
from metabench.leaderboard import build
from metabench.leaderboard import folders as reading
from metabench.leaderboard.folders import Run, Search
from metabench.leaderboard.rows import BASELINE
from metabench.leaderboard.scores import ALIKE, Entry, verdict, versus
from metabench.storage import files

Source = Search | Run

SHOWN = ("name", "folder", "seeds", "model", "batch_norm", "config_hash", "code", "opened", "times_opened")


def compare(sources: Sequence[Source], asked: Sequence[str]) -> dict[str, Any]:
    """Compare a row of the first folder with one of the second, or two rows of one folder.

    Args:
        sources: one or two folders.
        asked: names of two rows; without them the best of each, by confirmation or validation, never by test.

    Returns:
        the difference of the first from the second with its intervals and test, and a sentence.
    """
    if len(sources) > 2:
        raise MetabenchError(f"{len(sources)} folders: give two, or one and --rows")
    if len(sources) == 1 and not asked:
        raise MetabenchError(
            f"{sources[0].folder}: give a second folder, or two rows of this one: "
            "--rows maml:tuned,protonet:tuned"
        )
    if asked and len(asked) != 2:
        raise MetabenchError(f"--rows {','.join(asked)}: must name two rows, with a comma between them")
    reading.refuse_mixture(list(sources))
    reading.refuse_copies(list(sources))
    sides = [build.entries([source]) for source in sources]
    sides = sides * 2 if len(sides) == 1 else sides
    metric = reading.metric_of(reading.task_of(sources[0]))
    where = [source.folder for source in sources] * (2 if len(sources) == 1 else 1)
    names = asked or (None, None)
    a, b = (
        _named(side, name, folder) if name else _best(side, metric, folder)
        for side, name, folder in zip(sides, names, where, strict=True)
    )
    if a is b:
        raise MetabenchError(f"--rows {','.join(asked)}: the same row twice")
    found = _answer(a, b, metric, build.design(sources))
    common = {
        "protocol": sources[0].config["protocol"],
        "task": reading.task_of(sources[0]),
        "metric": metric,
    }
    common["chosen_by"] = "name" if asked else "confirmation or validation"
    found = {**common, **found}
    return dict(files.plain({**found, "sentence": sentence(found)}))


def sentence(found: dict[str, Any]) -> str:
    """Say what a comparison found, in words."""
    metric, a, b = found["metric"], found["a"], found["b"]
    difference = found["difference"]
    who = [_told(side, metric) for side in (a, b)]
    if found["verdict"] is None:
        return f"{who[0]} and {who[1]} cannot be compared: a figure is not a number."
    # Seen from the better side, so that the difference and its bounds are gains.
    gain = 1 if difference >= 0 else -1
    better, worse = who if SIGN[metric] * difference >= 0 else who[::-1]
    apart = metrics.gap(metric, difference)
    p = "" if math.isnan(found["p"]) else ", p < 0.001" if found["p"] < 0.001 else f", p = {found['p']:.2g}"
    facts = f"95 % interval over {found['over']} {_bounds(found, 'ci', gain)}{p}; {_basis(found)}"
    if found["verdict"] == ALIKE:
        words = [f"{better} and {worse} are not distinguishable: {apart} apart ({facts})."]
    else:
        words = [f"{better} is better than {worse} by {apart} ({facts})."]
    if found["class_low"] is not None:
        is_sure = found["class_low"] > 0 or found["class_high"] < 0
        on_others = f"interval over {found['class_over']} {_bounds(found, 'class', gain)}"
        words.append(f"On other test classes that {'would' if is_sure else 'may not'} hold: {on_others}.")
    if found["over"] == stats.TASKS and not (a["is_baseline"] and b["is_baseline"]):
        words.append("With one seed, nothing is said of training again.")
    return " ".join(words)


def _answer(a: Entry, b: Entry, metric: str, design: stats.Design | None) -> dict[str, Any]:
    assert a.scored is not None, "or it was refused"
    assert b.scored is not None, "or it was refused"
    compared = versus(a.scored, b.scored)
    trained = (a.scored.is_trained, b.scored.is_trained)
    other = None
    if design is not None:
        other = stats.paired_classes(a.scored.figures, b.scored.figures, design, trained)
    return {
        **{side: _described(entry, metric) for side, entry in (("a", a), ("b", b))},
        "test_tasks": a.scored.figures.shape[1],
        "tasks_hash": a.row["tasks_hash"],
        **compared,
        "class_low": other and other.low,
        "class_high": other and other.high,
        "class_over": other and other.over,
        "verdict": verdict(compared["difference"], compared["p"], metric),
    }


def _described(entry: Entry, metric: str) -> dict[str, Any]:
    row = entry.row
    known = {key: row[key] for key in (*SHOWN, metric, "ci_low", "ci_high", "ci_over")}
    return {**known, "is_baseline": row["variant"] == BASELINE}


def _named(entries: Sequence[Entry], name: str, folder: Path) -> Entry:
    """Find a row by its name, by algorithm and variant, or by an algorithm that has one row."""
    tested = {entry.row["name"]: entry for entry in entries if entry.scored is not None}
    for fits in (
        lambda row: row["name"],
        lambda row: f"{row['algorithm']}:{row['variant']}",
        lambda row: row["algorithm"],
    ):
        found = [entry for entry in tested.values() if fits(entry.row) == name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(entry.row["name"] for entry in found)
            raise MetabenchError(f"--rows {name}: {folder} has several of them: {names}")
    untested = [entry.row["name"] for entry in entries if entry.scored is None]
    if name in untested:
        raise MetabenchError(f"--rows {name}: {folder} has no meta-test result of it yet")
    raise MetabenchError(
        f"--rows {name}: no such row in {folder}.{nearest(name, tested)} "
        f"There are: {', '.join(tested) or 'none with a meta-test result'}"
    )


def _best(entries: Sequence[Entry], metric: str, folder: Path) -> Entry:
    """Choose by what was known before the test: choosing by the test would flatter both sides."""

    def known(entry: Entry) -> float:
        shown = (entry.row[f"{when}_{metric}"] for when in ("confirm", "val"))
        figure = next((one for one in shown if one is not None), None)
        return float("-inf") if figure is None else SIGN[metric] * float(figure)

    tested = [entry for entry in entries if entry.scored is not None and entry.row["variant"] != BASELINE]
    if not tested:
        raise MetabenchError(f"{folder}: has no meta-test result; finish the search, or run `metabench test`")
    confirmed = [entry for entry in tested if entry.row[f"confirm_{metric}"] is not None]
    return max(confirmed or tested, key=known)


def _told(side: dict[str, Any], metric: str) -> str:
    return f"{side['name']} ({metrics.show(metric, side[metric]) or 'unknown'})"


def _basis(found: dict[str, Any]) -> str:
    seeds = [
        "no training" if side["is_baseline"] else f"{side['seeds']} seed{'s' if side['seeds'] != 1 else ''}"
        for side in (found["a"], found["b"])
    ]
    return f"the same {found['test_tasks']:,} tasks; {seeds[0]} against {seeds[1]}"


def _bounds(found: dict[str, Any], which: str, sign: int) -> str:
    low, high = sorted(sign * found[f"{which}_{end}"] for end in ("low", "high"))
    if found["metric"] == "accuracy":
        return f"[{100 * low:+.1f}, {100 * high:+.1f}] points"
    return f"[{metrics.plain(low, '+')}, {metrics.plain(high, '+')}]"
