"""Rows of the leaderboard: one a setting, from what the folders hold by now."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core import MetabenchError
from metabench.core.config import genotype
from metabench.core.config.settings import flatten
from metabench.core.metrics import PLAIN, RETURN, Metric
from metabench.leaderboard import beside, fairness, returns
from metabench.leaderboard.folders import (
    BASELINES,
    Record,
    Run,
    Search,
    accelerator_seconds,
    best,
    n_parameters,
    short_path,
    validation,
)
from metabench.leaderboard.scores import (
    Entry,
    Row,
    Scored,
    by_group,
    by_instance,
    figures_of,
    influences,
    mistakes,
    of_domains,
    one_at_a_time,
    scored,
    versus,
)

TUNED = "tuned"
DEFAULT = "default"
RUN = "run"
BASELINE = "baseline"
PUBLISHED = "published"

CHANCE = "chance"
"""Of the row of guessing, which has neither tasks nor an interval."""

LEARN_NOTHING = frozenset(Path(name).stem for name in BASELINES)

FROZEN = ", frozen"
"""What stands behind the name of a network that nothing is learnt of."""

PRETRAINED = ", pretrained"
"""What stands behind that of one whose learning starts from weights of others."""

DRAWN = ", frozen as drawn"
"""What stands behind that of a frozen one without weights."""

MOST_DIFFERENCES = 3
"""Settings that name a row; where more differ, its folder does."""

KEYS = (
    "name",  # algorithm:variant, and @label where several rows would have the same
    "label",  # what tells such rows apart: settings that differ, or the folder
    "algorithm",
    "variant",  # tuned and default of a search; run: a bare run folder; baseline; published: by others
    "status",  # finished, running, or untested: a bare run whose meta-test was not opened
    *("rank", "rank_worst"),  # that it may have, by tests that are adjusted for their number
    *("may_be_best", "p_best"),  # whether it may be the best row of all, and the p of that
    *("accuracy", "ci_low", "ci_high"),
    "accuracy_together",  # the same: all queries of a task are classified at once
    *("accuracy_one_at_a_time", "one_low", "one_high"),  # each query alone, on the same tasks
    "ci_over",  # what the interval speaks of: "seeds and tasks", or "tasks" where there is one seed
    # Of probabilities and 90 % sets by the runs' own calibration, each query alone; a mean over seeds.
    *("calibration_error", "coverage", "set_size"),
    *beside.KEYS,
    *("seed_low", "seed_high"),  # t interval of the seeds' means: training again, these very tasks
    *("class_low", "class_high", "class_over"),  # of other test classes
    "classes",  # that the test tasks have
    *("domain_low", "domain_high", "domain_over"),  # of other domains, where these are split
    "by_domain",  # [domain, accuracy, queries] of each, the worst first
    "zero_step",  # accuracy before any inner step, where labels are fixed
    "kappa",  # Cohen's, of guesses and labels where these are fixed; 0: as by chance
    "by_instance",  # accuracy at the 1st, 2nd, ... example of a class, of what reads a sequence
    *("seeds", "seeds_planned"),  # tested; fewer than planned where a run diverged
    "test_tasks",
    "model",  # single, or an ensemble of how many
    *("network", "genotype", "batch_norm", "hyperparameters"),
    # To find the setting: all trials of the search; of a published one, a run and a baseline none.
    *("trials", "search_tasks", "search_seconds", "search_accelerator_seconds"),
    # Of one training to the full budget: the mean over seeds.
    *("training_tasks", "training_seconds", "training_accelerator_seconds"),
    "peak_memory",  # of the training
    "parameters",  # numbers learnt across tasks
    *("network_parameters", "picture_seconds", "multiply_adds"),  # with a frozen backbone's; of one picture
    *("val_accuracy", "confirm_accuracy"),
    *("val_optimism", "confirm_optimism"),  # by how much the validation looked better than the test
    *("vs_default", "vs_best"),
    "hardest",  # [class, accuracy, queries] of the classes that are missed most
    "confused",  # [class, guess, share, chances]: share of the class's queries where a task holds both
    *("times_opened", "opened"),  # how often meta-test was, at most, and when for the last time
    *("config_hash", "tasks_hash", "code", "commit"),
    "folder",
    "source",  # of a published figure
)

FIGURES = ("{}", "{}_together", "{}_one_at_a_time", "val_{}", "confirm_{}")
"""What rows have besides where tasks are judged by no accuracy; there, what is called accuracy is None."""


def keys(metric: Metric) -> tuple[str, ...]:
    """List the keys of a row where tasks are judged by a metric."""
    figures = [one.format(metric) for one in FIGURES]
    return (*KEYS, *figures, *(returns.KEYS if metric == RETURN else ())) if metric in PLAIN else KEYS


def make_row(metric: Metric, **values: Any) -> Row:
    """Make a row of what is there to say; the rest is None."""
    return {**dict.fromkeys(keys(metric)), **values}


def search_entries(search: Search) -> list[Entry]:
    """Make the tuned and the default row of each algorithm, and one of each that learns nothing."""
    metric = search.metric
    entries, floors = [], dict.fromkeys(search.baselines)
    has_default_runs = search.config["space"]["budget"].get("default_runs", True)
    for algorithm in search.config["space"]["algorithms"]:
        if (name := baseline_name(algorithm)) is not None:
            floors[name] = algorithm
            continue
        for variant, describe in ((TUNED, _tuned), (DEFAULT, _default)):
            runs = search.runs.get((algorithm, variant), [])
            if variant == DEFAULT and not (runs or has_default_runs):
                continue
            if described := describe(search, algorithm, runs, metric):
                row = _search_row(search, algorithm, variant, runs, metric) | described
                entries.append(Entry(row, scored(runs, metric), one_at_a_time(runs, metric), *by_group(runs)))
    entries += [_baseline(search, name, algorithm, metric) for name, algorithm in floors.items()]
    return entries


def _baseline(search: Search, name: str, algorithm: str | None, metric: Metric) -> Entry:
    """Make the row of what learns nothing, which needs no batch norm: both of its scores are the same."""
    row = make_row(metric, algorithm=name, variant=BASELINE, **FREE, status="running")
    row[f"val_{metric}"] = validation(best(search.reported(algorithm or name), metric), metric)
    if name not in search.baselines:
        return Entry(row)
    test = search.baselines[name]
    shown = [[one] for one in test.get("pictures", [])]
    pictures = influences(shown) if shown else None
    results = Scored(figures_of(test, metric)[None], is_trained=False, pictures=pictures)
    return Entry(row | {"status": "finished", "tasks_hash": test["tasks_hash"]}, results, results)


def baseline_name(algorithm: str) -> str | None:
    """Return which baseline an algorithm of a space, or a variant of it, is; None for all that learn."""
    name = algorithm.split(".")[0]
    return name if name in LEARN_NOTHING else None


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Keep what learns nothing once: every search has it, and a run may be of it; a tested one if any."""
    kept: dict[Any, Entry] = {}
    for index, entry in enumerate(entries):
        key = entry.row["algorithm"] if entry.row["variant"] == BASELINE else index
        if key not in kept or kept[key].scored is None:
            kept[key] = entry
    return list(kept.values())


