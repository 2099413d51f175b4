"""What tasks of each kind are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from metabench.core import Objective, control
from metabench.core.metrics import ACCURACY, ERROR, RETURN

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == y).to(logits.dtype).mean()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy; who only reads results needs the names here, and no torch."""
    from torch.nn import functional

    return functional.cross_entropy(logits, y)


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error."""
    from torch.nn import functional

    return functional.mse_loss(outputs, y)


OBJECTIVES: Mapping[str, Objective] = {
    "classification": Objective(ACCURACY, cross_entropy, accuracy),
    "regression": Objective(ERROR, squared_error, squared_error),
    "control": Objective(RETURN, control.likelihood_ratio, control.mean_return),
}
