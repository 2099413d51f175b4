"""Many settings (data sets, ways, shots) at once: who is good in most of them, and how sure is that?"""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metabench.core import MetabenchError
from metabench.leaderboard import build
from metabench.leaderboard import folders as reading
from metabench.leaderboard.folders import TASK_KEYS, Run, Search
from metabench.leaderboard.notes import setting
from metabench.leaderboard.rows import BASELINE
from metabench.stats import Floats, many_settings
from metabench.storage import files

PROTOCOL_ONLY = "these results are of several protocols and cannot stand beside each other"


def across(sources: Sequence[Search | Run]) -> dict[str, Any]:
    """Rank the rows that every setting has.

    Returns:
        settings, and for each row its figures, ranks, mean rank and performance profile; tests over settings
        from 8 settings on; costs are errors: 1 - accuracy, or mean squared errors.
    """
    protocols = {str(source.config["protocol"]): str(source.folder) for source in sources}
    if len(protocols) > 1:
        told = "; ".join(f"{protocol} in {folder}" for protocol, folder in protocols.items())
        raise MetabenchError(f"{PROTOCOL_ONLY}: {told}")
    groups: dict[str, list[Search | Run]] = {}
    for source in sources:
        groups.setdefault(_key(source), []).append(source)
    if len(groups) < 2:
        only = setting(reading.task_of(sources[0]))
        raise MetabenchError(f"only one setting, {only}; `metabench leaderboard` ranks within a setting")
    costs = [_costs(group) for group in groups.values()]
    names = [name for name in costs[0] if all(name in own for own in costs)]
    missing = sorted({name for own in costs for name in own} - set(names))
    if len(names) < 2:
        raise MetabenchError(
            "fewer than two rows have a meta-test result in every setting; "
            f"only some have: {', '.join(missing)}"
        )
    matrix = np.array([[own[name] for own in costs] for name in names])  # [rows, settings]
    titles = [_title(group) for group in groups.values()]
    return {
        "protocol": next(iter(protocols)),
        "settings": titles,
        "missing": missing,
        **_found(names, matrix),
    }


def _found(names: Sequence[str], costs: Floats) -> dict[str, Any]:
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


def diagram(found: Mapping[str, Any]) -> bytes:
    """Draw the critical-difference diagram as PNG: mean ranks, and bars over what cannot be told apart."""
    if found["tests"] is None:
        raise MetabenchError(
            f"a critical-difference diagram needs {many_settings.LEAST_SETTINGS} settings or more without a "
            f"missing figure; these are {len(found['settings'])}"
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

    names = [row["name"] for row in found["rows"]]
    ranks = pd.Series([row["mean_rank"] for row in found["rows"]], names)
    p = pd.DataFrame(found["tests"]["signed_rank_p_holm"], names, names)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.3 * len(names)))
    scikit_posthocs.critical_difference_diagram(ranks, p, ax=axes)
    axes.set_title(f"Mean rank over {len(found['settings'])} settings; bars: not distinguishable")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


def _key(source: Search | Run) -> str:
    task = reading.task_of(source)
    known = {key: task.get(key, usual) for key, usual in TASK_KEYS.items()}
    return json.dumps([known, source.config["data_fingerprint"]], sort_keys=True)


def _title(group: Sequence[Search | Run]) -> str:
    task = reading.task_of(group[0])
    options = ", ".join(f"{key}={value}" for key, value in (task.get("options") or {}).items())
    return setting(task) + (f" ({options})" if options else "")


def _costs(group: Sequence[Search | Run]) -> dict[str, float]:
    """Return the errors of a setting's rows by algorithm and variant."""
    metric = reading.metric_of(reading.task_of(group[0]))
    tested = [entry for entry in build.entries(group) if entry.scored is not None]
    short = [f"{entry.row['algorithm']}:{entry.row['variant']}" for entry in tested]
    twice = [name for name, count in Counter(short).items() if count > 1]
    if twice:
        folders = ", ".join(str(source.folder) for source in group)
        raise MetabenchError(f"{_title(group)}: {', '.join(twice)} more than once in {folders}; give it once")
    return {
        name: 1 - entry.row[metric] if metric == "accuracy" else entry.row[metric]
        for name, entry in zip(short, tested, strict=True)
        if entry.row["variant"] != BASELINE
    }
