"""What the results of rows say: intervals, comparisons of every pair on the same tasks, and ranks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench import stats
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import Record, Run

Row = dict[str, Any]
Others = stats.Design | list[int]
"""What tasks are of and others would be of: classes, or a domain each."""

LEVEL = 1 - stats.CONFIDENCE

BETTER = "better"
WORSE = "worse"
BETTER_NETWORK = "better network"
WORSE_NETWORK = "worse network"
ALIKE = "not distinguishable"
IDENTICAL = "identical"

TURNED = {BETTER: WORSE, BETTER_NETWORK: WORSE_NETWORK}
TURNED |= {worse: better for better, worse in TURNED.items()}
"""What a verdict is from the other side; others stay."""

MOST_CLASSES = 5
"""Classes, and pairs of them, that a row names."""

SAYS = ("difference", "ci_low", "ci_high", "over", "p", "p_tasks", "higher")
"""What is said of a pair of rows."""

ONE_RESULT: Row = dict(zip(SAYS, (0.0, 0.0, 0.0, None, np.nan, np.nan, 0.5), strict=True))
"""What is to be said of two rows with the very same results."""


class Scored(NamedTuple):
    """The figures of a row, on the board's tasks."""

    figures: stats.Floats  # [seeds, T], accuracies or errors
    is_trained: bool = True  # False: what learns nothing, which training again would not change
    pictures: stats.Influences | None = None  # where tasks share those of a few classes

    @property
    def key(self) -> Hashable:
        """Return what is equal for the very same results; seeds of what learns nothing repeat them."""
        figures = self.figures if self.is_trained else self.figures[:1]
        return self.is_trained, figures.shape, figures.tobytes()

    @property
    def is_one_network(self) -> bool:
        """Return whether nothing can be said of training again."""
        has_folds = self.pictures is not None and self.pictures.folds > 1
        return self.is_trained and len(self.figures) == 1 and not has_folds


class Entry(NamedTuple):
    """A row, and its results where there are any."""

    row: Row
    scored: Scored | None = None
    alone: Scored | None = None  # each query by itself
    groups: Scored | None = None  # [seeds, T, 8], counts by group, label and guess
    adjusted: Scored | None = None  # the same by a threshold for each group


def figures_of(test: Record, metric: Metric) -> stats.Floats:
    """Return the figures of the tasks of a result; null becomes NaN."""
    return np.asarray(test[metric.name], dtype=np.float64)


def scored(runs: Sequence[Run], metric: Metric) -> Scored | None:
    """Gather the seeds that were tested, if there are any; of folds, as many of each as all have."""
    return gathered(runs, metric.name, "moved")


def one_at_a_time(runs: Sequence[Run], metric: Metric) -> Scored | None:
    """Gather the figures of queries that were asked one at a time; None where an older result lacks them."""
    return gathered(runs, f"{metric}_one_at_a_time", "one_at_a_time")


def by_group(runs: Sequence[Run]) -> tuple[Scored | None, Scored | None]:
    """Gather counts by group, and those by a threshold for each; None where groups are not known."""
    return gathered(runs, "groups", ""), gathered(runs, "groups_at_thresholds", "")


def gathered(runs: Sequence[Run], figures: str, moved: str) -> Scored | None:
    """Gather some figures of the seeds that were tested, the tasks of all folds beside each other.

    None until each fold is tested: rows that lack some would stand beside others on other tasks.
    """
    tests: dict[int, list[Record]] = {fold: [] for fold in sorted({run.fold for run in runs})}
    for run in runs:
        if run.test is not None:
            tests[run.fold].append(run.test)
    n_seeds = min(map(len, tests.values()), default=0)
    folds = [seeds[:n_seeds] for seeds in tests.values()]
    if not n_seeds or len(tests) < runs[0].row_folds:
        return None
    if any(figures not in test for seeds in folds for test in seeds):
        return None
    x = np.concatenate([np.array([test[figures] for test in seeds], np.float64) for seeds in folds], axis=1)
    lack = any("pictures" not in test for seeds in folds for test in seeds)
    shown = None if lack else influences([[test["pictures"][0] for test in seeds] for seeds in folds], moved)
    return Scored(x, pictures=shown)


def influences(folds: Sequence[Sequence[Record]], moved: str = "moved") -> stats.Influences:
    """Put what pictures of each fold, by seed, moved the mean by beside each other."""
    n_classes = 1 + max(max(seeds[0]["strata"]) for seeds in folds)
    starts = [fold * n_classes for fold in range(len(folds))]
    first = [(start, seeds[0]) for start, seeds in zip(starts, folds, strict=True)]
    return stats.Influences(
        np.concatenate([np.array([one[moved] for one in seeds]) / len(folds) for seeds in folds], axis=1),
        np.concatenate([start + np.array(one["strata"], np.int64) for start, one in first]),
        float(np.mean([one["repeats"] for seeds in folds for one in seeds])),
        stats.design(
            [[start + int(row) for row in line.split()] for start, one in first for line in one["classes"]]
        ),
        len(folds),
    )


