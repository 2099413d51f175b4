"""What values a parameter has, and how many settings a space."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabench.core.config import Choices, Range, SearchSpace
from metabench.search import space as spaces
from metabench.search.propose import samplers
from metabench.search.space import grid
from tests.search.conftest import SPACE
from tests.search.space.test_spaces import message, write

STEPS = st.sampled_from(["0.1", "0.25", "0.3", "1", "2.5", "0.001"])


def only(**parameters: Any) -> spaces.AlgorithmSpace:
    document = {**SPACE, "shared": {}, "algorithms": {"maml_pp": parameters}}
    return spaces.of(SearchSpace.model_validate(document), "maml_pp")


@given(low=st.integers(-5, 5), n_steps=st.integers(1, 40), step=STEPS, k=st.integers(0, 40))
def test_every_value_of_a_grid_stands_where_it_is_and_optuna_has_no_word_to_say(
    low: int, n_steps: int, step: str, k: int
) -> None:
    high = float(grid._exact(low) + n_steps * grid._exact(float(step)))
    one = Range(low=float(low), high=high, step=float(step), default=float(low))
    assert grid.problems(one, "x") == []
    assert grid.count(one) == n_steps + 1
    assert grid.place(one, grid.at(one, min(k, n_steps))) == min(k, n_steps)
    assert grid.place(one, one.low + min(k, n_steps) * one.step) == min(k, n_steps)  # rounded by floats
    assert grid.place(one, one.low + one.step / 3) is None
    assert samplers.distribution(one).high == high  # pytest makes an error of a warning


def test_what_lies_off_the_grid_or_stands_twice_comes_in_one_message(tmp_path: Any) -> None:
    error = message(
        write(
            tmp_path,
            algorithms={
                "fomaml": {
                    "inner_steps": {"low": 1, "high": 6, "step": 2, "default": 1},
                    "inner_lr": {"low": 0.0, "high": 1.0, "step": 0.25, "default": 0.3},
                    "task_batch_size": {"choices": [2, 4, 2], "default": 4},
                },
                "maml": {
                    "inner_lr": {"low": 0.05, "high": 2.0, "default": 0.4},
                    "inner_steps": {"choices": [1, 3], "default": 1, "when": {"inner_lr": 0.4}},
                },
            },
        )
    )
    for line in (
        "4 problems",
        "fomaml.inner_steps.high=6: is not reached from low=1 by step=2; the last value is 5",
        "fomaml.inner_lr.default=0.3: is none of the values from low=0.0 by step=0.25; take 0.25 or 0.5",
        "fomaml.task_batch_size.choices: 2 stands more than once",
        "maml.inner_steps.when.inner_lr=0.4: inner_lr is a continuous range",
    ):
        assert line in error


def test_a_condition_that_only_holds_where_another_fails_is_refused(tmp_path: Any) -> None:
    block = {
        "multi_step_loss": {"choices": [True, False], "default": True},
        "multi_step_fraction": {
            "choices": [0.2, 0.3],
            "default": 0.2,
            "when": {"multi_step_loss": True},
        },
        "inner_steps": {
            "choices": [2, 4],
            "default": 2,
            "when": {"multi_step_loss": False, "multi_step_fraction": 0.3},
        },
    }
    assert "maml_pp.inner_steps: its `when` never holds" in message(
        write(tmp_path, algorithms={"maml_pp": block})
    )


PARTS: dict[str, Any] = {
    "multi_step_loss": {"choices": [True, False], "default": True},
    "multi_step_fraction": {
        "low": 0.1,
        "high": 0.5,
        "step": 0.1,
        "default": 0.1,
        "when": {"multi_step_loss": True},
    },
    "inner_steps": {"low": 1, "high": 4, "default": 1},
    "eval_steps": {"choices": [5, 6, 7], "default": 5, "when": {"inner_steps": [2, 3]}},
}


@pytest.mark.parametrize("names", [names for n in range(1, 5) for names in itertools.combinations(PARTS, n)])
def test_as_many_settings_are_counted_as_there_are_and_each_is_recognised(names: tuple[str, ...]) -> None:
    its = only(**{name: PARTS[name] for name in names})
    every = list(its.near(its.published[0], random.Random(0)))
    assert every[0] == its.published[0]
    assert len({its.place(one) for one in every}) == len(every) == its.n_settings
    assert its.n_trials == min(9, its.n_settings)
    assert all(its.recognise(its.resolve(one)) == one for one in every)


def test_no_end_of_settings_is_no_number_and_others_are_still_nearby() -> None:
    its = only(**PARTS, inner_lr={"low": 0.01, "high": 1.0, "log": True, "default": 0.1})
    assert its.n_settings == float("inf")
    several = list(itertools.islice(its.near(its.published[0], random.Random(0)), 20))
    assert len({its.place(one) for one in several}) == 20


@pytest.mark.parametrize(
    "changed",
    [
        {"inner_steps": 5},  # beyond the range
        {"multi_step_fraction": 0.25},  # between two values
        {"eval_steps": 6},  # whose condition does not hold
        {"inner_lr": 0.2},  # which is not sampled
        {"no_such_setting": 1},
    ],
)
def test_a_setting_that_the_space_has_not_is_not_recognised(changed: dict[str, Any]) -> None:
    its = only(**PARTS)
    here = its.resolve(its.published[0])
    assert its.recognise(here) == its.published[0]
    assert its.recognise({**here, **changed}) is None


def test_true_is_no_choice_of_numbers() -> None:
    assert grid.place(Choices(choices=[1, 3], default=1), True) is None
