"""What tasks of each kind are judged by."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from metabench.core import Objective
from metabench.core.metrics import ACCURACY, ERROR


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == y).to(logits.dtype).mean()


OBJECTIVES: Mapping[str, Objective] = {
    "classification": Objective(ACCURACY, F.cross_entropy, accuracy),
    "regression": Objective(ERROR, F.mse_loss, F.mse_loss),
}
