"""Event files, read back as TensorBoard reads them."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.util.tensor_util import make_ndarray

from metabench.core.config import Choices, Parameter, Range
from metabench.storage.tensorboard import Events

KEEP_ALL = {"scalars": 0, "tensors": 0}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder), size_guidance=KEEP_ALL)
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def hparams_tab(folder: Path) -> tuple[Any, list[Any]]:
    """Return what the HParams tab is sent: the experiment and the groups of sessions."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"hparams": 0})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(TBContext(logdir=str(folder), data_provider=provider))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "x")
    values = context.hparams_from_data_provider(request, "x", None)
    experiment = context.experiment_from_metadata(request, "x", True, metadata, values)
    every = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
    ask = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=every, include_metrics=True
    )
    groups = list_session_groups.Handler(request, context, "x", ask).run().session_groups
    return experiment, list(groups)


def test_scalars_come_back_with_their_steps_and_nan_stays_nan(tmp_path: Path) -> None:
    events = Events(tmp_path)
    for step in (0, 50, 100):
        events.scalars(step, {"meta_train/loss": 2.0 / (step + 1), "lr/inner": 0.25})
    events.scalars(150, {"meta_train/loss": math.nan})
    events.close()
    events.close()
    assert scalars(tmp_path, "lr/inner") == [(0, 0.25), (50, 0.25), (100, 0.25)]
    *_, (step, value) = scalars(tmp_path, "loss/meta_train")
    assert step == 150
    assert math.isnan(value)


