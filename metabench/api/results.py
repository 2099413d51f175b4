"""What a test on meta-test came to: a mean with its interval, and the figure of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metabench import stats
from metabench.core import metrics
from metabench.core.metrics import Metric

if TYPE_CHECKING:
    from pandas import DataFrame


def shown(interval: stats.Interval, metric: Metric) -> str:
    """Show a mean with its interval."""
    mean, low, high = (metrics.show(metric, value, 2) for value in interval[:3])
    named = mean if metric.unit == "%" else f"{metric} {mean}"
    return f"{named}, 95 % interval [{low}, {high}]"


@dataclass(frozen=True)
class Result:
    """The result of a run on frozen meta-test tasks."""

    metric: Metric = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)
    """All that is kept of it, as in the run's folder."""

    @property
    def together(self) -> stats.Interval:
        """Return the mean over tasks whose queries are classified together, with its interval."""
        return stats.mean_interval(self.record[self.metric.name], self.metric.scale)

    @property
    def one_at_a_time(self) -> stats.Interval:
        """Return the mean over tasks of which each query is classified alone, as a user's pictures are."""
        return stats.mean_interval(self.record[f"{self.metric}_one_at_a_time"], self.metric.scale)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the bounds of the mean's 95 % interval over tasks."""
        return self.together.low, self.together.high

    @property
    def accuracy(self) -> float:
        """Return the mean accuracy over tasks, in [0, 1]."""
        return self._if(metrics.ACCURACY, self.together.mean)

    @property
    def accuracy_one_at_a_time(self) -> float:
        """Return the mean accuracy over tasks of which each query is classified alone."""
        return self._if(metrics.ACCURACY, self.one_at_a_time.mean)

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Return the accuracy of every task, [T]."""
        return self._if(metrics.ACCURACY, np.array(self.record[self.metric.name]))

    @property
    def error(self) -> float:
        """Return the mean error over tasks of a regression."""
        return self._if(metrics.ERROR, self.together.mean)

    @property
    def errors(self) -> NDArray[np.float64]:
        """Return the error of every task of a regression, [T]."""
        return self._if(metrics.ERROR, np.array(self.record[self.metric.name]))

    @property
    def mean_return(self) -> float:
        """Return the mean return over tasks of control."""
        return self._if(metrics.RETURN, self.together.mean)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Return the return of every task of control, [T]."""
        return self._if(metrics.RETURN, np.array(self.record[self.metric.name]))

    def to_pandas(self) -> DataFrame:
        """Return a row for each task: its figures, loss and classes."""
        import pandas as pd

        names, nothing = self.record["class_names"], [None] * self.record["tasks"]
        classes = [[names[int(row)] for row in line.split()] for line in self.record["classes"]]
        keys = (self.metric.name, f"{self.metric}_one_at_a_time", "loss")
        columns = {key: self.record[key] for key in keys}
        return pd.DataFrame({**columns, "classes": classes or nothing}).rename_axis("task")

    def _if(self, metric: Metric, value: Any) -> Any:
        if metric != self.metric:
            raise AttributeError(f"this is judged by its {self.metric}, and has no {metric}")
        return value

    def __repr__(self) -> str:
        """Say the mean, and of how many tasks."""
        about = f"{self.record['tasks']} meta-test tasks of {self.record['data']}"
        return f"{self.record['algorithm']}: {shown(self.together, self.metric)} over {about}"
