"""Reading search spaces: published defaults, conditions, resolution, and every problem in one message."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metabench import algorithms
from metabench.core import MetabenchError
from metabench.core.config import BudgetConfig, SearchSpace, of_algorithm
from metabench.search import space as spaces

FOLDER = Path(__file__).parents[3] / "search_spaces"
SPACES = sorted(FOLDER.glob("*.yaml"))
IDS = [path.stem for path in SPACES]

MINIMAL: dict[str, Any] = {
    "task": {"dataset": "glyphs"},
    "budget": {"tasks": 90, "trials": 3, "grace": 10},
    "algorithms": {"maml": {}},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return path


def published(space: SearchSpace, name: str) -> dict[str, Any]:
    its = spaces.of(space, name)
    return its.resolve(its.published[0])


def message(path: Path) -> str:
    with pytest.raises(MetabenchError) as caught:
        spaces.load(path)
    return str(caught.value)


@pytest.mark.parametrize("path", SPACES, ids=IDS)
def test_a_shipped_space_loads_and_compares_several_rows(path: Path) -> None:
    assert len(spaces.load(path).algorithms) >= 4


def test_the_ablation_switches_one_part_on_in_each_row_and_all_in_the_last() -> None:
    space = spaces.load(FOLDER / "maml_pp_ablation.yaml")
    parts = {
        "msl": ["multi_step_loss"],
        "lslr": ["learned_rates"],
        "da": ["derivative_annealing"],
        "bn": ["per_step_weights", "per_step_statistics"],
        "cosine": ["cosine"],
    }
    switches = [switch for part in parts.values() for switch in part]
    rows = {name: published(space, name) for name in space.algorithms}
    on = {name: [switch for switch in switches if row[switch]] for name, row in rows.items()}
    alone = {f"maml_pp.{label}": part for label, part in parts.items()}
    assert on == {"maml_pp.none": [], **alone, "maml_pp": switches}


@pytest.mark.parametrize("path", SPACES, ids=IDS)
def test_defaults_of_a_shipped_space_resolve_to_every_setting(path: Path) -> None:
    space = spaces.load(path)
    for name in space.algorithms:
        hyperparameters = published(space, name)
        fields = {field.name for field in dataclasses.fields(algorithms.get(name).hparams)}
        assert of_algorithm(hyperparameters).keys() == fields
        run = spaces.run_config(space, name, hyperparameters, 7, spaces.rungs(space.budget))
        assert run.hyperparameters == of_algorithm(hyperparameters)
        assert run.rungs[-1] == run.tasks == space.budget.tasks


@pytest.mark.parametrize("path", SPACES, ids=IDS)
def test_a_shipped_space_obeys_the_schema_that_editors_use(path: Path) -> None:
    jsonschema.Draft202012Validator(spaces.schema()).validate(yaml.safe_load(path.read_text()))


def test_settings_that_do_not_go_together_are_refused_before_anything_starts(tmp_path: Path) -> None:
    high = {"low": 0.1, "high": 50.0, "log": True, "default": 1.0}
    either = {"choices": [False, True], "default": False}
    blocks = {"alpha_maml": {"inner_lr": high}, "anil": {"adapt_norm": either}}
    text = message(write(tmp_path, algorithms=blocks))
    assert "inner_lr=50.0: must start within its limits [1e-05, 10.0]" in text
    assert "adapt_norm=true: has no effect where only the head moves" in text


def test_a_label_makes_one_more_row_of_an_algorithm_with_settings_of_its_own(tmp_path: Path) -> None:
    blocks = {"maml_pp": {}, "maml_pp.no_msl": {"multi_step_loss": False}}
    space = spaces.load(write(tmp_path, algorithms=blocks))
    assert spaces.of(space, "maml_pp").resolve({})["multi_step_loss"] is True
    assert spaces.of(space, "maml_pp.no_msl").resolve({})["multi_step_loss"] is False
    run = spaces.run_config(space, "maml_pp.no_msl", {"multi_step_loss": False}, 0, [90])
    assert run.algorithm == "maml_pp.no_msl"
    assert algorithms.get(run.algorithm) is algorithms.get("maml_pp")
    jsonschema.Draft202012Validator(spaces.schema()).validate({**MINIMAL, "algorithms": blocks})


@pytest.mark.parametrize("name", ["maml.", "maml.A b", "maml./x", "maml.a.b"])
def test_a_label_that_is_no_word_is_refused(tmp_path: Path, name: str) -> None:
    assert "after the dot comes a label" in message(write(tmp_path, algorithms={name: {}}))


def test_the_schema_file_is_current() -> None:
    assert json.loads((FOLDER / "schema.json").read_text()) == spaces.schema(), "run `make schema`"


def test_the_schema_refuses_what_loading_refuses() -> None:
    validator = jsonschema.Draft202012Validator(spaces.schema())
    assert validator.is_valid(MINIMAL)
    assert not validator.is_valid({**MINIMAL, "algorithms": {"mamll": {}}})
    assert not validator.is_valid({**MINIMAL, "algorithms": {"maml": {"inner_lrr": 1.0}}})
    assert not validator.is_valid({**MINIMAL, "shared": {"outer_lr": 0.0}})
    assert not validator.is_valid({**MINIMAL, "task": {"dataset": "glyph"}})


def test_quickdraw_defaults_are_the_published_settings_of_cloudera() -> None:
    space = spaces.load(FOLDER / "quickdraw_5w1s.yaml")
    settings = published(space, "maml")
    assert (settings["task_batch_size"], settings["inner_steps"]) == (10, 5)
    assert (settings["inner_lr"], settings["outer_lr"], settings["outer_optimizer"]) == (
        0.005,
        5e-4,
        "adam",
    )


def test_an_own_parameter_overrules_a_shared_one(tmp_path: Path) -> None:
    space = spaces.load(
        write(
            tmp_path,
            shared={"inner_lr": 0.1, "inner_steps": 2},
            algorithms={"maml": {"inner_lr": 0.3}, "fomaml": {}},
        )
    )
    assert spaces.of(space, "maml").parameters == {"inner_lr": 0.3, "inner_steps": 2}
    assert spaces.of(space, "fomaml").parameters == {"inner_lr": 0.1, "inner_steps": 2}


def test_a_shared_parameter_goes_only_to_algorithms_that_have_it(tmp_path: Path) -> None:
    space = spaces.load(
        write(tmp_path, shared={"learned_rates": False}, algorithms={"maml": {}, "maml_pp": {}})
    )
    assert spaces.of(space, "maml").parameters == {}
    assert spaces.of(space, "maml_pp").parameters == {"learned_rates": False}


def test_numbers_are_floats_exactly_where_the_setting_is_a_float(tmp_path: Path) -> None:
    parameter = {"low": 1, "high": 4, "default": 2}
    space = spaces.load(
        write(tmp_path, shared={"inner_lr": parameter, "inner_steps": parameter, "outer_clip": 10})
    )
    parameters = spaces.of(space, "maml").parameters
    assert type(parameters["inner_lr"].low) is type(parameters["inner_lr"].default) is float
    assert type(parameters["inner_steps"].low) is type(parameters["inner_steps"].default) is int
    assert type(parameters["outer_clip"]) is float


def test_a_parameter_whose_condition_fails_is_neither_proposed_nor_used(tmp_path: Path) -> None:
    settings = {
        "multi_step_fraction": {"low": 0.2, "high": 0.5, "default": 0.4, "when": {"multi_step_loss": True}},
        "multi_step_loss": {"choices": [True, False], "default": False},
    }
    space = spaces.load(write(tmp_path, algorithms={"maml_pp": settings}))
    assert list(spaces.of(space, "maml_pp").parameters) == ["multi_step_loss", "multi_step_fraction"]
    assert spaces.of(space, "maml_pp").published[0] == {"multi_step_loss": False}
    usual = algorithms.hparams("maml_pp", {}).multi_step_fraction
    off = spaces.of(space, "maml_pp").resolve({"multi_step_loss": False, "multi_step_fraction": 0.3})
    on = spaces.of(space, "maml_pp").resolve({"multi_step_loss": True, "multi_step_fraction": 0.3})
    assert (off["multi_step_fraction"], on["multi_step_fraction"]) == (usual, 0.3)


def test_a_condition_may_name_a_constant_or_a_setting_that_the_space_leaves_alone(tmp_path: Path) -> None:
    clip = {"low": 1.0, "high": 10.0, "default": 5.0}
    for when, shared, is_on in (
        ({"outer_optimizer": "sgd"}, {"outer_optimizer": "sgd"}, True),
        ({"outer_optimizer": ["adam", "sgd"]}, {}, True),
        ({"inner_steps": 3}, {"inner_steps": {"choices": [1, 3], "default": 1}}, False),
    ):
        space = spaces.load(write(tmp_path, shared={**shared, "outer_clip": {**clip, "when": when}}))
        assert ("outer_clip" in spaces.of(space, "maml").published[0]) is is_on


def test_other_published_settings_follow_the_defaults_and_none_is_tried_twice(tmp_path: Path) -> None:
    lr = {"low": 0.1, "high": 1.0, "default": 0.5}
    also = [{"inner_lr": 0.25}, {"inner_lr": 0.5}, {"multi_step_loss": False}]
    blocks = {"maml": {}, "maml_pp": {"multi_step_loss": {"choices": [True, False], "default": True}}}
    space = spaces.load(write(tmp_path, shared={"inner_lr": lr}, also=also, algorithms=blocks))
    assert spaces.of(space, "maml").published == [{"inner_lr": 0.5}, {"inner_lr": 0.25}]
    assert spaces.of(space, "maml_pp").published[-1] == {"inner_lr": 0.5, "multi_step_loss": False}
    assert len(spaces.of(space, "maml_pp").published) == 3


@given(st.integers(1, 500), st.integers(1, 100_000), st.integers(2, 6))
def test_rungs_ascend_from_the_grace_by_the_reduction_factor_to_the_full_budget(
    grace: int, extra: int, factor: int
) -> None:
    budget = BudgetConfig(tasks=grace + extra, trials=1, grace=grace, reduction_factor=factor)
    *below, last = spaces.rungs(budget)
    assert last == budget.tasks
    assert below == [grace * factor**i for i in range(len(below))]
    assert below[-1] < last <= grace * factor ** len(below)


def test_a_grace_of_the_whole_budget_leaves_one_rung() -> None:
    assert spaces.rungs(BudgetConfig(tasks=10, trials=1, grace=10)) == [10]


def test_overriding_the_tasks_keeps_the_share_of_the_grace(tmp_path: Path) -> None:
    space = spaces.load(write(tmp_path))
    changed = spaces.override(space, tasks=18, trials=1, seeds=5)
    assert (changed.budget.tasks, changed.budget.grace, changed.budget.trials, changed.budget.seeds) == (
        18,
        2,
        1,
        5,
    )
    assert spaces.override(space) == space


def test_numbers_in_scientific_notation_need_no_dot(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        yaml.safe_dump(MINIMAL) + "shared:\n  outer_lr: {low: 1e-4, high: 1e-2, log: true, default: 2E-3}\n"
    )
    assert spaces.of(spaces.load(path), "maml").parameters["outer_lr"].low == 1e-4


def test_a_space_survives_being_dumped_and_read_again() -> None:
    for path in SPACES:
        space = spaces.load(path)
        assert SearchSpace.model_validate(json.loads(space.model_dump_json())) == space


def test_all_problems_of_a_file_come_in_one_message(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        task={"dataset": "glyps", "wya": 5},
        network={"name": "conv5"},
        networks={"small": {"name": "conv4", "widht": 8}},
        budget={"tasks": 10, "trials": "four", "grace": 20},
        shared={"inner_lrr": 0.1, "outer_lr": {"low": -1.0, "high": 1.0, "default": 0.5}},
        algorithms={"mamll": {}, "maml": {"inner_steps": {"choices": [1, 2.5], "default": 1}}},
        budgte={},
    )
    text = message(path)
    for part in (
        "task.wya: unknown key. Did you mean 'way'?",
        "network.name='conv5': unknown network. Did you mean 'conv4'?",
        "networks.small.widht: unknown key. Did you mean 'width'?",
        "budget.trials='four'",
        "shared.inner_lrr: unknown setting. Did you mean 'inner_lr'?",
        "shared.outer_lr.low=-1.0: must be > 0",
        "algorithms='mamll': unknown algorithm. Did you mean 'maml'?",
        "algorithms.maml.inner_steps.choices=2.5: must be a whole number",
        "budgte: unknown key. Did you mean 'budget'?",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("when", "part"),
    [
        ({"multi_step_los": True}, "multi_step_los: unknown setting. Did you mean 'multi_step_loss'?"),
        ({"multi_step_loss": 3}, "must be true or false"),
        ({"inner_steps": 4}, "inner_steps never has this value here"),
        ({"first_order_fraction": 0.5}, "wait for each other"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(when: dict[str, Any], part: str, tmp_path: Path) -> None:
    settings = {
        "inner_steps": {"choices": [1, 3], "default": 1},
        "first_order_fraction": {"low": 0.1, "high": 0.5, "default": 0.3, "when": when},
    }
    assert part in message(write(tmp_path, algorithms={"maml_pp": settings}))


def test_a_regression_space_that_may_augment_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        task={"dataset": "sinusoid", "way": 1, "shot": 10},
        network={"name": "mlp", "norm": "none"},
        shared={"augment": {"choices": ["none", "both"], "default": "none"}},
    )
    assert "algorithms.maml: augment='both': only images can be augmented" in message(path)
