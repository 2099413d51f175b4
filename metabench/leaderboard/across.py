"""Many settings (data sets, ways, shots) at once: who is good in most of them, and how sure is that?"""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import metabench.leaderboard as leaderboard
from metabench.core import MetabenchError
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import TASK_KEYS, Run, Search, evaluated
from metabench.leaderboard.notes import loses, named, setting
from metabench.leaderboard.rows import BASELINE, short_name
from metabench.leaderboard.scores import LEVEL, with_results
from metabench.stats import Floats, many_settings
from metabench.storage import files


def across(sources: Sequence[Search | Run]) -> dict[str, Any]:
    """Rank the rows that every setting has.

    Returns:
        settings, and for each row its figures, ranks, mean rank and performance profile; tests over settings
        from 8 settings on; costs are errors: 1 - accuracy, or mean squared errors, all queries together;
        and who has notably less where queries are asked one at a time.
    """
    protocol = _protocol(sources)
    groups: dict[str, list[Search | Run]] = {}
    for source in sources:
        _refuse_without_zero(source)
        task = evaluated(source.task)
        key = [[task.get(key) for key in TASK_KEYS], source.config["data_fingerprint"]]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(source)
    if len(groups) < 2:
        only = setting(sources[0].task)
        raise MetabenchError(f"only one setting, {only}; `metabench leaderboard` ranks within a setting")
    tested = [_tested(group) for group in groups.values()]
    parts = list(zip(tested, [group[0].metric for group in groups.values()], strict=True))
    names = [name for name in tested[0] if all(name in rows for rows in tested)]
    missing = sorted({name for rows in tested for name in rows} - set(names))
    if len(names) < 2:
        raise MetabenchError(
            "fewer than two rows have a meta-test result in every setting; "
            f"only some have: {', '.join(missing)}"
        )
    return {
        "protocol": protocol,
        "settings": [_title(group[0].task) for group in groups.values()],
        "missing": missing,
        "worse_one_at_a_time": [
            name for name in names if any(loses(rows[name], metric) for rows, metric in parts)
        ],
        **_ranking(names, np.array([[_cost(rows[name], of) for rows, of in parts] for name in names])),
    }


def _refuse_without_zero(source: Search | Run) -> None:
    if source.metric.scale is None:
        raise MetabenchError(
            f"{setting(source.task)}: ranks across settings come with ratios of errors; a {source.metric} "
            "has no zero; leave it out, or compare within it by `metabench leaderboard`"
        )


def _protocol(sources: Sequence[Search | Run]) -> str:
    """Return the protocol of results, or refuse those of several."""
    protocols = {str(source.config["protocol"]): str(source.folder) for source in sources}
    if len(protocols) > 1:
        listed = "; ".join(f"{protocol} in {folder}" for protocol, folder in protocols.items())
        raise MetabenchError(
            f"these results are of several protocols and cannot stand beside each other: {listed}"
        )
    return next(iter(protocols))


def _ranking(names: Sequence[str], costs: Floats) -> dict[str, Any]:
    """Rank rows by their costs [rows, settings]."""
    ranks = many_settings.ranks(costs)
    profile = many_settings.profile(costs)
    order = np.argsort(ranks.mean(axis=1), kind="stable")
    rows = [
        {
            "name": names[row],
            "mean_rank": ranks[row].mean(),
            "wins": int((ranks[row] == ranks.min(axis=0)).sum()),
            "costs": costs[row],
            "ranks": ranks[row],
            "profile": dict(zip(map(str, many_settings.RATIOS), profile[row].tolist(), strict=True)),
        }
        for row in order
    ]
    tests: dict[str, Any] | None = None
    if costs.shape[1] >= many_settings.LEAST_SETTINGS and np.isfinite(costs).all():
        table = many_settings.signed_ranks(costs)[np.ix_(order, order)]
        tests = {"friedman_p": many_settings.friedman(costs), "signed_rank_p_holm": table}
    return dict(files.plain({"rows": rows, "tests": tests}))


def diagram(ranking: Mapping[str, Any]) -> bytes:
    """Draw the critical-difference diagram as PNG: mean ranks, and bars over what cannot be told apart."""
    if ranking["tests"] is None:
        raise MetabenchError(
            f"a critical-difference diagram needs {many_settings.LEAST_SETTINGS} settings or more without a "
            f"missing figure; these are {len(ranking['settings'])}"
        )
    if importlib.util.find_spec("scikit_posthocs") is None:
        raise MetabenchError(
            "a critical-difference diagram needs scikit-posthocs, which is not installed; "
            "do: pip install 'metabench[report]'"
        )
    import matplotlib as mpl

    mpl.use("agg")
    import pandas as pd
    import scikit_posthocs
    from matplotlib import pyplot

    names = [row["name"] for row in ranking["rows"]]
    ranks = pd.Series([row["mean_rank"] for row in ranking["rows"]], names)
    p = pd.DataFrame(ranking["tests"]["signed_rank_p_holm"], names, names)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.3 * len(names)))
    scikit_posthocs.critical_difference_diagram(ranks, p, ax=axes)
    axes.set_title(f"Mean rank over {len(ranking['settings'])} settings; bars: not distinguishable")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


def _title(task: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in (task.get("options") or {}).items())
    return setting(task) + (f" ({options})" if options else "")


def _tested(group: Sequence[Search | Run]) -> dict[str, dict[str, Any]]:
    """Return the rows of a setting that meta-test has a figure of, by algorithm and variant."""
    rows = [row for row, _ in with_results(leaderboard.entries(group))]
    twice = [name for name, count in Counter(map(short_name, rows)).items() if count > 1]
    if twice:
        folders = ", ".join(str(source.folder) for source in group)
        raise MetabenchError(
            f"{_title(group[0].task)}: {', '.join(twice)} more than once in {folders}; give it once"
        )
    return {short_name(row): row for row in rows if row["variant"] != BASELINE}


def _cost(row: Mapping[str, Any], metric: Metric) -> float:
    figure: float = row[metric.name]
    return 1 - figure if metric.unit == "%" else figure


def about_settings(ranking: Mapping[str, Any]) -> str:
    """Say what ranks over settings are, and what can be told apart."""
    sentences = [f"{len(ranking['settings'])} settings: {'; '.join(ranking['settings'])}."]
    sentences.append('"≤ 1.1": share of settings in which the error is at most 1.1 times the lowest.')
    if ranking["missing"]:
        sentences.append(f"Left out, since not every setting has them: {', '.join(ranking['missing'])}.")
    if losing := ranking["worse_one_at_a_time"]:
        sentences.append(f"Ranked by all queries of a task together; worse one at a time: {named(losing)}.")
    tests = ranking["tests"]
    if tests is None:
        sentences.append(
            f"Too few settings for a test over settings; {many_settings.LEAST_SETTINGS} are needed."
        )
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
