"""What a search within a time is chosen to be, for any data, speeds and time."""

from __future__ import annotations

import itertools
import re

import pytest

from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig, SearchSpace, TaskConfig, n_variants
from metabench.data.reading import splits
from metabench.data.sets.folder import Options
from metabench.search import space as spaces
from metabench.search.space import automatic
from metabench.search.space.automatic import Pace, Time

TASK = TaskConfig(dataset="glyphs")
PACES = {
    "protonet": Pace(0.008, 0.008, 0.008),
    "r2d2": Pace(0.009, 0.009, 0.009),
    "maml_pp": Pace(0.06, 0.03, 0.06),
    "finetune": Pace(0.01, 0.03, 0.01),
}
TIMES = [120, 180, 300, 600, 1800, 3600, 6 * 3600, 48 * 3600]


def choose(seconds: float, slots: int = 2, factor: float = 1.0) -> SearchSpace:
    paces = {name: Pace(*(factor * one for one in pace)) for name, pace in PACES.items()}
    time = Time(seconds, spent=0.05 * seconds, slots=slots)
    return automatic.choose(TASK, NetworkConfig(), time, paces)


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_more_time_never_means_fewer_learners_or_less_training(slots: int) -> None:
    chosen = [choose(seconds, slots) for seconds in TIMES]
    for less, more in itertools.pairwise(chosen):
        assert len(less.algorithms) <= len(more.algorithms)
        trained = [
            one.budget.tasks * one.budget.seeds * sum(PACES[name].training for name in one.algorithms)
            for one in (less, more)
        ]
        assert trained[0] <= trained[1]


@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("slots", [1, 2, 16])
@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_what_follows_the_trials_fits_and_leaves_them_as_much(
    seconds: float, slots: int, factor: float
) -> None:
    budget = choose(seconds, slots, factor).budget
    space = choose(seconds, slots, factor)
    paces = {name: Pace(*(factor * one for one in PACES[name])) for name in space.algorithms}
    after = (
        sum(automatic.after(budget, pace, n_variants(budget) * budget.seeds) for pace in paces.values())
        / slots
    )
    assert after + automatic.ENDING <= 0.6 * seconds
    longest = max(budget.tasks * pace.training for pace in paces.values())
    assert longest <= 0.4 * seconds
    assert budget.seconds is not None
    # The published setting of each learner, which no other stops, is not all that is tried.
    assert all(budget.seconds >= budget.tasks * pace.training for pace in paces.values())


def test_a_space_that_was_chosen_can_be_written_and_read(tmp_path: object) -> None:
    space = choose(600)
    again = SearchSpace.model_validate(space.model_dump(mode="json"))
    assert again == space
    assert [spaces.of(space, name).published for name in space.algorithms]


def test_a_busy_machine_leaves_time_for_what_starts_slowly_on_it() -> None:
    idle, busy = (Time(300, 30, 2, busy=factor) for factor in (1.0, 4.0))
    assert busy.left == idle.left - 3 * (automatic.STARTING + automatic.ENDING)
    one = {"protonet": PACES["protonet"]}
    budgets = [automatic.choose(TASK, NetworkConfig(), time, one).budget for time in (idle, busy)]
    trained = [budget.tasks * budget.seeds for budget in budgets]
    assert trained[1] < trained[0]


def test_a_slow_learner_is_left_out_until_there_is_time_for_it() -> None:
    assert "maml_pp" not in choose(180).algorithms
    assert "maml_pp" in choose(6 * 3600).algorithms


def test_the_slowest_runs_are_started_first() -> None:
    paces = [PACES[name].training for name in choose(6 * 3600).algorithms]
    assert paces == sorted(paces, reverse=True)


def test_too_short_a_time_is_refused_with_one_that_is_not() -> None:
    for factor in (0.1, 1.0, 30.0):
        with pytest.raises(
            MetabenchError, match=r"time=20s: is too short here.*give at least \d+m"
        ) as caught:
            choose(20, factor=factor)
        least = 60 * int(re.findall(r"(\d+)m$", str(caught.value))[0])
        assert choose(least, factor=factor).budget.tasks >= 100
        with pytest.raises(MetabenchError, match="is too short here"):
            choose(0.5 * least - 30, factor=factor)


@pytest.mark.parametrize("n_classes", range(6, 60))
def test_every_split_of_a_small_folder_has_classes_for_a_task(n_classes: int) -> None:
    options = Options(**{"meta_train": 0.64, "meta_validation": 0.16, **automatic.shares("mine", n_classes)})
    classes = splits.by_seed([str(k) for k in range(n_classes)], options)
    counts = [len(names) for names in classes.values()]
    assert min(counts) >= 2
    assert sum(counts) == n_classes
    fitted = automatic.fit_task(TASK, counts, 20, set())
    assert fitted.way == min(5, *counts)


def test_a_task_has_as_many_queries_as_there_are_examples() -> None:
    fitted = automatic.fit_task(TASK, [64, 16, 20], 4, set())
    assert (fitted.way, fitted.query, fitted.test_query) == (5, 3, 3)
    assert automatic.fit_task(TASK.model_copy(update={"way": 9}), [64, 16, 20], 99, {"way"}).way == 9


def test_what_is_too_small_is_one_message() -> None:
    with pytest.raises(MetabenchError, match="mine: has 1 classes, and a search needs 2 or more"):
        automatic.shares("mine", 1)
    with pytest.raises(
        MetabenchError, match=r"64, 16, 20 classes .* the smallest with 1 examples; .*2 examples"
    ):
        automatic.fit_task(TASK, [64, 16, 20], 1, set())


@pytest.mark.parametrize("n_classes", range(2, 6))
def test_a_folder_of_few_classes_is_split_by_pictures(n_classes: int) -> None:
    assert automatic.shares("mine", n_classes)["split_by"] == "pictures"


def test_pictures_are_taken_no_larger_than_they_are_and_larger_only_with_time() -> None:
    def look(seconds: float, side: int) -> tuple[int, int]:
        return automatic.look(Time(seconds, 0.0, 2), side, 0.008)

    for side in (20, 28, 40, 105, 500):
        sizes = [look(seconds, side)[0] for seconds in TIMES]
        assert sizes == sorted(sizes)
        assert max(sizes) <= max(28, side)
    assert look(48 * 3600, 500)[0] == 84
    widths = [look(seconds, 28)[1] for seconds in TIMES]
    assert widths == sorted(widths)
    assert widths[0] == 16
    assert widths[-1] == 64