def group_seeds(runs: Iterable[Run]) -> list[list[Run]]:
    """Group run folders that differ in their seed only."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        described = {key: value for key, value in run.config["run"].items() if key != "seed"}
        groups.setdefault(json.dumps(described, sort_keys=True), []).append(run)
    return list(groups.values())


def chance(metric: Metric, task: Record) -> list[Entry]:
    """Make the row of guessing, where there are classes to guess."""
    if not metric.has_chance:
        return []
    way = task["way"]
    ways = range(way["low"], way["high"] + 1) if isinstance(way, dict) else [way]
    row = make_row(metric, algorithm=CHANCE, variant=BASELINE, status="finished", **FREE)
    right = statistics.fmean(1 / one for one in ways)  # each as likely
    return [Entry(row | dict.fromkeys(("accuracy", "accuracy_together", "accuracy_one_at_a_time"), right))]


def short_name(row: Row) -> str:
    """Name a row by algorithm and variant."""
    return f"{row['algorithm']}:{row['variant']}"


def place(row: Mapping[str, Any]) -> str | None:
    """Name where a row comes from; without a comma, which stands between the names of rows."""
    return "+".join(row["folder"].split(", ")) if row["folder"] else row["source"]


def name_all(entries: Sequence[Entry]) -> None:
    """Name rows by algorithm and variant, and where that is not enough by what differs, or the folder."""
    count = Counter(short_name(entry.row) for entry in entries)
    alike = Counter((short_name(entry.row), entry.row["label"]) for entry in entries)
    for row in (entry.row for entry in entries):
        name = short_name(row)
        label = row["label"] if row["label"] and alike[name, row["label"]] == 1 else place(row)
        row["label"] = label if count[name] > 1 else None
        row["name"] = f"{name}@{label}" if row["label"] else name


def order(row: Row, metric: Metric) -> float:
    """Order rows best first; a row that is not tested yet stands where its meta-validation puts it."""
    figure = row[f"val_{metric}"] if row[metric.name] is None else row[metric.name]
    return math.inf if figure is None else -metric.sign * float(figure)


def _tuned(search: Search, algorithm: str, runs: list[Run], metric: Metric) -> Row:
    entries = search.reported(algorithm)
    chosen = search.chosen.get(algorithm) or best(entries, metric)
    return {
        "hyperparameters": chosen.get("hyperparameters"),
        "trials": sum(
            trial["algorithm"] == algorithm and trial["status"] != "infeasible" for trial in search.trials
        ),
        **_cost("search", entries),
        f"val_{metric}": validation(chosen, metric),
        f"confirm_{metric}": chosen.get(f"confirm_{metric}"),
        "vs_default": _versus_default(search, algorithm, metric),
    }


def _default(search: Search, algorithm: str, runs: list[Run], metric: Metric) -> Row:
    """Describe the published setting, or return nothing while nothing is known of it."""
    # The space may have got another default since.
    published = search.settings(algorithm, runs[0]) if runs else None
    trials = [
        trial
        for trial in search.trials
        if trial["algorithm"] == algorithm
        and (trial["is_default"] if published is None else trial["hyperparameters"] == published)
    ][:1]
    if not runs and not trials:
        return {}
    is_whole = any(trial["status"] == "complete" for trial in trials)
    whole = None if is_whole else _looked([run for run in runs if run.is_trained], metric)
    return {
        "hyperparameters": trials[0]["hyperparameters"] if published is None else published,
        **NOT_SEARCHED,
        # What a trial had when it was stopped is no measure of what full runs come to.
        f"val_{metric}": validation(best(trials, metric), metric) if whole is None else whole,
    }


def _looked(runs: Sequence[Run], metric: Metric) -> float | None:
    """Return the mean over runs of their best meta-validation; None where none has any."""
    figures = [validation(best(run.reports, metric), metric) for run in runs]
    finite = [figure for figure in figures if figure is not None]
    return float(np.mean(finite)) if finite else None


def _search_row(search: Search, algorithm: str, variant: str, runs: list[Run], metric: Metric) -> Row:
    space, opened = search.config["space"], search.opened or {}
    network = runs[0].config["run"]["network"] if runs else search.networks(algorithm).published.model_dump()
    row = make_row(
        metric,
        algorithm=algorithm,
        variant=variant,
        status="finished" if opened.get("finished") else "running",
        seeds_planned=space["budget"]["seeds"],
        folder=short_path(search.folder),
        **_built(network),
    )
    row |= {**_training(runs, opened.get("gpus")), **_tested(runs)}
    if row["times_opened"]:
        row["times_opened"] = max(row["times_opened"], search.times_opened)
        row["config_hash"] = (opened or row)["config_hash"]
    return row


def run_entries(groups: Sequence[list[Run]]) -> list[Entry]:
    """Make one row of each group of run folders that differ in their seed only, told apart by the rest."""
    return [_run_entry(runs, label) for runs, label in zip(groups, _labels(groups), strict=True)]


def _run_entry(runs: list[Run], label: str | None) -> Entry:
    described, baseline = runs[0].config["run"], baseline_name(runs[0].config["run"]["algorithm"])
    if len({run.config["run"]["seed"] for run in runs}) < len(runs):
        listed = ", ".join(str(run.folder) for run in runs)
        raise MetabenchError(f"{listed}: the same run twice (same settings and seed); give it once")
    is_tested, is_trained = all(run.test is not None for run in runs), all(run.is_trained for run in runs)
    metric = runs[0].metric
    row = make_row(
        metric,
        algorithm=baseline or described["algorithm"],
        variant=BASELINE if baseline else RUN,
        label=label,
        status="finished" if is_tested else "untested" if is_trained else "running",
        seeds_planned=len(runs),
        hyperparameters=described["hyperparameters"],
        folder=", ".join(short_path(run.folder) for run in runs),
        **_built(described["network"]),
        **NOT_SEARCHED,
    )
    row |= {f"val_{metric}": _looked(runs, metric)}
    row |= {**_training(runs, gpus=0), **_tested(runs)}  # a device of its own
    results, alone, groups = scored(runs, metric), one_at_a_time(runs, metric), by_group(runs)
    if baseline:  # training again changes nothing
        row |= {**FREE, "seeds": None, "seeds_planned": None, "batch_norm": None}
        results = results and results._replace(figures=results.figures[:1], is_trained=False)
        alone = results
    return Entry(row, results, alone, *groups)


def _labels(groups: Sequence[list[Run]]) -> list[str | None]:
    """Name what differs between the runs of one algorithm; None where that is nothing or too much."""
    # A run's seed and its rungs tell no settings apart.
    described = [
        {
            key: one
            for key, one in flatten(runs[0].config["run"]).items()
            if key not in ("seed", "rungs") and one != {}
        }
        for runs in groups
    ]
    labels: list[str | None] = []
    for one in described:
        alike = [other for other in described if other["algorithm"] == one["algorithm"]]
        every = dict.fromkeys(key for other in alike for key in other)
        keys = [key for key in every if len({json.dumps(other.get(key)) for other in alike}) > 1]
        parts = [f"{key.split('.')[-1]}={json.dumps(one.get(key)).strip(chr(34))}" for key in keys]
        labels.append("+".join(parts) if 0 < len(parts) <= MOST_DIFFERENCES else None)
    return labels


def _cost(part: str, entries: Sequence[Record]) -> Row:
    """Add up last reports; one that is not there yet cost nothing that is known."""
    weighed = [seconds for entry in entries if (seconds := accelerator_seconds(entry)) is not None]
    return {
        f"{part}_tasks": sum(entry.get("tasks_seen") or 0 for entry in entries),
        f"{part}_seconds": sum(entry.get("seconds") or 0.0 for entry in entries),
        # Seconds times the share of a GPU; of a process where there is none.
        f"{part}_accelerator_seconds": sum(weighed) if len(weighed) == len(entries) else None,
    }


NOT_SEARCHED: Row = {"trials": 0, **_cost("search", [])}
FREE: Row = {**NOT_SEARCHED, **_cost("training", [])}
"""What it costs to find and to train what learns nothing."""


def _training(runs: Sequence[Run], gpus: float | None) -> Row:
    """Say what one training takes: the mean over the seeds that came to the full budget."""
    last = [{**run.reports[-1], "gpus": gpus} for run in runs if run.is_whole]
    if not last:
        return {}
    spent = _cost("training", last)
    means = {key: None if total is None else total / len(last) for key, total in spent.items()}
    return {
        **means,
        **returns.steps(last),
        "training_tasks": round(spent["training_tasks"] / len(last)),
        "peak_memory": max(report.get("peak_memory") or 0 for report in last),
    }


def _tested(runs: Sequence[Run]) -> Row:
    """Say what is recorded of the tested runs of a row, and of their opening of meta-test."""
    counts = (n_parameters(run) for run in runs)
    parameters = next((count for count in counts if count is not None), None)
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return {"parameters": parameters, "seeds": 0}
    first, costs = tested[0], [test["cost"] for test in tested if "cost" in test]
    return {
        "parameters": parameters,
        "seeds": len(tested),
        "model": "single",
        "times_opened": max(test["times_opened"] for test in tested),
        "opened": max(test["opened"] for test in tested),
        "batch_norm": first["batch_norm"],  # an algorithm may bring moments of its own
        "network_parameters": int(costs[0]["network_parameters"]) if costs else None,
        "multiply_adds": next((int(one["multiply_adds"]) for one in costs if "multiply_adds" in one), None),
        "picture_seconds": min((one["picture_seconds"] for one in costs), default=None),
        **mistakes(tested),
        **of_domains(tested),
        **by_instance(tested),
        **_sureness(tested),
        **returns.of_oracle(tested),
        **beside.unlabelled(runs),
        **fairness.by_place(tested),
        **{key: first[key] for key in ("config_hash", "tasks_hash", "code", "commit")},
    }


def _sureness(tests: Sequence[Record]) -> Row:
    """Say how right probabilities and sets are; nothing where an older result does not."""
    if any("calibration" not in test for test in tests):
        return {}
    judged = [test["calibration"] for test in tests]
    errors = [one["calibration_error"] for one in judged]
    means = {key: float(np.mean([one[key] for one in judged])) for key in ("coverage", "set_size")}
    return {**means, "calibration_error": None if None in errors else statistics.fmean(errors)}


def _name(network: Record) -> str:
    """Name a network; whether other data have trained it, or nothing is learnt of it, stands beside."""
    name, has_weights = str(network.get("module") or network["name"]), network.get("weights") is not None
    if network.get("freeze") == "all":
        # A user's own module may open weights itself.
        return f"{name}{FROZEN if has_weights or network.get('module') else DRAWN}"
    return f"{name}{PRETRAINED}" if has_weights else name


def _built(network: Record) -> Row:
    """Describe a network; its cell is written as all that compute alike are."""
    is_cells = network["name"] == genotype.CELLS
    return {
        "network": _name(network),
        "genotype": str(genotype.read(network.get("options", {}))) if is_cells else None,
        "batch_norm": str(network["batch_norm"]) if network["norm"] == "batch" else None,
    }


def _versus_default(search: Search, algorithm: str, metric: Metric) -> Row | None:
    """Compare tuned with default; where the default itself was chosen they are the same runs."""
    pair = [search.runs.get((algorithm, variant), []) for variant in (TUNED, DEFAULT)]
    a, b = (scored(runs, metric) for runs in pair)
    if a is None or b is None:
        return None
    tuned, default = (search.settings(algorithm, runs[0]) for runs in pair)
    return None if tuned == default else versus(a, b, metric)
