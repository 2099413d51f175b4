"""What a reader must know of a leaderboard, in sentences: the answer above it, and the rest beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metabench.core import metrics
from metabench.core.config.settings import n_folds
from metabench.core.metrics import METRICS, Metric
from metabench.leaderboard import published
from metabench.leaderboard.rows import BASELINE, CHANCE, FROZEN, PRETRAINED, PUBLISHED
from metabench.leaderboard.scores import ALIKE, IDENTICAL, LEVEL, WORSE
from metabench.stats import FEW_SEEDS, PICTURES, SEEDS_PICTURES, TASKS

Board = Mapping[str, Any]
Row = Mapping[str, Any]
Rows = Sequence[Row]

MOST_NAMED = 8

MOST_ANSWERED = 3
"""Rows that the answer names; more are counted."""

NO_ROW_WHOLE = "no row has been tested on every fold"

LEAST_LOSS = {"%": 0.01, "": 0.05}
"""What a user who asks one at a time has to lose for a warning: accuracy, or that share of an error."""

STANDS = {"finished": "", "running": ", still running", "untested": ", not all tested yet"}
"""A board's status, as its title says it."""


def title(board: Board) -> str:
    """Name the setting, and say whether it is still running, or not tested yet."""
    return setting(board["task"]) + STANDS[board["status"]]


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
    sentences += board.get("left_out", [])
    sentences += _on_intervals(rows, metric, n_folds(board.get("task", {}).get("options") or {}))
    sentences += _on_comparisons(rows)
    sentences += _on_asking(board, metric)
    sentences += _on_classes(rows)
    sentences += _on_same_classes(board.get("task", {}))
    if trained := [_who(row) for row in rows if _is_pretrained(row)]:
        sentences.append(
            "Of a network that other pictures have trained, which may show the very classes of meta-test: "
            f"{named(trained)}."
        )
    if any(row.get("training_tasks") for row in rows):
        sentences.append(
            "Search: what all trials that found a setting took, nothing for a published one or a single run; "
            "training: one run to the full budget, the mean of its seeds."
        )
    if any(row.get("picture_seconds") for row in rows):
        sentences.append("ms a query: to predict one once adapted, of one thread; the median of several.")
    if any(row.get("dp_gap") is not None for row in rows):
        sentences.append(
            "Parity gap: how far apart the rates are at which both groups are granted the outcome, pooled "
            "over tasks; opportunity gap: of those who deserve it alone. At thresholds: a threshold for each "
            "group, of equal rates on meta-validation, which has to be told the group of whom it predicts."
        )
    if board["status"] != "finished":
        sentences.append(f"Rows without an {metric} show the best meta-validation {metric} so far.")
    sentences += _untested(rows)
    again = [_who(row) for row in rows if (row["times_opened"] or 0) > 1]
    if again:
        sentences.append(f"Meta-test was opened more than once for: {named(again)}.")
    if any(row["variant"] == PUBLISHED for row in rows):
        sentences.append("Published rows are references: not measured here, on other tasks, without a rank.")
        sentences += _on_queries(board["task"])
    return " ".join(sentences)


def _is_pretrained(row: Row) -> bool:
    """Tell whether data of others have trained a row's network; a baseline embeds by a frozen one alone."""
    network = str(row.get("network"))
    return network.endswith(FROZEN) or (network.endswith(PRETRAINED) and row["variant"] != BASELINE)


def _on_intervals(rows: Rows, metric: Metric, folds: int) -> list[str]:
    trained = {row["ci_over"] for row in rows if row["ci_over"] and row["seeds"]}
    if not trained:
        return []
    judged = metrics.NAMES[metric.name]
    better = "" if metric.unit == "%" else f", {metrics.better(metric)}"
    over = ", or over ".join(sorted(trained))
    floors = {row["ci_over"] for row in rows if row["ci_over"] and not row["seeds"]} or {TASKS}
    of_floors = f"baselines over {', or over '.join(sorted(floors))}"
    notes = [f"{judged} on meta-test{better}; 95 % intervals over {over}; {of_floors}."]
    if any(row.get("class_low") is not None for row in rows):
        which = " (environments, here)" if metric == metrics.RETURN else ""
        notes.append(f'"New classes": the interval for other test classes{which} than these.')
    if any(row.get("domain_low") is not None for row in rows):
        notes.append(
            '"New domains": the interval for other domains than these, each of which counts as one figure.'
        )
    one = [_who(row) for row in rows if row["seeds"] == folds]
    a_fold = " a fold" if folds > 1 else ""
    if one:
        notes.append(
            f"One seed{a_fold}, whose interval and rank say nothing of training again: {named(one)}."
        )
    few = [_who(row) for row in rows if row["seeds"] and folds < row["seeds"] < FEW_SEEDS * folds]
    if few:
        notes.append(
            f"Two seeds{a_fold}, whose interval is rough and covers 94 to 99, not 95 %: {named(few)}."
        )
    return notes


