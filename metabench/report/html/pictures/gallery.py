"""An episode gallery: what trained learners predict on fresh meta-validation tasks.

The tasks are the first of their pool, not chosen by result. Meta-test stays closed: a picture
of its tasks would be one more look at them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from metabench import data
from metabench.core import MetabenchError, Splits
from metabench.data.tasks import frozen
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture, paths
from metabench.report.html.reading import Final, named
from metabench.training import features, mosaic
from metabench.training import run as runs
from metabench.training.mosaic import Episode

TITLE = "Episodes"
LEARNERS = 6
"""Learners that are shown, best first."""
TASKS = 2
ROWS = 10
"""Classes of all tasks of a picture; a task of more is shown alone."""
COLUMNS = 9
"""Images in a row."""
SIDE = 56
"""Pixels of a shown image, at most."""

HIT: Mapping[str, Any] = {"color": style.RIGHT, "linewidth": 1.5}
MISS: Mapping[str, Any] = {"color": style.WRONG, "linewidth": 3, "linestyle": (0, (2, 1))}


def draw(shown: Sequence[Final]) -> Drawn:
    """Draw one picture a learner, all on the same tasks; those beyond `LEARNERS` are left out."""
    try:
        task = runs.read_config(shown[0].run.folder).task
        splits = data.load(task)
        if splits.fingerprint != shown[0].run.config["data_fingerprint"]:
            return [
                Omitted(TITLE, f"the data of {task.dataset} here are others than those it was trained on")
            ]
        if splits.environment is not None and splits.environment.is_plane:
            return [paths.picture(*one, splits) for one in enumerate(shown[:LEARNERS], start=1)]
        if splits.kind != "regression" and not splits.meta_validation.has_pictures:
            rows = "environments" if splits.kind == "control" else "features"
            return [Omitted(TITLE, f"{task.dataset} holds {rows}, which no picture shows")]
        way = task.ways[1]
        n_tasks = 3 if way == 1 else max(1, min(TASKS, ROWS // way))
        tasks = frozen.frozen(splits, "meta_validation", task, n_tasks, "confirm")
        return [
            _picture(number, final, splits, tasks) for number, final in enumerate(shown[:LEARNERS], start=1)
        ]
    except MetabenchError as error:
        return [Omitted(TITLE, str(error))]


def _picture(number: int, final: Final, splits: Splits, tasks: frozen.FrozenTasks) -> Picture:
    seen = list(predict(final, splits, tasks))
    return (_regression if splits.kind == "regression" else _classification)(*named(number, final), seen)


def predict(final: Final, splits: Splits, tasks: frozen.FrozenTasks) -> Iterator[Episode]:
    """Adapt a run's weights to frozen tasks of meta-validation and predict all their queries."""
    config = runs.read_config(final.run.folder)
    splits = features.embedded(splits, config.task, config.network)
    run = runs.open_run(final.run.folder, splits)
    return mosaic.predict(run.model, splits.meta_validation, tasks)


def _classification(name: str, title: str, seen: Sequence[Episode]) -> Picture:
    caption = (
        "Support images on the left, some of the queries on the right: a thin blue frame where the "
        "prediction is right; a thick dashed orange one where it is wrong, with the letter of the class it "
        "was taken for. The tasks are the first of the fresh meta-validation tasks, the same for all "
        "learners; meta-test stays closed."
    )
    said = []
    for number, one in enumerate(seen, start=1):
        hits = one.guess == one.query_y
        by_class = [
            f"{cls} {int(hits[one.query_y == label].sum())} of {int((one.query_y == label).sum())}"
            for label, cls in enumerate(one.classes)
        ]
        said.append(f"{_right(number, one)} ({', '.join(by_class)})")
    alt = f"Images of {len(seen)} tasks; {'; '.join(said)}."
    return Picture(name, title, caption, alt, partial(_tasks, seen))


def _right(number: int, one: Episode) -> str:
    hits = one.guess == one.query_y
    return f"task {number}: {int(hits.sum())} of {len(hits)} queries right"


class Grid(NamedTuple):
    """How the images of tasks are laid out, in units of an image's side."""

    n_support: int
    n_query: int
    margin: float  # on the left, for the names of classes; without one they stand above
    row: float  # from one class to the next


