"""Answer questions that Cloudera Fast Forward's report left open: what training on one task does for another.

`domains`: trained on one data set, tested on each. `ways_shots`: trained at some ways and shots, tested at
others. `order`: MAML of second and of first order, with equal tasks and with equal seconds, and after so many
inner steps. `sinusoid`: every learner by gradients on sinusoids, after so many inner steps. Each is a grid of
trainings over several seeds; what every task of every test got is kept in `benchmarks/findings/`. The same
command goes on where it stopped, and prints the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import lzma
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cloudera import shown

from metabench import PROTOCOL, algorithms, data, stats
from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig, field_types
from metabench.data.tasks import frozen
from metabench.report.html import style
from metabench.storage import files
from metabench.training import evaluate
from metabench.training import run as runs

KEPT = Path(__file__).with_name("findings")
TEST_TASKS, VALIDATION_TASKS, REPORTS = 400, 100, 5
HUGE = 1e3  # an error, of functions between -5 and 5

NETWORK = NetworkConfig(name="conv4", width=20)
PROTONET = {"outer_lr": 3e-3, "task_batch_size": 5, "cosine": True, "augment": "both"}
MAML = {"inner_lr": 0.4, "inner_steps": 5, "outer_lr": 2e-3, "task_batch_size": 5, "cosine": True}
MAML |= {"augment": "both"}
"""Good guesses of `search_spaces/quickdraw_5w1s.yaml`."""

DATA: Mapping[str, Mapping[str, Any]] = {
    "glyphs": {"dataset": "glyphs"},
    "omniglot": {"dataset": "omniglot"},
    "quickdraw": {"dataset": "quickdraw", "split": "cloudera", "options": {"examples_per_class": 20}},
    "caltech101": {
        "dataset": "folder",
        "options": {"path": "caltech101/caltech101_96px.zip", "size": 28, "channels": 1},
    },
}
AUGMENT = {"flip": False, "rotate": 10, "scale": 0.15, "shear": 0.15, "shift": 0.05}

SINUSOID = {"dataset": "sinusoid", "way": 1, "shot": 10, "query": 10, "test_query": 10}
REGRESSOR = NetworkConfig(name="mlp", width=40, depth=2, norm="none")
"""Of the MAML paper, section 5.1."""
STEPS = {"inner_lr": 0.02, "inner_steps": 3, "outer_lr": 0.01, "task_batch_size": 10, "cosine": True}
"""Near the best of 60 settings of MAML that were recorded (`curves_sinusoid_maml.jsonl`)."""
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "maml_pp": {"outer_lr": 0.003},
    "meta_sgd": {"outer_lr": 0.003},
    "reptile": {
        "inner_optimizer": "sgd", "inner_steps": 5, "inner_batch": 5, "outer_lr": 0.1, "task_batch_size": 5,
    },
}  # fmt: skip
"""Better for these, by one short training of each: learned rates want a lower outer one."""


class Row(NamedTuple):
    """One way to train."""

    name: str
    algorithm: str
    settings: Mapping[str, Any]
    task: Mapping[str, Any]
    tasks: int


class Question(NamedTuple):
    """A grid of trainings and tests."""

    rows: Sequence[Row]
    tests: Mapping[str, Mapping[str, Any]]
    beside: str | None = None  # the row that others are compared with; else the one trained for the test
    steps: Sequence[int] = ()  # inner steps that each network is tested after, too
    network: NetworkConfig = NETWORK
    metric: str = "accuracy"

    def show(self, mean: float, low: float, high: float, sign: str = "") -> str:
        """Write a figure with its interval: in points, or as the error is."""
        if not np.isfinite(mean):
            return "diverges"
        if self.metric == "accuracy":
            return shown(mean, low, high, sign)
        return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _shaped(way: int | dict[str, int], shot: int | dict[str, int]) -> dict[str, Any]:
    return {**DATA["quickdraw"], "way": way, "shot": shot}


def _domains() -> Question:
    rows = [Row(name, "protonet", PROTONET, task, 3000) for name, task in DATA.items()]
    return Question(rows, DATA)


def _ways_shots() -> Question:
    trained = {
        f"{way}-way {shot}-shot": _shaped(way, shot) for way, shot in ((5, 1), (5, 5), (20, 1), (20, 5))
    }
    trained["5 to 20-way 1 to 5-shot"] = _shaped({"low": 5, "high": 20}, {"low": 1, "high": 5})
    rows = [Row(name, "protonet", PROTONET, task, 2000) for name, task in trained.items()]
    tested = ((5, 1), (5, 5), (5, 10), (10, 1), (10, 5), (20, 1))
    return Question(rows, {f"{way}-way {shot}-shot": _shaped(way, shot) for way, shot in tested})


def _order() -> Question:
    # 5 inner steps take 27.9 and 14.7 ms of processor time a task on the machine of the results.
    rows = [
        Row("second order", "maml", MAML, DATA["quickdraw"], 3000),
        Row("first order, as many tasks", "fomaml", MAML, DATA["quickdraw"], 3000),
        Row("first order, as many seconds", "fomaml", MAML, DATA["quickdraw"], 5700),
    ]
    return Question(rows, {"5-way 1-shot": DATA["quickdraw"]}, "second order", (0, 1, 2, 3, 5, 7, 10, 20))


def _sinusoid() -> Question:
    names = (
        "maml",
        "fomaml",
        "anil",
        "boil",
        "meta_sgd",
        "alpha_maml",
        "maml_pp",
        "reptile",
        "joint",
    )
    rows = []
    for name in names:
        fields = field_types(algorithms.get(name).hparams)
        settings = {key: value for key, value in STEPS.items() if key in fields}
        rows.append(Row(name, name, settings | OTHERS.get(name, {}), SINUSOID, 24_000))
    return Question(rows, {"sinusoids": SINUSOID}, "maml", (0, 1, 2, 3, 5, 10), REGRESSOR, "error")


QUESTIONS = {
    "domains": _domains(),
    "ways_shots": _ways_shots(),
    "order": _order(),
    "sinusoid": _sinusoid(),
}


def configure(row: Row, question: Question, seed: int) -> RunConfig:
    """Describe one training of a row."""
    return RunConfig(
        algorithm=row.algorithm,
        hyperparameters=vars(algorithms.hparams(row.algorithm, row.settings)),
        task=TaskConfig(**row.task, augment=AUGMENT),
        network=question.network,
        tasks=row.tasks,
        rungs=[row.tasks * step // REPORTS for step in range(1, REPORTS + 1)],
        validation_tasks=VALIDATION_TASKS,
        seed=seed,
    )


def answer(row: Row, question: Question, seed: int, folder: Path) -> dict[str, Any]:
    """Train once, test on everything, and return what each task got."""
    config = configure(row, question, seed)
    splits = data.load(config.task)
    runs.train_run(config, splits, folder)
    record: dict[str, Any] = {"seconds": files.read_lines(folder / files.REPORTS)[-1]["seconds"], "tests": {}}
    for name, task in question.tests.items():
        asked = TaskConfig(**task)
        tested = data.load(asked)
        tasks = frozen.frozen(tested, "meta_test", asked, TEST_TASKS, "test")
        result = runs.test_run(folder, splits, TEST_TASKS, tasks=tasks, other=tested, is_diagnosed=False)
        record["tests"][name] = {
            "hash": tasks.hash,
            question.metric: [round(one, 5) for one in result[question.metric]],
        }
    model = runs.open_run(folder, splits).model
    tasks = frozen.frozen(splits, "meta_test", config.task, TEST_TASKS, "test")
    for step in question.steps:
        changed = model._replace(h=dataclasses.replace(model.h, eval_steps=step))
        scored = evaluate.evaluate(changed, splits.meta_test.images, tasks)
        record["tests"][after(step)] = {"hash": tasks.hash, question.metric: scored.score.tolist()}
    return record


def after(step: int) -> str:
    """Name the test after so many inner steps."""
    return f"after {step}"


def path_of(name: str) -> Path:
    """Return where the results of a question are kept."""
    return KEPT / f"{name}.json.xz"


def read(name: str) -> dict[str, Any]:
    """Read what is kept of a question: rows to seeds to seconds and figures."""
    path = path_of(name)
    kept: dict[str, Any] = json.loads(lzma.decompress(path.read_bytes())) if path.exists() else {}
    return kept or {"protocol": PROTOCOL, **files.environment(), "rows": {}}


def fill(name: str, seeds: int, out: Path) -> None:
    """Train and test what is not kept yet, seed by seed."""
    question = QUESTIONS[name]
    KEPT.mkdir(exist_ok=True)
    for seed, row in itertools.product(range(seeds), question.rows):
        if str(seed) not in read(name)["rows"].get(row.name, {}):
            folder = out / name / f"{row.name.replace(' ', '-').replace(',', '')}-seed{seed}"
            record = answer(row, question, seed, folder)
            kept = read(name)  # what another process has added meanwhile, too
            kept["rows"].setdefault(row.name, {})[str(seed)] = record
            files.write_bytes(path_of(name), lzma.compress(json.dumps(kept).encode()))
            print(f"{name}: {row.name}, seed {seed}", flush=True)


def scores(of_row: Mapping[str, Any], test: str) -> np.ndarray:
    """Return the accuracies or errors, [seeds, T], of a row in a test; NaN throughout where one diverged."""
    tests = [one["tests"][test] for one in of_row.values()]
    values = np.array([one.get("accuracy", one.get("error")) for one in tests], float)
    return values if (abs(values) < HUGE).all() else np.full_like(values, np.nan)


def interval(values: np.ndarray, others: np.ndarray | None = None) -> tuple[float, float, float]:
    """Return the mean over seeds and tasks, or its difference from others', with its interval; NaN of NaN."""
    if not np.isfinite(values if others is None else values - others).all():
        return np.nan, np.nan, np.nan
    return (stats.seeds_and_tasks(values) if others is None else stats.paired(values, others))[:3]