def with_results(entries: Sequence[Entry]) -> list[tuple[Row, Scored]]:
    """List the rows that have results."""
    return [(entry.row, entry.scored) for entry in entries if entry.scored is not None]


def intervals(metric: Metric, scores: Scored, others: Others | None) -> Row:
    """Describe a row's mean, and each of its intervals with what it speaks of."""
    x = scores.figures if scores.is_trained else scores.figures[:1]
    mean = stats.seeds_and_tasks(x, metric.scale)
    if scores.pictures is not None:
        others = None  # other classes are none of its business
        mean = stats.picture_interval(x, scores.pictures, metric.scale, scores.is_trained)
    row: Row = {metric.name: mean.mean, "ci_low": mean.low, "ci_high": mean.high, "ci_over": mean.over}
    row["test_tasks"] = x.shape[1]
    if len(x) > 1:
        again = stats.seed_interval(x, metric.scale)
        row |= {"seed_low": again.low, "seed_high": again.high}
    if isinstance(others, list):
        row |= interval_of("domain", stats.domain_interval(x, others, metric.scale))
    elif others is not None:
        row |= interval_of("class", stats.class_interval(x, others, metric.scale))
        row["classes"] = others.n_classes
    return row


def of_domains(tests: Sequence[Record]) -> Row:
    """Say what is right of the queries of each domain, the worst first, and before any inner step."""
    row: Row = {}
    if all("accuracy_zero_step" in test for test in tests):
        row["zero_step"] = float(np.mean([test["accuracy_zero_step"] for test in tests]))
    if all("of_labels" in test for test in tests):
        kappa = stats.kappa(np.sum([test["of_labels"] for test in tests], axis=0))
        row["kappa"] = None if np.isnan(kappa) else kappa
    if any("domains" not in test or "by_class" not in test for test in tests):
        return row
    figures = []
    for domain in dict.fromkeys(tests[0]["domains"]):
        rows = [place for place, name in enumerate(tests[0]["domains"]) if name == domain]
        queries, hits = (
            sum(test["by_class"][key][place] for test in tests for place in rows)
            for key in ("queries", "hits")
        )
        figures += [[domain, hits / queries, int(queries)]] if queries else []
    return row | {"by_domain": sorted(figures, key=lambda figure: float(figure[1]))}


def mistakes(tests: Sequence[Record]) -> Row:
    """Name the classes that are missed most, and those that are taken for each other, over all seeds."""
    if any("by_class" not in test for test in tests):
        return {}
    names = tests[0]["class_names"]
    queries, hits = (np.sum([test["by_class"][key] for test in tests], axis=0) for key in ("queries", "hits"))
    missed = stats.weighed(queries - hits, queries)
    hardest = [int(one) for one in np.argsort(-missed, kind="stable")[:MOST_CLASSES] if missed[one] > 0]
    pairs: dict[tuple[int, int], list[int]] = {}
    for true, guess, times, chances in (pair for test in tests for pair in test["confused"]):
        # All seeds have the same tasks, so as many chances, also where the pair is not among their worst.
        pairs.setdefault((true, guess), [0, chances * len(tests)])[0] += times
    worst = sorted(pairs.items(), key=lambda pair: -float(stats.weighed(*pair[1])))[:MOST_CLASSES]
    return {
        "hardest": [[names[one], float(hits[one] / queries[one]), int(queries[one])] for one in hardest],
        "confused": [
            [names[true], names[guess], times / chances, chances] for (true, guess), (times, chances) in worst
        ],
    }


def by_instance(tests: Sequence[Record]) -> Row:
    """Say how right learners that read a sequence are at each instance of a class, the mean over seeds."""
    if any("by_instance" not in test for test in tests):
        return {}
    means = [[mean for mean, *_ in test["by_instance"]] for test in tests]
    return {"by_instance": np.mean(means, axis=0).tolist()}


def interval_of(which: str, interval: stats.Interval | None) -> Row:
    """Name the bounds of an interval for other test classes or domains; None where they are not known."""
    low, high, over = (None, None, None) if interval is None else interval[1:]
    return {f"{which}_low": low, f"{which}_high": high, f"{which}_over": over}