def test_text_comes_back(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.text("run card", "# A title\n\n| a | é |")
    events.close()
    accumulator = EventAccumulator(str(tmp_path), size_guidance=KEEP_ALL)
    accumulator.Reload()
    assert accumulator.PluginTagToContent("text").keys() == {"run card"}
    (event,) = accumulator.Tensors("run card")
    assert event.tensor_proto.string_val[0].decode() == "# A title\n\n| a | é |"


def reloaded(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance=KEEP_ALL)
    accumulator.Reload()
    return accumulator


def test_a_histogram_counts_every_finite_number_once(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.histogram(5, "rates", [0.0, 0.1, 0.1, 0.5, 1.0, math.nan, math.inf])
    events.histogram(6, "rates", [0.25, 0.25])
    events.histogram(7, "rates", [math.nan])
    events.close()
    first, second = reloaded(tmp_path).Tensors("rates")
    rows = make_ndarray(first.tensor_proto)
    assert rows.shape == (30, 3)
    assert (rows[0, 0], rows[-1, 1]) == (0.0, pytest.approx(1.0))
    assert rows[:, 2].sum() == 5
    assert rows[0, 2] == 1
    assert rows[3, 2] == 2  # 0.1 lies on the edge of the fourth bucket
    assert rows[-1, 2] == 1  # the largest belongs to the last bucket
    assert make_ndarray(second.tensor_proto)[:, 2].sum() == 2


def test_an_image_comes_back(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.image(0, "episode", b"png", 3, 2)
    events.close()
    accumulator = reloaded(tmp_path)
    assert accumulator.PluginTagToContent("images").keys() == {"episode"}
    (event,) = accumulator.Tensors("episode")
    assert list(event.tensor_proto.string_val) == [b"3", b"2", b"png"]


def test_the_layout_names_tags_that_runs_write(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.layout({"a": {"lines": ["x/.*", "y"], "band": ("v", "v/low", "v/high")}})
    events.close()
    (event,) = reloaded(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    lines, band = category.chart
    assert list(lines.multiline.tag) == ["x/.*", "y"]
    (series,) = band.margin.series
    assert (series.value, series.lower, series.upper) == ("v", "v/low", "v/high")


def test_resuming_purges_the_steps_that_no_longer_count(tmp_path: Path) -> None:
    first = Events(tmp_path)
    first.hparams_run({"algorithm": "maml"}, "maml-0")
    for step in (10, 20, 30, 40):
        first.scalars(step, {"loss": float(step)})
    first.close()
    again = Events(tmp_path, resume_step=20)
    again.scalars(40, {"loss": -40.0})
    again.close()
    assert scalars(tmp_path, "loss") == [(10, 10), (20, 20), (40, -40)]
    assert hparams_tab(tmp_path)[1][0].hparams["algorithm"].string_value == "maml"


def test_the_hparams_tab_lists_conditional_hyperparameters_of_every_algorithm(tmp_path: Path) -> None:
    parameters: dict[str, dict[str, Parameter]] = {
        "maml": {
            "outer_lr": Range(low=1e-4, high=1e-2, log=True, default=1e-3),
            "inner_steps": Choices(choices=[1, 3, 5], default=5),
            "second_order": Choices(choices=[True, False], default=True),
            "outer_optimizer": "adam",
        },
        "maml_pp": {
            "outer_lr": Range(low=1e-3, high=1e-1, log=True, default=1e-3),
            "anneal": Range(low=0, high=1, default=0.5, when={"outer_optimizer": "sgd"}),
            "outer_optimizer": Choices(choices=["adam", "sgd"], default="adam"),
            "task_batch_size": 4,
        },
    }
    root = Events(tmp_path)
    root.hparams_root(parameters, ["meta_validation/accuracy"])
    root.close()
    runs: dict[str, tuple[dict[str, Any], str | None]] = {
        "maml-0": ({"outer_lr": 0.001, "second_order": True, "inner_steps": 3}, "pruned"),
        "maml_pp-0": ({"outer_lr": 0.01, "anneal": None, "task_batch_size": 4}, "diverged"),
        "maml_pp-1": ({"outer_lr": 0.02, "anneal": 0.25, "task_batch_size": 4}, None),
    }
    for trial, (values, status) in runs.items():
        algorithm = trial.split("-")[0]
        run = Events(tmp_path / algorithm / trial)
        run.hparams_run({"algorithm": algorithm, **values}, trial)
        run.scalars(100, {"meta_validation/accuracy": 0.5, "lr/inner": 0.1})
        if status:
            run.end(status)
        run.close()

    experiment, groups = hparams_tab(tmp_path)
    infos = {info.name: info for info in experiment.hparam_infos}
    names = {"algorithm"} | parameters["maml"].keys() | parameters["maml_pp"].keys()
    assert infos.keys() == names - {"task_batch_size"}  # which is 4 wherever it is
    assert [metric.name.tag for metric in experiment.metric_infos] == ["accuracy/meta_validation"]
    bounds = infos["outer_lr"].domain_interval
    assert (bounds.min_value, bounds.max_value) == (1e-4, 1e-1)
    assert list(infos["inner_steps"].domain_discrete) == [1, 3, 5]
    assert list(infos["algorithm"].domain_discrete) == ["maml", "maml_pp"]

    by_name = {group.name: group for group in groups}
    assert by_name.keys() == runs.keys()
    assert "anneal" not in by_name["maml_pp-0"].hparams
    assert by_name["maml_pp-1"].hparams["anneal"].number_value == 0.25
    assert by_name["maml-0"].hparams["second_order"].bool_value is True
    assert by_name["maml-0"].metric_values[0].value == 0.5
    assert {name: group.sessions[0].status for name, group in by_name.items()} == {
        "maml-0": api_pb2.STATUS_SUCCESS,
        "maml_pp-0": api_pb2.STATUS_FAILURE,
        "maml_pp-1": api_pb2.STATUS_UNKNOWN,
    }


def test_runs_of_one_trial_form_one_group(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = Events(tmp_path / f"seed{seed}")
        run.hparams_run({"algorithm": "maml"}, "maml-0")
        run.close()
    _, groups = hparams_tab(tmp_path)
    assert [len(group.sessions) for group in groups] == [2]


def test_a_hyperparameter_of_mixed_types_is_still_listed(tmp_path: Path) -> None:
    root = Events(tmp_path)
    numbers, words = (
        Choices(choices=[5.0, 10.0], default=5.0),
        Choices(choices=["none", "all"], default="all"),
    )
    root.hparams_root({"maml": {"clip": words}, "fomaml": {"clip": numbers}}, [])
    root.close()
    experiment, _ = hparams_tab(tmp_path)
    assert {info.name for info in experiment.hparam_infos} == {"algorithm", "clip"}


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    events = Events(tmp_path)
    with pytest.raises(KeyError, match="great"):
        events.end("great")
    events.close()


def test_writing_needs_neither_torch_nor_tensorflow() -> None:
    script = (
        "import sys, metabench.storage.tensorboard; assert not {'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_full_disk_is_one_error_and_no_second_thread_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(tmp_path)
    before = threading.active_count()
    Events(tmp_path / "more").close()
    assert threading.active_count() == before

    def full(data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events._records, "_writer", SimpleNamespace(write=full))
    with pytest.raises(OSError, match="No space left"):
        events.scalars(1, {"loss": 1.0})
    events.close()


def test_what_was_written_is_on_disk_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(tmp_path)
    events.scalars(1, {"loss": 1.0})
    monkeypatch.setattr("metabench.storage.tensorboard.FLUSH_SECONDS", 0)
    events.scalars(2, {"loss": 0.5})
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5)]
    events.close()
