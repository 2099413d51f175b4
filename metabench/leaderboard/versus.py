"""One question on two rows: which is better, by how much, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metabench.leaderboard as leaderboard
from metabench import stats
from metabench.core import MetabenchError, metrics
from metabench.core.config import nearest
from metabench.core.metrics import METRICS, Metric
from metabench.leaderboard import notes
from metabench.leaderboard.folders import Run, Search, refuse_mixture
from metabench.leaderboard.rows import BASELINE, place, short_name
from metabench.leaderboard.scores import (
    ALIKE,
    IDENTICAL,
    Entry,
    Others,
    Row,
    Scored,
    interval_of,
    tests,
    verdict,
    with_results,
)
from metabench.storage import files

NETWORKS = "networks"
SETTINGS = "settings"
"""What a comparison is about: with one seed on a trained side, not of how it was trained."""

SHOWN = ("name", "folder", "seeds", "model", "batch_norm", "config_hash", "code", "opened", "times_opened")


def compare(sources: Sequence[Search | Run], asked: Sequence[str]) -> dict[str, Any]:
    """Compare a row of the first folder with one of the second, or two rows of one folder.

    Args:
        sources: one or two folders.
        asked: names of two rows; without them the best of each, by confirmation or validation, never by test.

    Returns:
        the difference of the first from the second with its intervals and tests, `verdict` as on the board of
        these folders and `verdict_alone`, and a sentence.
    """
    if len(sources) > 2:
        raise MetabenchError(f"{len(sources)} folders: give two, or one and `rows`")
    if len(sources) == 1 and not asked:
        raise MetabenchError(
            f"{sources[0].folder}: give a second folder, or two rows of this one: "
            "`rows` maml:tuned,protonet:tuned"
        )
    if asked and len(asked) != 2:
        raise MetabenchError(f"`rows` {','.join(asked)}: must name two rows, with a comma between them")
    refuse_mixture(sources)
    metric = sources[0].metric
    sides = [(leaderboard.entries([source]), source.folder) for source in sources]
    if asked:
        a, b = (_named(*side, name) for side, name in zip((sides[0], sides[-1]), asked, strict=True))
    else:
        a, b = (_best(*side, metric) for side in sides)
    if a[0] is b[0]:
        raise MetabenchError(f"`rows` {','.join(asked)}: the same row twice")
    _tell_apart(a[0], b[0])
    board = [scores for entries, _ in sides for _, scores in with_results(entries)]
    answer = {
        "protocol": sources[0].config["protocol"],
        "task": sources[0].task,
        "metric": metric.name,
        "chosen_by": "name" if asked else "confirmation or validation",
        **_answer(a, b, board, metric, leaderboard.design(sources)),
    }
    return dict(files.plain({**answer, "sentence": sentence(answer)}))


def sentence(answer: dict[str, Any]) -> str:
    """Say what a comparison says, in words."""
    metric = METRICS[answer["metric"]]
    a, b, difference = (answer[key] for key in ("a", "b", "difference"))
    who = [f"{side['name']} ({metrics.show(metric, side[metric.name]) or 'unknown'})" for side in (a, b)]
    if answer["verdict"] is None:
        return f"{who[0]} and {who[1]} cannot be compared: a figure is not a number."
    if answer["verdict"] == IDENTICAL:
        return f"{who[0]} and {who[1]} have the very same results."
    # Seen from the better side, so that the difference and its bounds are gains.
    gain = 1 if difference >= 0 else -1
    better, worse = who if metric.sign * difference >= 0 else who[::-1]
    apart, is_alike = metrics.gap(metric, difference), answer["verdict"] == ALIKE
    about_networks = answer["about"] == NETWORKS
    facts = (
        f"95 % interval over {answer['over']} {_bounds(answer, 'ci', gain)}{_tests(answer)}; {_basis(answer)}"
    )
    if is_alike:
        words = [f"{better} and {worse} are not distinguishable: {apart} apart ({facts})."]
        if answer["verdict_alone"] != ALIKE:
            words.append(f"Alone they would be told apart; among {answer['pairs']} pairs that may be chance.")
    else:
        opening = "These networks, not their settings: " if about_networks else ""
        words = [f"{opening}{better} is better than {worse} by {apart} ({facts})."]
    for which, name in (("class", "test classes"), ("domain", "domains")):
        if answer[f"{which}_low"] is not None:
            is_sure = answer[f"{which}_low"] > 0 or answer[f"{which}_high"] < 0
            on_others = f"interval over {answer[f'{which}_over']} {_bounds(answer, which, gain)}"
            holds = "" if is_alike else f" that {'would' if is_sure else 'may not'} hold"
            words.append(f"On other {name}{holds}: {on_others}.")
    if about_networks:
        words.append("With one seed, nothing is said of training again.")
    if any(notes.loses(side, metric) for side in (a, b)):
        words.append(f"All that holds for queries asked together; one at a time {_alone(answer, metric)}.")
    return " ".join(words)


def _alone(answer: dict[str, Any], metric: Metric) -> str:
    """Say what both have where queries are asked one at a time."""
    sides = ((side["name"], side[f"{metric}_one_at_a_time"]) for side in (answer["a"], answer["b"]))
    return " and ".join(
        f"{name} has {metrics.show(metric, alone) or 'not been tested'}" for name, alone in sides
    )


def _tests(answer: dict[str, Any]) -> str:
    """Say p alone, and what of it is left when all pairs of the board are tested together."""
    if math.isnan(answer["p"]):
        return ""
    alone, together = ("p < 0.001" if p < 0.001 else f"p = {p:.2g}" for p in (answer["p"], answer["p_holm"]))
    if answer["pairs"] == 1:
        return f", {alone}"
    return f", {alone} alone and {together} as one of the board's {answer['pairs']} pairs"


def _answer(
    a: tuple[Row, Scored],
    b: tuple[Row, Scored],
    board: Sequence[Scored],
    metric: Metric,
    others: Others | None,
) -> dict[str, Any]:
    """Compare two rows as their board does, where all pairs are tested together, and alone."""
    (row, first), (other, second) = a, b
    results = tests(board, metric)
    pair = results[first.key, second.key]
    trained = (first.is_trained, second.is_trained)
    sides = (first.figures, second.figures)
    of_classes = of_domains = None
    if isinstance(others, list):
        of_domains = stats.paired_domains(*sides, others, trained, metric.scale)
    elif others is not None:
        of_classes = stats.paired_classes(*sides, others, trained, metric.scale)
    is_of_networks = first.is_one_network or second.is_one_network
    return {
        "a": _described(row, metric),
        "b": _described(other, metric),
        "test_tasks": first.figures.shape[1],
        "tasks_hash": row["tasks_hash"],
        **pair,
        **interval_of("class", of_classes),
        **interval_of("domain", of_domains),
        "about": NETWORKS if is_of_networks else SETTINGS,
        "verdict_alone": verdict(pair["difference"], pair["p"], metric, is_of_networks),
        "pairs": sum(not math.isnan(test["p"]) for test in results.values()) // 2,  # both ways
    }


def _described(row: Row, metric: Metric) -> dict[str, Any]:
    keys = (*SHOWN, metric.name, f"{metric}_one_at_a_time", "ci_low", "ci_high", "ci_over")
    return {**{key: row[key] for key in keys}, "is_baseline": row["variant"] == BASELINE}


def _named(entries: Sequence[Entry], folder: Path, name: str) -> tuple[Row, Scored]:
    """Find a row by its name, by algorithm and variant, or by an algorithm that has one row."""
    tested = with_results(entries)
    for called in (lambda row: row["name"], short_name, lambda row: row["algorithm"]):
        fitting = [(row, scores) for row, scores in tested if called(row) == name]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            several = ", ".join(row["name"] for row, _ in fitting)
            raise MetabenchError(f"`rows` {name}: {folder} has several of them: {several}")
    if name in [entry.row["name"] for entry in entries]:
        raise MetabenchError(f"`rows` {name}: {folder} has no meta-test result of it yet")
    names = [row["name"] for row, _ in tested]
    raise MetabenchError(
        f"`rows` {name}: no such row in {folder}.{nearest(name, names)} "
        f"There are: {', '.join(names) or 'none with a meta-test result'}"
    )


def _tell_apart(*pair: Row) -> None:
    """Name rows of two folders by these, where they are called the same."""
    if pair[0]["name"] == pair[1]["name"]:
        for row in pair:
            row["name"] = f"{short_name(row)}@{place(row)}"


def _best(entries: Sequence[Entry], folder: Path, metric: Metric) -> tuple[Row, Scored]:
    """Choose by what was known before the test: choosing by the test would flatter both sides."""
    every = with_results(entries)
    tested = [pair for pair in every if pair[0]["variant"] != BASELINE or len(entries) == 1]
    if not tested:
        raise MetabenchError(f"{folder}: has no meta-test result; finish the search, or run `metabench test`")
    for when in ("confirm", "val"):
        looked = [side for side in tested if side[0][f"{when}_{metric}"] is not None]
        if looked:
            return max(looked, key=lambda side: metric.sign * float(side[0][f"{when}_{metric}"]))
    return tested[0]


def _basis(answer: dict[str, Any]) -> str:
    seeds = [
        "no training" if side["is_baseline"] else f"{side['seeds']} seed{'s' if side['seeds'] != 1 else ''}"
        for side in (answer["a"], answer["b"])
    ]
    return f"the same {answer['test_tasks']:,} tasks; {seeds[0]} against {seeds[1]}"


def _bounds(answer: dict[str, Any], which: str, sign: int) -> str:
    low, high = sorted(sign * answer[f"{which}_{end}"] for end in ("low", "high"))
    if METRICS[answer["metric"]].unit == "%":
        return f"[{100 * low:+.1f}, {100 * high:+.1f}] points"
    return f"[{metrics.plain(low, '+')}, {metrics.plain(high, '+')}]"
