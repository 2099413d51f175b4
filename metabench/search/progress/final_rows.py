"""The final runs as TensorBoard shows them: one run a row of the board, its seeds together."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import stats
from metabench.core.config import RunConfig
from metabench.core.metrics import Metric
from metabench.storage import files, models, records
from metabench.storage.files import Damaged
from metabench.storage.tensorboard import INNER_RATES, Events, inner_rates

FINAL_RUN = "_final"
"""Folder of these runs; TensorBoard sorts it before those of the trials."""

PICTURED = ("episode/", "diagnostics/")
"""What the first seed's own event files show of its adaptation, by tags."""


MEANS = {
    "meta_validation/loss": "val_loss",
    "meta_train/accuracy": "train_accuracy",
    "meta_train/loss": "train_loss",
    "system/seconds": "seconds",
    "system/peak_memory_bytes": "peak_memory",
}
"""Other figures, to what they are in a report."""

Line = Mapping[str, Any]
"""A report, as it stands in a file."""


class FinalRows:
    """Writes what final runs report; each row has one writer, since TensorBoard follows one file of a run."""

    def __init__(self, folder: Path, metric: Metric, runs: Mapping[str, RunConfig]) -> None:
        """Begin anew with the rows of all final runs, which are given by name."""
        self.folder, self.metric = folder, metric
        self.rows: dict[str, list[str]] = {}
        for name in runs:
            self.rows.setdefault(row_of(name), []).append(name)
        self._events = {row: Events(run_folder(folder, row), resume_step=-1) for row in self.rows}
        self._shown: dict[str, int] = {}  # name of a row or a run -> how many reports
        self._pictured: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._lines: dict[str, list[Line]] = {}
        for row, names in self.rows.items():
            first = runs[names[0]]
            self._events[row].hparams_run({"algorithm": first.algorithm, **first.hyperparameters}, row)

    def catch_up(self) -> None:
        """Write what was reported since: the figure of each of several seeds, and means over all of them."""
        for row, names in self.rows.items():
            events, reports = self._events[row], {name: self._reports(name) for name in names}
            for name in names if len(names) > 1 else ():
                for seen, figures in self._since(name, [[line] for line in reports[name]]):
                    tag = f"meta_validation/{self.metric}"
                    events.scalars(seen, {f"{tag}/{name.rpartition('-')[2]}": figures[tag]})
            together = [list(lines) for lines in zip(*reports.values(), strict=False)]
            first = self._shown.get(row, 0)
            for seen, figures in self._since(row, together):
                events.scalars(seen, figures)
            for lines in together[first:]:
                rates = [rate for line in lines for rate in inner_rates(line.get("logs") or {})]
                events.histogram(lines[0]["tasks_seen"], INNER_RATES, rates)
            self._picture(row, names[0])
            events.flush()

    def _since(self, what: str, reports: list[list[Line]]) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield the tasks seen and the figures of reports that are not shown yet, of one seed or of all."""
        for lines in reports[self._shown.get(what, 0) :]:
            yield lines[0]["tasks_seen"], self._figures(lines)
        self._shown[what] = len(reports)

    def _reports(self, name: str) -> list[Line]:
        """Read a run's reports, unless they are those that were read before."""
        path = self.folder / files.FINAL / name / files.REPORTS
        size = path.stat().st_size if path.exists() else 0
        if self._sizes.get(name) != size:
            with contextlib.suppress(Damaged):  # its worker finds out, and makes them again
                lines = records.lines(path, models.REPORT)
                self._lines[name] = [
                    {key: line[key] for key in line if key != "val_scores"} for line in lines
                ]
            self._sizes[name] = size
        return self._lines.setdefault(name, [])

    def _figures(self, lines: Sequence[Line]) -> dict[str, float]:
        """Average what seeds reported; bounds are those over the tasks of one, else the seeds' extremes."""
        scores = [math.nan if line["val_score"] is None else line["val_score"] for line in lines]
        figures = [self.metric.sign * score for score in scores]
        low, high = min(figures), max(figures)
        if len(lines) == 1:
            half = lines[0].get("val_ci")
            low, high = stats.bounds(figures[0], math.nan if half is None else half, self.metric.scale)
        name = f"meta_validation/{self.metric}"
        shown = {name: statistics.fmean(figures), f"{name}/low": low, f"{name}/high": high}
        with_logs = [{**line, **(line.get("logs") or {})} for line in lines]
        keys = {**MEANS, **{key: key for key in lines[0].get("logs") or {}}}
        for tag, key in keys.items():
            values = [float(each[key]) for each in with_logs if each.get(key) is not None]
            if len(values) == len(with_logs):
                shown[tag] = statistics.fmean(values)
        return shown

    def _picture(self, row: str, name: str) -> None:
        run = self.folder / files.FINAL / name
        if row not in self._pictured and (run / files.DIAGNOSTICS).exists():
            self._events[row].copy(run / files.TENSORBOARD, PICTURED)
            self._pictured.add(row)

    def close(self) -> None:
        """End all files."""
        for events in self._events.values():
            events.close()


def row_of(name: str) -> str:
    """Name the row of a final run: what stands before its seed."""
    return name.rpartition("-seed")[0]


def run_folder(folder: Path, row: str) -> Path:
    """Return the folder of a row's event files."""
    return folder / files.TENSORBOARD / FINAL_RUN / row
