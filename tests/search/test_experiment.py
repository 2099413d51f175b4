"""The search under a real Ray: trials that are good, poor, broken, crashing and diverging."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from metabench import store
from metabench.config import SearchSpace
from metabench.core import MetabenchError
from metabench.search import cluster, experiment
from metabench.search.ledger import COMPLETE, DIVERGED, FAILED, JOURNAL, PRUNED, Ledger
from metabench.search.watch import Watch
from tests.search.conftest import make_report

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep Ray's files apart; paths of sockets must be short, so not under pytest's folder."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        for name in cluster.ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        yield


def played_trial(config: dict[str, Any], folder: str, space: dict[str, Any]) -> None:
    """Play a part by number instead of training: the journal of what was done is one line an attempt."""
    name = config["trial"]
    work = Path(folder) / "played" / name
    attempts = len(store.read_lines(work))
    store.append_line(work, {"attempt": attempts})
    number = int(name[-3:])
    if number == 1:
        raise ValueError(f"{name} is broken")
    if number == 2 and attempts == 0:
        os._exit(1)  # as a node that dies
    for rung in (100, 300, 900):
        accuracy = None if number == 3 else 0.9 - number / 20
        tune.report({"tasks_seen": rung, "report": json.dumps(make_report(rung, accuracy))})


def test_every_kind_of_trial_ends_as_what_it_is_and_none_ends_the_search(
    tmp_path: Path, space: SearchSpace, ray_folder: None
) -> None:
    space = space.model_copy(update={"budget": space.budget.model_copy(update={"trials": 5})})
    ledger = Ledger(tmp_path, keep=2)
    with cluster.connect(None, tmp_path, cpus=2) as found:
        watch = Watch(tmp_path, space, quiet=True)
        with watch.showing(ledger):
            experiment.explore(tmp_path, space, ledger, found, watch, seed=0, trainable=played_trial)
        lines = store.read_trials(tmp_path)
        for algorithm in space.algorithms:
            status = [lines[f"{algorithm}-{number:03d}"]["status"] for number in range(5)]
            assert status[0] == COMPLETE  # the best of all
            assert status[1] == FAILED
            assert status[2] in (COMPLETE, PRUNED)  # which of them depends on who comes first
            assert status[3] == DIVERGED
            assert f"{algorithm}-001 is broken" in lines[f"{algorithm}-001"]["error"]
            attempts = [len(store.read_lines(tmp_path / "played" / f"{algorithm}-{n:03d}")) for n in range(5)]
            assert attempts == [1, 1 + experiment.MAX_FAILURES, 2, 1, 1]
        assert Counter(line["algorithm"] for line in lines.values()) == {"maml": 5, "maml_pp": 5}
        assert len(store.read_lines(tmp_path / store.TRIALS)) == 10
        journal = (tmp_path / JOURNAL).read_bytes()
        again = Ledger(tmp_path, keep=2)
        experiment.explore(tmp_path, space, again, found, watch, seed=0, trainable=played_trial)
        assert (tmp_path / JOURNAL).read_bytes() == journal  # nothing is left to do
    assert not (tmp_path / store.RUNNING).exists()


def test_an_address_without_a_cluster_is_one_message(tmp_path: Path, ray_folder: None) -> None:
    with (
        pytest.raises(MetabenchError, match=r"127\.0\.0\.1:1: no Ray cluster can be joined"),
        cluster.connect("127.0.0.1:1", tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("resources", "slots", "gpus"),
    [({"CPU": 8.0}, 8, 0), ({"CPU": 8.0, "GPU": 1.0}, 4, 0.25), ({"CPU": 4.0, "GPU": 2.0}, 4, 0.5)],
)
def test_trials_share_gpus_as_far_as_there_are_cpus(
    resources: dict[str, float], slots: int, gpus: float
) -> None:
    assert cluster.offer(resources) == cluster.Cluster(slots, 1, gpus)
