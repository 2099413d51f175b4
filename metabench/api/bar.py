"""What is seen of a training: a bar of the tasks, and a line for each report."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import Progress, TextColumn

from metabench import stats
from metabench.core import Report, metrics
from metabench.core.metrics import Metric


def plain_console(quiet: bool) -> Console:
    """Return the error stream; in a notebook, too, where rich would draw a widget of one more package."""
    return Console(stderr=True, quiet=quiet, force_jupyter=False)


def validated(metric: Metric, score: float, half_width: float | None) -> str:
    """Show a meta-validation, with the bounds of its interval over tasks where there are several."""
    figure = metric.sign * score
    if half_width is None or math.isnan(half_width):
        return metrics.tell(metric, figure, 2)
    low, high = (metrics.show(metric, end, 2) for end in stats.bounds(figure, half_width, metric.scale))
    return f"{metrics.tell(metric, figure, 2)} [{low}, {high}]"


@contextlib.contextmanager
def train_progress(
    n_tasks: int, metric: Metric, console: Console
) -> Iterator[tuple[Callable[..., None], Callable[[Report], None]]]:
    """Show a bar of the tasks seen, and a line for each report."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("tasks", total=n_tasks, figures="")

        def progress(tasks_seen: int, means: Mapping[str, float]) -> None:
            loss, figure = means.get("meta_train/loss", 0.0), means.get(f"meta_train/{metric}", 0.0)
            shown = f"loss {loss:.3f}, {metric} {metrics.show(metric, figure)}"
            bar.update(row, completed=tasks_seen, figures=shown)

        def reported(report: Report) -> None:
            figure = validated(metric, report.val_score, report.val_ci) if report.finite else "diverged"
            bar.console.print(f"{report.tasks_seen:>9} tasks: {figure} on meta-validation", highlight=False)
            bar.update(row, completed=report.tasks_seen)

        yield progress, reported