def _on_comparisons(rows: Rows) -> list[str]:
    if (best := _best(rows)) is None:
        return []
    verdicts = {str((row.get("vs_best") or {}).get("verdict")) for row in rows}
    alike = [_who(row) for row in rows if (row.get("vs_best") or {}).get("verdict") == ALIKE]
    if alike:
        return [f"Not distinguishable from {_who(best)} (p < 0.05, Holm): {named(alike)}."]
    others = [row for row in rows if row.get("vs_best") is not None]
    same = [_who(row) for row in others if row["vs_best"].get("verdict") == IDENTICAL]
    if len(others) == len(same):
        return []
    but = f" but {named(same)}, which has the same runs" if same else ""
    network = "The network of " if any(word.endswith("network") for word in verdicts) else ""
    return [f"{network}{_who(best)} is better than every other row{but} (p < 0.05, Holm)."]


def _on_same_classes(task: Mapping[str, Any]) -> list[str]:
    if _is_by_domain(task):
        return ["Meta-test shows classes of meta-train in other domains: this says nothing of new classes."]
    if not _has_same_classes(task):
        return []
    lines = ["Meta-test shows other pictures of the classes of meta-train: this says nothing of new classes."]
    if folds := (task.get("options") or {}).get("folds"):
        lines.append(
            f"Cross-validated: the runs take {folds} folds in turn, each picture that is not of "
            "meta-validation is in meta-test of one, and settings are chosen in the first."
        )
    return lines


def _has_same_classes(task: Mapping[str, Any]) -> bool:
    return (task.get("options") or {}).get("split_by") == "pictures"


def _is_by_domain(task: Mapping[str, Any]) -> bool:
    return (task.get("options") or {}).get("split_by") == "domain"


def _on_asking(board: Board, metric: Metric) -> list[str]:
    """Say what together and one at a time mean, and who gets less than the headline promises."""
    losing = [row for row in board["rows"] if loses(row, metric)]
    if not losing:
        return []
    what, show = _asked(board["task"], metric), _show(metric)
    lines = [
        f"Together: the {what} of a task are asked at once, and batch norm may use the moments of all of "
        f"them, so that the {metric} holds for such a batch only. One at a time: each is asked alone, as "
        "when a single one is to be judged."
    ]
    holds = f"holds for {what} asked together"
    for row in losing[:MOST_NAMED]:
        lines.append(
            f"{_who(row)}: {show(row[metric.name])} {holds}; one at a time it is {show(_alone(row, metric))}."
        )
    if len(losing) > MOST_NAMED:
        lines.append(f"So do {len(losing) - MOST_NAMED} more rows lose.")
    return lines


def loses(row: Row, metric: Metric) -> bool:
    """Tell whether a user who asks one at a time gets notably less."""
    together, alone = row.get(metric.name), _alone(row, metric)
    if together is None or alone is None:
        return False
    least = LEAST_LOSS[metric.unit] * (1 if metric.unit == "%" else abs(together))
    return bool(metric.sign * (together - alone) >= least > 0)


def _alone(row: Row, metric: Metric) -> float | None:
    alone: float | None = row.get(f"{metric}_one_at_a_time")
    return alone


def _asked(task: Mapping[str, Any], metric: Metric) -> str:
    """Name what is asked in a task, with how many there are."""
    if metric.unit != "%":
        return f"{task['test_query']} {metrics.ASKED[metric.name]}"
    ways = task["way"]
    counts = [ways] if isinstance(ways, int) else [ways["low"], ways["high"]]
    return "–".join(str(way * task["test_query"]) for way in counts) + " pictures"


def _on_classes(rows: Rows) -> list[str]:
    """Name what the best row finds hard."""
    best = _best(rows)
    if best is None or not best.get("hardest"):
        return []
    hard = ", ".join(
        f"{name} ({100 * share:.0f} % of {count:,} right)" for name, share, count in best["hardest"]
    )
    line = f"Hardest classes of {_who(best)}: {hard}"
    if best.get("confused"):
        true, guess, share, chances = best["confused"][0]
        line += f"; most often confused: {true} taken for {guess} in {100 * share:.0f} % of {chances:,} cases"
    return [f"{line}."]


def _on_queries(task: Mapping[str, Any]) -> list[str]:
    """Warn of published figures whose tasks had another number of queries."""
    others = [one for one in published.figures(task) if published.has_other_queries(one, task)]
    if not any(one.batch_norm == "transductive" for one in others):
        return []
    counts = ", ".join(str(one.test_query) for one in others)
    return [
        f"Published figures were tested with another number of queries a class ({counts}, here "
        f"{task['test_query']}): with transductive batch norm that counts (MAML on quickdraw, the same "
        "weights: 60.7 % with 1 query, 58.2 % with 15); `test_query` makes the tasks alike."
    ]


