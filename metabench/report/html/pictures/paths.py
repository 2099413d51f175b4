"""Paths in the plane: where a policy walked before and after it adapted, and where the goal is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metabench.core import Splits, Task, trees
from metabench.core.control import Moves, mean_return
from metabench.core.metrics import RETURN, show
from metabench.data.tasks import frozen
from metabench.report.html import style
from metabench.report.html.pictures import Picture
from metabench.report.html.reading import Final, named
from metabench.training import again
from metabench.training import run as runs

TASKS, SHOWN = 3, 10
"""Environments of a picture, and trajectories of each of their two bundles."""


class Walked(NamedTuple):
    """What a learner did in one environment."""

    goal: Tensor  # [2]
    before: list[Tensor]  # places [steps, 2] of each trajectory; none where it took no inner step
    after: list[Tensor]
    returns: tuple[float | None, float]  # before and after


def picture(number: int, final: Final, splits: Splits) -> Picture:
    """Draw what a run does in the first fresh environments of meta-validation."""
    run = runs.open_run(final.run.folder, splits)
    tasks = frozen.frozen(splits, "meta_validation", run.config.task, TASKS, "confirm")
    (group,) = tasks.groups  # environments have one shape
    drawn = frozen.gather(splits.meta_validation.images, group.indices, group.shape)
    goals, tasks_walked = drawn.support[0], _each(again.acted(run.model, drawn))
    walked = [_walked(*one) for one in zip(goals, tasks_walked, strict=True)]
    caption = (
        "Where a policy walked in the first fresh environments of meta-validation, the same for all "
        "learners: grey before it adapted, blue after; the diamond is the goal, which it is not shown. "
        "Paths that lead there from the first step on are what the first trajectories taught it."
    )
    said = [f"environment {n}: {_words(one)}" for n, one in enumerate(walked, start=1)]
    alt = f"Paths in {len(walked)} environments; {'; '.join(said)}."
    return Picture(*named(number, final), caption, alt, partial(_draw, walked))


def _each(tasks: Task) -> list[Task]:
    leaves, form = trees.flatten(tasks)
    return [trees.unflatten([leaf[row] for leaf in leaves], form) for row in range(len(tasks.classes))]


def _walked(goal: Tensor, task: Task) -> Walked:
    after = cast(Moves, task.query.y)
    places, reached = _places(task.query.x, after), float(mean_return(None, after))
    if not len(task.support.x):
        return Walked(goal, [], places, (None, reached))
    leaves, form = trees.flatten(task.support)
    x, before = trees.unflatten([leaf[0] for leaf in leaves], form)
    return Walked(goal, _places(x, before), places, (float(mean_return(None, before)), reached))


def _places(x: Tensor, moves: Moves) -> list[Tensor]:
    """Return the places of the first trajectories, each to its end."""
    places = x.view(*moves.is_on.shape, -1)[:SHOWN, :, :2]
    return [one[: int(on.sum())] for one, on in zip(places, moves.is_on, strict=False)]


def _words(one: Walked) -> str:
    before, after = (show(RETURN, figure) for figure in one.returns)
    return f"return {before} before, {after} after" if before else f"return {after}"


def _draw(walked: Sequence[Walked], width: float) -> Figure:
    figure, axes = style.panels(len(walked), 3.0, width, share_y=False)
    for number, (axis, one) in enumerate(zip(axes, walked, strict=True), start=1):
        _bundle(axis, one.before, color=style.FAINT, label="before")
        _bundle(axis, one.after, color=style.light("blue"), label="after")
        axis.plot(*one.goal.tolist(), "D", color=style.WRONG, markersize=7, label="goal", linestyle="none")
        axis.set_aspect("equal", adjustable="datalim")
        style.title(axis, f"environment {number}: {_words(one)}")
    style.legend(figure, *axes[0].get_legend_handles_labels())
    return figure


def _bundle(axis: Axes, bundle: Sequence[Tensor], label: str, **look: Any) -> None:
    for number, path in enumerate(bundle):
        axis.plot(*path.T.tolist(), alpha=0.7, linewidth=1, label=label if number == 0 else None, **look)
