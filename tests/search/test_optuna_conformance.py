"""Optuna's own tests of samplers, run on ours: made anew for every trial, as a search makes them.

Those for several objectives do not apply, since a study here has one; nor do those of storages, since the
journal is what a search is rebuilt from and studies are in memory only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import FrozenTrial

from metabench.search.propose import samplers

# Optuna warns of what its own tests use.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Anew(BaseSampler):
    """One of our samplers by name, made for each trial with a seed of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = -1
        self.made: BaseSampler = self.make()

    def make(self) -> BaseSampler:
        self.number += 1
        return samplers.make(self.name, {}, startup=0, series=7, seed=self.number)

    def reseed_rng(self) -> None:
        """Leave the seeds: two threads of one study never share a trial."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.made = self.make()
        self.made.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self.made.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.made.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.made.infer_relative_search_space(study, trial)  # as a trial does before; these tests do not
        return self.made.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.made.sample_independent(study, trial, param_name, param_distribution)


class TestOneByOne(BasicSamplerTestCase):
    """Values lie in their ranges and are of their kinds, whatever the space and whatever is reported."""

    @pytest.fixture(params=["tpe", "random", "cma-es", "qmc"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: Anew(request.param)


@pytest.mark.slow
class TestGaussianProcess(BasicSamplerTestCase):
    """The same for the one that takes its time."""

    @pytest.fixture(params=["gp"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: Anew(request.param)


class TestTogether(RelativeSamplerTestCase):
    """What is drawn together lies in its ranges too."""

    @pytest.fixture(params=["tpe", "qmc", pytest.param("gp", marks=pytest.mark.slow)])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: Anew(request.param)


class TestNumbersTogether(RelativeSamplerTestCase):
    """CMA-ES knows of numbers only; a search draws categories one by one beside it."""

    @pytest.fixture(params=["cma-es"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: Anew(request.param)

    test_sample_relative_categorical = None
    test_sample_relative_mixed = None
