"""What to label: runs scored with a growing number of labels, as acquisitions ask for them, into a folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console

from metabench import PROTOCOL, acquisition, data
from metabench.acquisition import REFERENCE, Acquisition, learning, rounds, table
from metabench.acquisition import config as configs
from metabench.acquisition.config import LabelConfig
from metabench.api import bar
from metabench.api.runs import Place, Run, load_splits
from metabench.core import MetabenchError, Splits, utc_now
from metabench.core.config import TaskConfig, validated
from metabench.core.device import pick
from metabench.data.tasks import frozen
from metabench.storage import files, tensors
from metabench.training import run as runs
from metabench.training.vectorise import Model

if TYPE_CHECKING:
    from pandas import DataFrame

RECORD, SCORES, TABLE, BY_TASK, PICTURE = "labels.json", "scores.jsonl", "table", "tasks.csv", "labels"

ACQUIRE = (REFERENCE, "entropy", "k_centre", "oracle")
"""What is compared unless something else is asked for."""

POOLS: Mapping[str, frozen.Pool] = {"meta_test": "test", "meta_validation": "confirm"}

REACH = 0.9
"""Accuracy whose number of labels a table has, unless another is asked for."""


@dataclass(frozen=True)
class Labels:
    """Runs with acquisitions, on the same tasks at the same numbers of labels."""

    folder: Path
    record: Mapping[str, Any] = field(repr=False)
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    """One a run and acquisition, as `acquisition.table.rows` has them."""

    def to_pandas(self) -> DataFrame:
        """Return a row a run and acquisition: accuracy and gain at each number of labels, and the rest."""
        import pandas as pd

        return pd.DataFrame([table.flat(row) for row in self.rows])


def label(
    run: Place | Run | Sequence[Place | Run],
    acquire: Sequence[str] = ACQUIRE,
    *,
    out: Place | None = None,
    reach: float = REACH,
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> Labels:
    """Score runs while acquisitions ask for labels of a pool, round by round; the same call goes on.

    Args:
        run: one run, or several of the same data and ways.
        acquire: names of acquisitions; `random`, which all are compared with, is always among them.
        out: folder of what comes out; named after the first run, in `runs`, where it is not given. More
            acquisitions and runs may be added to one that is there.
        reach: accuracy whose number of labels is said.
        device: auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.
        quiet: show no progress.
        settings: start, pool, distractors, skew, rounds, batch, query, tasks, part.
    """
    listed = [run] if isinstance(run, (str, Path, Run)) or hasattr(run, "__fspath__") else list(run)
    folders = [files.path_of(one, "run") for one in listed]
    place = None if out is None else files.path_of(out, "out")
    console = bar.plain_console(quiet)
    return label_into(folders, acquire, validated(LabelConfig, settings), place, reach, device, console)


def label_into(
    folders: Sequence[Path],
    acquire: Sequence[str],
    config: LabelConfig,
    out: Path | None,
    reach: float,
    device: str,
    console: Console,
) -> Labels:
    """Do the same for folders of runs."""
    if not 0 < reach < 1:
        raise MetabenchError(f"reach={reach:g}: must be > 0 and < 1, an accuracy")
    if not folders:
        raise MetabenchError("run: give at least one run folder")
    names = list(dict.fromkeys([REFERENCE, *map(acquisition.canonical, acquire)]))
    described = {str(folder): runs.read_config(folder) for folder in dict.fromkeys(folders)}
    configs.check(config, names, described)
    place = out or Path("runs") / f"labels-{folders[0].absolute().name}"
    files.check_writable(place)
    first = runs.read_config(folders[0])
    splits = load_splits(first.task, first.network, console)
    with files.lock(place):
        lines = _complete(place, described, names, config, splits, device, console)
        record = files.read_json(place / RECORD)
        summarised = table.rows(lines, record["labels"], reach)
        _write(place, summarised, lines)
    return Labels(place, record, summarised)


def _complete(
    place: Path,
    described: Mapping[str, Any],
    names: Sequence[str],
    config: LabelConfig,
    splits: Splits,
    device: str,
    console: Console,
) -> list[dict[str, Any]]:
    """Compute what a folder lacks of runs and acquisitions; return all its lines."""
    first = next(iter(described.values()))
    split = getattr(splits, config.part)
    task = configs.task_of(config, first.task, split, f"{config.part} of {splits.name}")
    data.check(task, splits, [config.part])
    tasks = frozen.frozen(splits, config.part, task, config.tasks, POOLS[config.part])
    _claim(place, config, task.way, splits, tasks.hash)
    lines: list[dict[str, Any]] = files.read_lines(place / SCORES)
    for folder, run in described.items():
        runs.refuse_other_data(Path(folder), splits)
        its_splits = splits if run.network == first.network else load_splits(run.task, run.network, console)
        weights = hashlib.sha256((Path(folder) / files.WEIGHTS).read_bytes()).hexdigest()[:16]
        known_as = next((line["run"] for line in lines if line["weights"] == weights), folder)
        lines = [line for line in lines if line["run"] != known_as or line["weights"] == weights]
        done = {line["acquire"] for line in lines if line["weights"] == weights}
        missing = [name for name in names if name not in done]
        if missing:
            about = {"run": known_as, "weights": weights, "algorithm": run.algorithm}
            asking = Asking(place, Path(folder), run.task, its_splits, config, pick(device))
            for name, came in asking.labelled(tasks, missing, weights):
                lines.append(files.plain({**about, "acquire": name, **came._asdict()}))
                files.append_line(place / SCORES, lines[-1])
                console.print(
                    f"{folder}: {name}: {came.accuracy[:, -1].mean():.2%} at the end", soft_wrap=True
                )
    return lines


class Asking(NamedTuple):
    """One run that labels are asked for."""

    place: Path
    folder: Path
    task: TaskConfig
    splits: Splits
    config: LabelConfig
    device: torch.device

    def labelled(
        self, tasks: frozen.FrozenTasks, names: Sequence[str], weights: str
    ) -> Iterator[tuple[str, rounds.Labelled]]:
        """Open the run, record that its meta-test was opened, learn what is learnt, and ask."""
        model = runs.open_run(self.folder, self.splits, self.device).model
        if self.config.part == "meta_test":
            opening = runs.opened(self.folder, self.splits, self.splits) | {"out": self.place.absolute()}
            files.append_line(self.folder / files.LABELLED, opening)
        rules = {name: self.rule(name, model, weights) for name in names}
        images = getattr(self.splits, self.config.part).images.to(self.device)
        yield from rounds.label(model, images, tasks, rules, self.config)

    def rule(self, name: str, model: Model, weights: str) -> Acquisition:
        """Return an acquisition; one that is learnt with what it learnt, which the folder keeps."""
        rule = acquisition.get(name)
        if rule.learns is None:
            return rule
        path, split = self.place / f"{name}-{weights}.safetensors", self.splits.meta_train
        if files.is_missing(path):
            split = split._replace(images=split.images.to(self.device))
            described = configs.task_of(self.config, self.task, split, f"meta_train of {self.splits.name}")
            tensors.save(path, learning.learn(model, split, described, self.config), {"weights": weights})
        return learning.bound(rule, tensors.load(path, self.device)[0], self.config)


def _claim(place: Path, config: LabelConfig, way: Any, splits: Splits, tasks_hash: str) -> None:
    """Describe new tasks in their folder, or check that it holds these very tasks."""
    labels = [way * config.start + number * config.batch for number in range(config.rounds + 1)]
    record = {
        "protocol": PROTOCOL,
        "config": config.model_dump(),
        "labels": labels,
        "data": splits.name,
        "data_fingerprint": splits.fingerprint,
        "tasks_hash": tasks_hash,
    }
    path = place / RECORD
    if files.is_missing(path):
        now = {"made": utc_now().isoformat(timespec="seconds"), "code": files.code_hash()}
        files.write_json(path, record | now | files.environment())
        return
    before = files.read_json(path)
    if different := [
        key for key, value in record.items() if before.get(key) != json.loads(json.dumps(value))
    ]:
        raise MetabenchError(
            f"{place}: holds labels asked for otherwise ({', '.join(different)}); choose another folder"
        )


def _write(place: Path, summarised: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> None:
    """Write what follows from the scores: tables and the picture."""
    from metabench.report.html import style, svg
    from metabench.report.html.pictures import labels as pictures

    cells = [table.flat(row) for row in summarised]
    files.write_json(place / f"{TABLE}.json", {"rows": cells})
    files.write_text(place / f"{TABLE}.csv", _csv(cells))
    by_task = [
        {"run": line["run"], "acquire": line["acquire"], "task": task, "round": number}
        | {key: line[key][task][number] for key in ("accuracy", "classes", "wasted")}
        for line in lines
        for task in range(len(line["accuracy"]))
        for number in range(len(line["accuracy"][task]))
    ]
    files.write_text(place / BY_TASK, _csv(by_task))
    with style.rules():
        rendered = svg.render(pictures.draw(summarised))
    files.write_bytes(place / f"{PICTURE}.svg", rendered.svg)
    files.write_bytes(place / f"{PICTURE}.png", rendered.png)


def _csv(cells: Sequence[Mapping[str, Any]]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: files.as_cell(value) for key, value in row.items()} for row in cells)
    return target.getvalue()