def _untested(rows: Rows) -> list[str]:
    waiting = [row for row in rows if row.get("status") == "untested"]
    if not waiting:
        return []
    folders = dict.fromkeys(folder for row in waiting for folder in row["folder"].split(", "))
    commands = named([f"`metabench test {folder}`" for folder in folders])
    return [f"Trained, but not tested: {named([_who(row) for row in waiting])}; do {commands}."]


def answer(board: Board) -> str:
    """Say in a few plain sentences which row is best, how sure that is, and what would tell more."""
    metric, ranked = METRICS[board["metric"]["name"]], _ranked(board["rows"])
    learned = [row for row in ranked if row["variant"] != BASELINE]
    if not learned:
        return _not_yet(board, metric)
    best, others = ranked[0], ranked[1:]
    sentences = ["Preliminary, since not every row is tested."] * (board["status"] != "finished")
    sentences.append(_leads(board["task"], best, learned[0], others, metric))
    sentences += _warnings(board["rows"], ranked, learned[0], metric)
    sentences += _overtaken(ranked, metric)
    sentences += _against(best, others, n_folds(board["task"].get("options") or {}))
    return " ".join(sentences)


def _ranked(rows: Rows) -> list[Row]:
    """List the tested rows, the one that all are compared with first."""
    ranked = [row for row in rows if row.get("rank") is not None]
    return sorted(ranked, key=lambda row: row.get("vs_best") is not None)


def _best(rows: Rows) -> Row | None:
    return next(iter(_ranked(rows)), None)


def _not_yet(board: Board, metric: Metric) -> str:
    rows = [row for row in board["rows"] if row["variant"] not in (BASELINE, PUBLISHED)]
    if not rows:
        return "There are only rows that learn nothing, so there is no answer."
    n_tested = sum(row.get("seeds") or 0 for row in rows)
    if board["status"] == "finished":
        return f"No learner has a result: {NO_ROW_WHOLE if n_tested else 'every run failed or diverged'}."
    looked = next((row for row in rows if row.get(f"val_{metric}") is not None), None)
    untested = f"So far {NO_ROW_WHOLE}" if n_tested else "Nothing has been tested yet"
    sentences = [f"{untested}, so there is no answer."]
    if looked is not None:
        figure = _show(metric)(looked[f"val_{metric}"])
        sentences.append(
            f"On meta-validation {_who(looked)} is ahead with {metric} {figure}, which is what settings are "
            "chosen by and no result."
        )
    return " ".join(sentences + _untested(rows))


def _leads(task: Mapping[str, Any], best: Row, learner: Row, others: Rows, metric: Metric) -> str:
    """Name the best row with its figure, and what that figure is of."""
    examples, judged = _examples(task, metric, learner)
    if best["variant"] == BASELINE:
        floor = f"{_who(best)}, which learns nothing: {judged} {_show(metric)(best[metric.name])}"
        beside = f"best learner: {_who(learner)}, {_judged(task, learner, metric)}"
        return f"{examples}, NO LEARNER IS SHOWN TO BE BETTER THAN {floor}; {beside}."
    rivals = [row for row in others if not _is_same(row)]
    leads = "is ahead:" if any(map(_may_be_best, rivals)) else "is best:" if rivals else "reaches"
    who = f"this one trained network of {_who(best)}" if best["seeds"] == 1 else _who(best)
    return f"{examples}, {who} {leads} {judged} {_judged(task, best, metric)}."


def _examples(task: Mapping[str, Any], metric: Metric, learner: Row) -> tuple[str, str]:
    """Put ways and shots into words, and the figure that follows."""
    shots = _count(task["shot"])
    one, many = metrics.EXAMPLES.get(metric.name, ("example", "examples"))
    examples = f"{shots} {one if shots == '1' else many}"
    if metric.unit != "%":
        judged = f"{metrics.NAMES[metric.name].lower()} ({metrics.better(metric)})"
        return f"With {examples} {metrics.NEW[metric.name]}", judged
    if learner.get("by_place") or {"label", "task"} <= (task.get("options") or {}).keys():
        return f"With {examples} of a new task, whose rows have their own labels", "accuracy"
    which = "classes that meta-train also shows" if _has_same_classes(task) else "new classes"
    which = "classes of a new domain" if _is_by_domain(task) else which
    return f"With {examples} of each of {_count(task['way'])} {which}", "accuracy"


def _judged(task: Mapping[str, Any], row: Row, metric: Metric) -> str:
    """Show a figure; where it is of queries that are asked together and would else be another, say so."""
    show, alone = _show(metric), _alone(row, metric)
    together = show(row[metric.name])
    if show(alone) == together or (alone is None and row.get("batch_norm") != "transductive"):
        return together
    return f"{together} for {_asked(task, metric)} asked together (one at a time: {show(alone)})"