def versus(a: Scored, b: Scored, metric: Metric) -> Row:
    """Compare the first with the second, on the same tasks."""
    if a.key == b.key:
        return dict(ONE_RESULT)
    shown = None if a.pictures is None or b.pictures is None else (a.pictures, b.pictures)
    pair = stats.paired(a.figures, b.figures, (a.is_trained, b.is_trained), metric.scale, shown)
    figures = (pair.difference, pair.low, pair.high, pair.over, pair.p, pair.p_tasks, pair.higher)
    return dict(zip(SAYS, figures, strict=True))


def tests(results: Sequence[Scored], metric: Metric) -> dict[tuple[Hashable, Hashable], Row]:
    """Compare every pair of distinct results both ways; p is adjusted for the number of tests.

    A published setting that was also chosen stands on the board twice with the same results, and what learns
    nothing may stand there several times: each is tested once.
    """
    distinct = list({one.key: one for one in results}.values())
    pairs = [(a, b) for place, a in enumerate(distinct) for b in distinct[place + 1 :]]
    made = [versus(a, b, metric) for a, b in pairs]
    both: dict[tuple[Hashable, Hashable], Row] = {}
    for (a, b), test, p in zip(pairs, made, stats.holm([test["p"] for test in made]), strict=True):
        said = verdict(test["difference"], p, metric, a.is_one_network or b.is_one_network)
        both[a.key, b.key] = {**test, "p_holm": p, "verdict": said}
        both[b.key, a.key] = turned(both[a.key, b.key])
    same = {**ONE_RESULT, "p_holm": np.nan, "verdict": IDENTICAL}
    return both | {(one.key, one.key): same for one in distinct}


def compare(entries: Sequence[Entry], metric: Metric) -> list[Record]:
    """Compare every pair of rows with results, the better first; see `tests`."""
    tested = sorted(with_results(entries), key=lambda pair: _order(pair[1], metric))
    results = tests([scores for _, scores in tested], metric)
    return [
        {"a": row["name"], "b": other["name"], **results[scores.key, others.key]}
        for place, (row, scores) in enumerate(tested)
        for other, others in tested[place + 1 :]
    ]


def verdict(difference: float, p: float, metric: Metric, is_of_networks: bool) -> str | None:
    """Say in words what a difference of the first from the second amounts to; None where it is unknown.

    Args:
        is_of_networks: a trained side has one seed, so that nothing is said of the settings.
    """
    if np.isnan(difference):
        return None
    if not p < LEVEL:  # NaN: nothing varies
        return ALIKE
    said = BETTER_NETWORK if is_of_networks else BETTER
    return said if metric.sign * difference > 0 else TURNED[said]


def rank(entries: Sequence[Entry], compared: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    """Give rows their ranks, shared where they are alike, and say how far each is from the best."""
    ranked = [pair for pair in with_results(entries) if np.isfinite(pair[1].figures).all()]
    ranked.sort(key=lambda pair: _order(pair[1], metric))
    rows = [row for row, _ in ranked]
    place = {row["name"]: number for number, row in enumerate(rows)}
    is_better = np.zeros((len(rows), len(rows)), bool)
    p_best = np.full((len(rows), len(rows)), np.nan)  # of the first being no worse than the second
    for pair in compared:
        if pair["a"] not in place or pair["b"] not in place:
            continue
        a, b = place[pair["a"]], place[pair["b"]]
        for one, other, seen in ((a, b, pair), (b, a, turned(pair))):
            is_better[one, other] = seen["verdict"] in (BETTER, BETTER_NETWORK)
            is_behind = metric.sign * seen["difference"] < 0
            p_best[one, other] = seen["p"] / 2 if is_behind else 1 - seen["p"] / 2
        if a == 0:
            rows[b]["vs_best"] = {key: value for key, value in turned(pair).items() if key not in ("a", "b")}
    chances = stats.p_best(p_best, len({scores.key for _, scores in ranked}))
    for row, (low, high), p in zip(rows, stats.rank_ranges(is_better), chances, strict=True):
        row |= {"rank": low, "rank_worst": high, "p_best": p}
        row["may_be_best"] = None if np.isnan(p) else p >= LEVEL


def turned(pair: Mapping[str, Any]) -> Row:
    """Look at a comparison from the second's side."""
    return {
        **pair,
        "difference": -pair["difference"],
        "ci_low": -pair["ci_high"],
        "ci_high": -pair["ci_low"],
        "higher": 1 - pair["higher"],
        "verdict": TURNED.get(pair["verdict"], pair["verdict"]),
    }


def _order(scores: Scored, metric: Metric) -> float:
    mean = float(scores.figures.mean())
    return -metric.sign * mean if np.isfinite(mean) else np.inf