def table(name: str) -> str:
    """Return figures, and how far each row is from the one that was trained for the test, paired."""
    rows, question = read(name)["rows"], QUESTIONS[name]
    lines = [f"| trained | seeds | tasks | {' | '.join(question.tests)} |"]
    n_tasks = {row.name: row.tasks for row in question.rows}
    lines.append("|---" * (3 + len(question.tests)) + "|")
    for row, of_row in rows.items():
        cells = [row, str(len(of_row)), f"{n_tasks[row]:,}"]
        for test in question.tests:
            cells.append(question.show(*interval(scores(of_row, test))))
            trained = rows.get(question.beside or test)
            if trained is not None and trained is not of_row:
                apart = interval(scores(of_row, test), scores(trained, test))
                cells[-1] += f": {question.show(*apart, sign='+')}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_table(name: str) -> str:
    """Return figures after inner steps, and how far each is from that after the first row's own number."""
    question = QUESTIONS[name]
    steps, trained = question.steps, after(question.rows[0].settings["inner_steps"])
    lines = [f"| inner steps at test | {' | '.join(map(str, steps))} |", "|---" * (1 + len(steps)) + "|"]
    for row, of_row in read(name)["rows"].items():
        cells = []
        for test in map(after, steps):
            cells.append(question.show(*interval(scores(of_row, test))))
            if test != trained:
                apart = interval(scores(of_row, test) - scores(of_row, trained))
                cells[-1] += f": {question.show(*apart, sign='+')}"
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(name: str, path: Path) -> None:
    """Draw figures as a heat map of trainings and tests, or over inner steps where these were followed."""
    rows, question = read(name)["rows"], QUESTIONS[name]
    is_share = question.metric == "accuracy"
    with style.rules():
        figure = style.new(3.4, 7.2)
        axis = figure.add_subplot()
        if question.steps:
            for row, look in style.lines(list(rows)).items():
                points = [interval(scores(rows[row], after(step))) for step in question.steps]
                mean, low, high = (100 if is_share else 1) * np.array(points).T
                axis.errorbar(question.steps, mean, (mean - low, high - mean), label=row, **look._asdict())
            style.title(axis, "", "inner steps at test", f"meta-test {question.metric}{', %' * is_share}")
            axis.set_xticks(question.steps)
            axis.legend()
        else:
            means = 100 * np.array(
                [[scores(one, test).mean() for test in question.tests] for one in rows.values()]
            )
            axis.imshow(means, cmap="Blues", aspect="auto", vmin=20)
            axis.set_xticks(range(means.shape[1]), [f"on {test}" for test in question.tests])
            axis.set_yticks(range(means.shape[0]), [f"trained on {row}" for row in rows])
            for (row, test), mean in np.ndenumerate(means):
                colour = style.PAPER if mean > means.mean() else style.INK
                axis.text(test, row, f"{mean:.0f}", ha="center", va="center", color=colour)
            axis.grid(False)
        figure.savefig(path, dpi=110)


def main() -> int:
    """Answer the questions that were asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("questions", nargs="+", choices=list(QUESTIONS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row; 0: print what is kept")
    parser.add_argument("--out", type=Path, default=Path("runs/findings"), help="folder of the runs")
    parser.add_argument("--pictures", type=Path, help="folder to draw them into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.questions:
        try:
            fill(name, options.seeds, options.out)
        except MetabenchError as error:
            parser.error(str(error))
        print(f"\n{name}\n\n{table(name)}", flush=True)
        if QUESTIONS[name].steps:
            print(f"\n{steps_table(name)}", flush=True)
        if options.pictures:
            draw(name, options.pictures / f"findings_{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