def _warnings(rows: Rows, ranked: Rows, learner: Row, metric: Metric) -> list[str]:
    """Say loudly where the best learner is not shown to be better than what learns nothing.

    That another one is does not help it: p is that of this pair, for as many as might have led.
    """
    lines = []
    n_others = len({(row[metric.name], row["ci_low"], row["ci_high"]) for row in ranked}) - 1
    for row in rows:
        floor = row.get(metric.name)
        is_chance = row["algorithm"] == CHANCE
        is_floor = row["variant"] == BASELINE and (is_chance or row.get("rank") is not None)
        if not is_floor or floor is None or row is ranked[0]:
            continue
        if is_chance:
            who, alone = "guessing", learner.get("one_low")
            is_above = [(learner["ci_low"] or 0) > floor, alone is None or alone > floor]
        else:
            who, p = f"{_who(row)}, which learns nothing", (row.get("vs_best") or {}).get("p")
            is_above = [p is not None and n_others * p / 2 < LEVEL]
        if not all(is_above):
            what = "one at a time that" if is_above[0] else "that"
            lines.append(f"WARNING: {what} is not surely better than {who} ({_show(metric)(floor)}).")
    return lines


def _overtaken(ranked: Rows, metric: Metric) -> list[str]:
    """Say who would be best if pictures were asked one at a time, where that is another."""
    asked = [row for row in ranked if _alone(row, metric) is not None]
    if not asked or _alone(ranked[0], metric) is None:
        return []
    first = max(asked, key=lambda row: metric.sign * float(_alone(row, metric) or 0.0))
    ours, theirs = (_show(metric)(_alone(row, metric)) for row in (ranked[0], first))
    if ours == theirs:
        return []
    return [f"ONE AT A TIME ANOTHER ROW IS AHEAD: {_who(first)} with {theirs} against {ours}."]


def _against(best: Row, others: Rows, folds: int) -> list[str]:
    """Say who is surely worse, who may be as good, and what would tell more."""
    rivals = [row for row in others if not _is_same(row)]
    if not rivals:
        return ["All rows have the same results: nothing tells them apart."] * bool(others)
    alike = [row for row in rivals if _may_be_best(row)]
    worse = [row for row in rivals if not _may_be_best(row)]
    parts = []
    if worse:
        who = _few(worse) if alike or len(worse) == 1 else f"all {len(worse)} others"
        parts.append(f"surely {'not the best' if alike else 'worse'}: {who}")
    if alike:
        parts.append(f"not to be told apart from it: {_few(alike)}")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}.", *_more([best, *rivals], alike, folds)]


def _more(rows: Rows, alike: Rows, folds: int) -> list[str]:
    """Say what would tell more: other trainings, other tasks, or nothing."""
    seeds = [row["seeds"] // folds for row in rows if row["seeds"]]
    a_fold, trained = (" a fold", "these networks") if folds > 1 else ("", "that trained network")
    if seeds and min(seeds) == 1:
        return [f"A row of one seed{a_fold} speaks of {trained}, not of its settings: more seeds would tell."]
    if not alike or not seeds:
        return []
    if rows[0]["ci_over"] in (PICTURES, SEEDS_PICTURES):
        return ["More pictures of each class would tell more; more test tasks would not."]
    tasks = [(row.get("vs_best") or {}).get("p_tasks") for row in alike]
    if all(p is not None and p < LEVEL for p in tasks):  # tasks tell these networks apart already
        return [f"More seeds would tell more ({min(seeds)}{a_fold} now); more test tasks would not."]
    return [f"More test tasks would tell more, and so would more seeds ({min(seeds)}{a_fold} now)."]


def _may_be_best(row: Row) -> bool:
    """Tell whether no row is surely better than this one."""
    if row.get("may_be_best") is not None:
        return bool(row["may_be_best"])
    return not str((row.get("vs_best") or {}).get("verdict")).startswith(WORSE)


def _is_same(row: Row) -> bool:
    return (row.get("vs_best") or {}).get("verdict") == IDENTICAL


def _few(rows: Rows) -> str:
    return ", ".join(map(_who, rows)) if len(rows) <= MOST_ANSWERED else f"{len(rows)} rows"


def _show(metric: Metric) -> Any:
    """Return what writes a figure in a sentence."""
    plain = (lambda value: f"{100 * value:.1f} %") if metric.unit == "%" else metrics.plain
    return lambda value: "not measured" if value is None else plain(value)


def _who(row: Row) -> str:
    if row["variant"] == BASELINE:
        return str(row["algorithm"])
    return f"{row['algorithm']} {row['variant']}" + (f" ({row['label']})" if row.get("label") else "")


def named(names: Sequence[str]) -> str:
    """List names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
