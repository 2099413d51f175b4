"""Ridge regression is what scikit-learn makes of a support set, for each task alone and for all at once."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge

from metabench import algorithms
from metabench.core import Support
from metabench.training import vectorise
from tests.algorithms import problems


@pytest.mark.parametrize("n_inputs", [2, 40])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_ridge_predicts_what_scikit_learn_does(n_inputs: int, penalty: float) -> None:
    tasks = problems.points(4, n_inputs)
    algorithm, h = algorithms.get("ridge"), algorithms.hparams("ridge", {"penalty": penalty})

    def answer(task):
        learner = algorithm.adapt(None, {}, {}, task.support, h)
        return algorithm.predict(None, learner, task.query.x)

    together = vectorise.per_task(answer, tasks)
    for index in range(4):
        x, y = (leaf[index].numpy() for leaf in tasks.support)
        expected = Ridge(alpha=penalty).fit(x, y).predict(tasks.query.x[index].numpy())
        # float64; another factorisation of the same system
        torch.testing.assert_close(
            together[index].flatten(), torch.as_tensor(expected).flatten(), rtol=1e-8, atol=1e-9
        )


def test_one_row_predicts_its_own_number() -> None:
    algorithm, h = algorithms.get("ridge"), algorithms.hparams("ridge", {})
    learner = algorithm.adapt(None, {}, {}, Support(torch.ones(1, 3), torch.full((1, 1), 7.0)), h)
    assert algorithm.predict(None, learner, torch.randn(4, 3)).tolist() == [[7.0]] * 4
