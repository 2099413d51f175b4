"""Names of algorithms and data sets as papers and people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metabench import algorithms, data
from metabench.cli import app
from metabench.cli.flags import describe_run
from metabench.core import MetabenchError
from metabench.core.config import TaskConfig
from metabench.core.config.settings import folded
from metabench.search import space as spaces
from tests.search.space.test_spaces import message, write


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(("maml++", "maml_pp"), ("MAML++", "maml_pp"), ("MAML", "maml"), ("Alpha MAML", "alpha_maml")),
        *(("ProtoNets", "protonet"), ("Prototypical Networks", "protonet"), ("Baseline++", "baseline_pp")),
        *(("Meta-SGD", "meta_sgd"), ("iMAML", "imaml"), ("Matching Networks", "matching"), ("R2-D2", "r2d2")),
        *(("α-MAML", "alpha_maml"), ("FOMAML", "fomaml"), ("First-order MAML", "fomaml")),
        *(("MAML++.wide", "maml_pp.wide"), ("mamlplus", "mamlplus")),
    ],
)
def test_an_algorithm_answers_to_its_papers_name(written: str, name: str) -> None:
    assert algorithms.canonical(written) == name
    assert algorithms.is_known(written) == (name != "mamlplus")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(("mini-ImageNet", "mini_imagenet"), ("Omniglot", "omniglot"), ("quick-draw", "quickdraw")),
        *(("CIFAR-FS", "cifar_fs"), ("tieredImageNet", "tiered_imagenet"), ("Quick, Draw!", "quickdraw")),
    ],
)
def test_a_data_set_answers_to_its_papers_name(written: str, name: str) -> None:
    assert data.get(written).name == name


def test_no_two_algorithms_or_data_sets_answer_to_one_name() -> None:
    called = [one for name in algorithms.names() for one in (name, *algorithms.get(name).also_called)]
    for names in (called, data.names()):
        assert len({folded(one) for one in names}) == len(names)


def test_a_space_is_read_with_the_registered_names(tmp_path: Path) -> None:
    written: dict[str, Any] = {"MAML++": {}, "ProtoNets": {}, "MAML++.slow": {"inner_steps": 3}}
    space = spaces.load(write(tmp_path, task={"dataset": "Glyphs"}, algorithms=written))
    assert list(space.algorithms) == ["maml_pp", "maml_pp.slow", "protonet"]  # as YAML sorted them
    assert space.task.dataset == "glyphs"
    assert list(spaces.override(space, names=["maml++"]).algorithms) == ["maml_pp"]


def test_two_names_of_one_algorithm_are_refused(tmp_path: Path) -> None:
    error = message(write(tmp_path, algorithms={"maml_pp": {}, "MAML++": {}, "Maml-PP": {}}))
    assert "2 problems" in error
    assert "algorithms.maml_pp: is maml_pp, which stands there already; make it maml_pp.LABEL" in error


def test_a_run_that_is_typed_is_described_by_registered_names() -> None:
    config = describe_run({"dataset": "Glyphs"}, {}, {"algorithm": "MAML++"}, [], None)
    assert (config.algorithm, config.task.dataset) == ("maml_pp", "glyphs")
    with pytest.raises(MetabenchError, match="algorithm 'mamlplus': unknown"):
        describe_run({"dataset": "Glyphs"}, {}, {"algorithm": "mamlplus"}, [], None)


def test_a_mixture_knows_its_parts_by_any_name() -> None:
    options = {"of": "Glyphs + GLYPHS"}
    with pytest.raises(MetabenchError, match="glyphs stands twice"):
        data.load(TaskConfig(dataset="mixture", options=options))


def test_the_command_line_takes_a_papers_name_for_a_data_set() -> None:
    result = CliRunner().invoke(app, ["datasets", "fetch", "Glyphs"])
    assert (result.exit_code, result.output) == (0, "glyphs needs no download\n")


def test_the_nearest_name_of_a_typo_is_that_of_what_was_meant() -> None:
    with pytest.raises(MetabenchError, match="Did you mean 'maml_pp'"):
        algorithms.get("MAML++x")
