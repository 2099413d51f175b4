"""What a reader must know of a leaderboard, in sentences below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metabench.core.metrics import METRICS, Metric
from metabench.leaderboard.rows import BASELINE, PUBLISHED, TUNED
from metabench.leaderboard.scores import ALIKE, IDENTICAL, LEVEL
from metabench.stats import FEW_SEEDS
from metabench.stats.many_settings import LEAST_SETTINGS

Board = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

MOST_NAMED = 8


def title(board: Board) -> str:
    """Name the setting, and say whether it is still running."""
    return setting(board["task"]) + ("" if board["status"] == "finished" else ", still running")


def setting(task: Mapping[str, Any]) -> str:
    """Name data, ways and shots."""
    split = f" ({task['split']})" if task.get("split") else ""
    ways = f"{_count(task['way'])}-way " if task["way"] != 1 else ""
    return f"{task['dataset']}{split}, {ways}{_count(task['shot'])}-shot"


def _count(count: int | Mapping[str, int]) -> str:
    """Write ways or shots: a number, or the range of which each task draws its own."""
    return str(count) if isinstance(count, int) else f"{count['low']}-{count['high']}"


def about(board: Board, common: Sequence[str]) -> str:
    """Say what the numbers are, and where they promise less than they seem to."""
    rows, metric = board["rows"], METRICS[board["metric"]["name"]]
    sentences = ["; ".join([*common, f"protocol: {board['protocol']}"]) + "."]
    sentences += _on_intervals(rows, metric)
    sentences += _on_comparisons(rows)
    if any(row["variant"] == TUNED for row in rows):
        sentences.append("Cost of a tuned row: its whole search; of others: their own runs.")
    if board["status"] != "finished":
        sentences.append(f"Rows without an {metric} show the best meta-validation {metric} so far.")
    again = [_who(row) for row in rows if (row["times_opened"] or 0) > 1]
    if again:
        sentences.append(f"Meta-test was opened more than once for: {_named(again)}.")
    if any(row["variant"] == PUBLISHED for row in rows):
        sentences.append("Published rows are references: not measured here, on other tasks, without a rank.")
    return " ".join(sentences)


def _on_intervals(rows: Rows, metric: Metric) -> list[str]:
    trained = {row["ci_over"] for row in rows if row["ci_over"] and row["seeds"]}
    if not trained:
        return []
    judged = "Accuracy" if metric.unit == "%" else "Mean squared error"
    better = "" if metric.unit == "%" else ", lower is better"
    over = " or ".join(sorted(trained))
    notes = [f"{judged} on meta-test{better}; 95 % intervals over {over}; baselines over tasks."]
    if any(row.get("class_low") is not None for row in rows):
        notes.append('"New classes": the interval for other test classes than these.')
    one = [_who(row) for row in rows if row["seeds"] == 1]
    if one:
        notes.append(f"One seed, whose interval and rank say nothing of training again: {_named(one)}.")
    few = [_who(row) for row in rows if row["seeds"] and 1 < row["seeds"] < FEW_SEEDS]
    if few:
        notes.append(f"Two seeds, whose interval is rough and covers 94 to 99, not 95 %: {_named(few)}.")
    return notes


def _on_comparisons(rows: Rows) -> list[str]:
    best = next((row for row in rows if row.get("rank") is not None and row.get("vs_best") is None), None)
    if best is None:
        return []
    alike = [_who(row) for row in rows if (row.get("vs_best") or {}).get("verdict") == ALIKE]
    if alike:
        return [f"Not distinguishable from {_who(best)} (p < 0.05, Holm): {_named(alike)}."]
    others = [row for row in rows if row.get("vs_best") is not None]
    same = [_who(row) for row in others if row["vs_best"].get("verdict") == IDENTICAL]
    if len(others) == len(same):
        return []
    but = f" but {_named(same)}, which has the same runs" if same else ""
    return [f"{_who(best)} is better than every other row{but} (p < 0.05, Holm)."]


def _who(row: Mapping[str, Any]) -> str:
    return str(row["algorithm"] if row["variant"] == BASELINE else f"{row['algorithm']} {row['variant']}")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def about_settings(ranking: Mapping[str, Any]) -> str:
    """Say what ranks over settings are, and what can be told apart."""
    sentences = [f"{len(ranking['settings'])} settings: {'; '.join(ranking['settings'])}."]
    sentences.append('"≤ 1.1": share of settings in which the error is at most 1.1 times the lowest.')
    if ranking["missing"]:
        sentences.append(f"Left out, since not every setting has them: {', '.join(ranking['missing'])}.")
    tests = ranking["tests"]
    if tests is None:
        sentences.append(f"Too few settings for a test over settings; {LEAST_SETTINGS} are needed.")
        return " ".join(sentences)
    names = [row["name"] for row in ranking["rows"]]
    table = tests["signed_rank_p_holm"]
    pairs = [(a, b) for b in range(len(names)) for a in range(b)]
    apart = [f"{names[a]} > {names[b]}" for a, b in pairs if table[a][b] < LEVEL]
    least = len(pairs) * 2 ** (1 - len(ranking["settings"]))  # of the surest pair, once it is adjusted
    if least >= LEVEL:
        sentences.append(
            f"{len(ranking['settings'])} settings are too few for {len(pairs)} pairs: the surest would have "
            f"p = {least:.2g}."
        )
    listed = ", ".join(apart) or "none"
    sentences.append(f"Told apart over settings (signed ranks, Holm, p < 0.05): {listed}.")
    return " ".join(sentences)