def _tasks(seen: Sequence[Episode], width: float) -> Figure:
    is_wide = width > style.NARROW
    columns = COLUMNS if is_wide else 6
    n_support = min(5 if is_wide else 3, max(int(torch.bincount(one.support_y).max()) for one in seen))
    n_query = min(int(torch.bincount(seen[0].query_y).max()), max(3, columns - n_support))
    grid = Grid(n_support, n_query, 2.4, 1.25) if is_wide else Grid(n_support, n_query, 0, 1.75)
    across = grid.margin + n_support + 0.5 + n_query
    height = sum(grid.row * len(one.classes) + 0.7 for one in seen)
    unit = min(0.9, width / across)
    figure = style.new(unit * height + 0.6, max(min(5.5, width), unit * across))
    axis = figure.subplots()
    axis.axis("off")
    top = 0.0
    for number, one in enumerate(seen, start=1):
        share = float((one.guess == one.query_y).float().mean())
        words = f"{_right(number, one)} ({share:.0%})"
        axis.text(0.05 - grid.margin, top + 0.4, words, fontweight="bold", va="center")
        _draw_episode(axis, one, top + 0.7, grid)
        top += grid.row * len(one.classes) + 0.7
    axis.set_xlim(-grid.margin, across - grid.margin)
    axis.set_ylim(height, 0)
    axis.set_aspect("equal")
    style.legend(figure, [style.key(**HIT), style.key(**MISS)], ["right", "wrong, and what it was taken for"])
    return figure


def _draw_episode(axis: Axes, one: Episode, top: float, grid: Grid) -> None:
    shown = zip(one.classes, mosaic.by_class(one, grid.n_support, grid.n_query), strict=True)
    for label, (name, (support, queries)) in enumerate(shown):
        words = f"{_letter(label)}: {style.short(name, 22 if grid.margin else 40)}"
        y = top + grid.row * label
        if grid.margin:
            axis.text(-0.12, y + 0.5, words, ha="right", va="center", fontsize=9)
        else:
            axis.text(0.05, y + 0.2, words, va="center", fontsize=9)
            y += 0.4
        for column, image in enumerate(support):
            _draw_image(axis, image, column, y)
        for column, index in enumerate(queries):
            x, guess = grid.n_support + 0.5 + column, int(one.guess[index])
            _draw_image(axis, one.query[index], x, y)
            if guess != label:
                letter = _letter(guess) if guess < len(one.classes) else "none of these"
                words = f"taken for {letter}" if grid.margin else f"→ {letter}"
                axis.text(x + 0.5, y + 1.1, words, ha="center", va="center", fontsize=8)
            left, right, low, high = x + 0.04, x + 0.96, y + 0.04, y + 0.96
            frame = HIT if guess == label else MISS
            axis.plot([left, right, right, left, left], [low, low, high, high, low], **frame)


def _letter(label: int) -> str:
    """Name a class of a task in one letter, or a number where there are too many."""
    return chr(ord("A") + label) if label < 26 else str(label + 1)


def _draw_image(axis: Axes, image: Tensor, x: float, y: float) -> None:
    small = min(1.0, SIDE / max(image.shape[1:]))
    if small < 1:
        image = adaptive_avg_pool2d(image, (round(image.shape[1] * small), round(image.shape[2] * small)))
    where = (x + 0.05, x + 0.95, y + 0.95, y + 0.05)
    axis.imshow(mosaic.colours(image), extent=where, interpolation="none")


def _regression(name: str, title: str, seen: Sequence[Episode]) -> Picture:
    caption = (
        "Functions of the first fresh meta-validation tasks, the same for all learners: the points that the "
        "learner adapted to, what it predicts at the queries, and the truth. Between the points it can only "
        "know what meta-training taught it. Of functions of several numbers: predictions over the truth."
    )
    said = [f"task {n} has a mean squared error of {_error(one):.3g}" for n, one in enumerate(seen, start=1)]
    alt = f"Curves of {len(seen)} functions; {'; '.join(said)}."
    return Picture(name, title, caption, alt, partial(_functions, seen))


def _error(one: Episode) -> float:
    return float((one.query_y.flatten() - one.guess).square().mean())


def _functions(seen: Sequence[Episode], width: float) -> Figure:
    figure, axes = style.panels(len(seen), 2.8, width)
    for number, (axis, one) in enumerate(zip(axes, seen, strict=True), start=1):
        if one.query.shape[1] > 1:
            _over_truth(axis, one)
            style.title(axis, f"task {number}: error {_error(one):.3g}", "truth")
            continue
        order = one.query[:, 0].argsort()
        truth, guess, support = one.query_y.flatten(), one.guess, (one.support[:, 0], one.support_y.flatten())
        axis.plot(one.query[order, 0], truth[order], color=style.FAINT, linewidth=4, alpha=0.6, label="truth")
        axis.plot(one.query[order, 0], guess[order], color=style.light("blue"), label="predicted")
        axis.plot(*support, "D", color=style.WRONG, markersize=6, label="support")
        style.title(axis, f"task {number}: error {_error(one):.3g}", "x")
    style.legend(figure, *axes[0].get_legend_handles_labels())
    return figure


def _over_truth(axis: Axes, one: Episode) -> None:
    """Draw predictions over the truth, as no curve shows a function of several numbers."""
    truth = one.query_y.flatten()
    ends = [float(truth.min()), float(truth.max())]
    axis.plot(ends, ends, color=style.FAINT, linewidth=4, alpha=0.6, label="truth")
    axis.plot(truth, one.guess, "o", color=style.light("blue"), markersize=4, label="predicted")
