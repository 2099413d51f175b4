"""TensorBoard event files, written without TensorFlow and without torch.

One root folder describes the experiment's hyperparameters for all algorithms; each trial below it has its
own folder with its values and scalars. TensorBoard takes the description from one run only, so no trial
writes its own: what is conditional on another algorithm would vanish from the HParams tab.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from metabench.core.config import Choices, Parameter, Range, Scalar
from metabench.storage import remote

FLUSH_SECONDS = 10
"""After which what is written is on disk, at the next write."""

_number = itertools.count()

INNER_RATES = "lr/inner_rates"
"""The tag of their histograms."""

SPLITS = ("meta_test", "meta_validation", "meta_train")

SESSION_STATUS = {
    "complete": api_pb2.STATUS_SUCCESS,
    "pruned": api_pb2.STATUS_SUCCESS,
    "diverged": api_pb2.STATUS_FAILURE,
    "failed": api_pb2.STATUS_FAILURE,
    "infeasible": api_pb2.STATUS_FAILURE,
}


def inner_rates(logs: Mapping[str, float]) -> list[float]:
    """Return the learned inner rates among what a training logs."""
    return [value for name, value in logs.items() if name.startswith("lr/inner/")]


def tag(name: str) -> str:
    """Return the tag of a figure: of meta_validation/accuracy, accuracy/meta_validation.

    TensorBoard sorts tags and shows the first: so what is judged comes first, and its splits together; bounds
    and single seeds have a group of their own behind it.
    """
    split, _, rest = name.partition("/")
    figure, _, more = rest.partition("/")
    if split not in SPLITS:
        return name
    return f"{figure}_details/{split}/{more}" if more else f"{figure}/{split}"


class Events:
    """One run of TensorBoard: the event file of a folder."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        """Open a new event file.

        Args:
            resume_step: the last step that still counts; what the folder holds beyond it is purged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The name that readers look for, and by whose order they go on from one file to the next.
        origin = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self._path = folder / f"events.out.tfevents.{origin}"
        self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        self._flush()
        if resume_step is not None:
            # Readers drop the events at or after the step of a START.
            self._write(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by their names; NaN is written as it is."""
        shown = [Summary.Value(tag=tag(name), simple_value=float(value)) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=shown))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text that TensorBoard renders as Markdown."""
        self._write(step=step, summary=text_pb(tag, markdown))

    def histogram(self, step: int, tag: str, values: Sequence[float]) -> None:
        """Write how the finite ones of some numbers are spread, in buckets of equal width."""
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            self._write(step=step, summary=histogram_pb(tag, finite))

    def image(self, step: int, tag: str, png: bytes, width: int, height: int, description: str = "") -> None:
        """Write a picture, encoded as PNG, and what is to be seen, in Markdown."""
        metadata = image_metadata.create_summary_metadata(display_name=tag, description=description)
        self._tensor(step, tag, metadata, [str(width).encode(), str(height).encode(), png])

    def copy(self, folder: Path, prefixes: tuple[str, ...]) -> None:
        """Write what another run's files hold under tags that begin so."""
        for path in sorted(folder.glob("events.out.tfevents.*")):
            for record in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(record)
                values = [value for value in event.summary.value if value.tag.startswith(prefixes)]
                if values:
                    self._write(step=event.step, summary=Summary(value=values))

    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Arrange charts in TensorBoard's custom scalars, once, in the root folder.

        Args:
            charts: category -> title -> patterns of the tags in one chart, as a list; or, as a tuple, the
                tags of a value, its lower and its upper bound.
        """
        layout = layout_pb2.Layout()
        for category, titles in charts.items():
            group = layout.category.add(title=category)
            for title, tags in titles.items():
                chart = group.chart.add(title=title)
                if isinstance(tags, tuple):
                    value, lower, upper = tags
                    chart.margin.series.add(value=value, lower=lower, upper=upper)
                else:
                    chart.multiline.tag.extend(tags)
        metadata = custom_scalar_metadata.create_summary_metadata()
        self._tensor(0, custom_scalar_metadata.CONFIG_SUMMARY_TAG, metadata, layout.SerializeToString())

    def hparams_root(self, parameters: Mapping[str, Mapping[str, Parameter]], metrics: Iterable[str]) -> None:
        """Describe the experiment, once, in its root folder; what has one value only gets no column.

        Args:
            parameters: the hyperparameters of each algorithm by name.
            metrics: figures that the trials write.
        """
        algorithms = Choices(choices=list(parameters), default=next(iter(parameters)))
        merged: dict[str, list[Parameter]] = {"algorithm": [algorithms]}
        for by_name in parameters.values():
            for name, parameter in by_name.items():
                merged.setdefault(name, []).append(parameter)
        hparams = [
            summary_v2.HParam(name, _domain(allowed)) for name, allowed in merged.items() if _varies(allowed)
        ]
        shown = [summary_v2.Metric(tag(name)) for name in metrics]
        self._write(summary=summary_v2.hparams_config_pb(hparams, shown))

    def hparams_run(self, values: Mapping[str, Scalar | None], trial: str) -> None:
        """Write a trial's values, "algorithm" among them, at its start.

        Args:
            values: None, for what its conditions exclude, is left out; TensorBoard would hide the other runs.
            trial: runs of the same trial form a group.
        """
        present = {name: value for name, value in values.items() if value is not None}
        self._write(summary=summary_v2.hparams_pb(present, trial_id=trial))

    def end(self, status: str) -> None:
        """Write how a trial ended; TensorBoard keeps the first status, so only when it has ended for good."""
        info = plugin_data_pb2.SessionEndInfo(status=SESSION_STATUS[status], end_time_secs=time.time())
        data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
        metadata = hparams_metadata.create_summary_metadata(data)
        tag, tensor = hparams_metadata.SESSION_END_INFO_TAG, hparams_metadata.NULL_TENSOR
        self._write(summary=Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]))
        self.text("status", status)

    def flush(self) -> None:
        """Write what is pending, to the storage too."""
        self._flush()
        remote.upload(self._path)

    def close(self) -> None:
        """Write what is pending and close the file; closing twice is allowed."""
        self._file.close()
        remote.upload(self._path)

    def _tensor(self, step: int, tag: str, metadata: Any, content: bytes | list[bytes]) -> None:
        tensor = make_tensor_proto(content, dtype=np.object_)
        self._write(
            step=step, summary=Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
        )

    def _write(self, **what: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **what).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()


def _varies(parameters: list[Parameter]) -> bool:
    """Tell whether trials of some algorithm differ in a hyperparameter."""
    return any(
        isinstance(one, Range) or (isinstance(one, Choices) and len(one.choices) > 1) for one in parameters
    )


def _domain(parameters: list[Parameter]) -> Any:
    """Cover the values that several algorithms allow for a hyperparameter of the same name."""
    values: list[Scalar] = []
    for parameter in parameters:
        if isinstance(parameter, Range):
            values += [parameter.low, parameter.high]
        else:
            values += parameter.choices if isinstance(parameter, Choices) else [parameter]
    kinds = {
        str if isinstance(value, str) else bool if isinstance(value, bool) else float for value in values
    }
    if len(kinds) > 1:
        return None  # TensorBoard has no type for a mixture; without one it shows every value
    distinct = sorted({kind(value) for kind in kinds for value in values})
    if any(isinstance(parameter, Range) for parameter in parameters):
        return summary_v2.RealInterval(distinct[0], distinct[-1])
    return summary_v2.Discrete(distinct)
