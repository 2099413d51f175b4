"""The search under a real Ray: trials that are good, poor, broken, crashing and diverging."""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.core import MetabenchError, OutOfOrder
from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, JOURNAL, PRUNED, Ledger
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray import cluster, experiment, failures, jobs
from metabench.storage import files, records
from tests.search.played import broken_place, doubtful_trial, played_trial

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def ray_cluster(workers_without_torch: None) -> Iterator[cluster.Cluster]:
    """Start one Ray for all searches of this file; paths of its sockets must be short."""
    with (
        tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        for name in cluster.ENVIRONMENT:
            patch.delenv(name, raising=False)
        with cluster.connect(None, Path(folder), cpus=2) as started:
            yield started


def explore(
    folder: Path,
    space: SearchSpace,
    ray_cluster: cluster.Cluster,
    trainable: Callable[..., None] = played_trial,
) -> list[FairSearcher]:
    """Search with played trials and return the searchers that were used."""
    searchers: list[FairSearcher] = []

    def make(*args: Any, **options: Any) -> FairSearcher:
        searchers.append(FairSearcher(*args, **options))
        return searchers[-1]

    ledger, watch = Ledger(folder, keep=2), Watch(folder, space, quiet=True)
    with pytest.MonkeyPatch.context() as patch, watch.showing(ledger):
        patch.setattr(experiment, "FairSearcher", make)
        experiment.explore(folder, space, ledger, ray_cluster, watch, seed=0, trainable=trainable)
    return searchers


def check_studies(searcher: FairSearcher) -> None:
    """The studies hold what the ledger holds, and nothing that still runs."""
    for algorithm, study in searcher.studies.items():
        status = Counter(trial.status for trial in searcher.ledger.of(algorithm))
        states = Counter(trial.state for trial in study.study.trials)
        assert states[TrialState.RUNNING] == status[None] == 0
        assert states[TrialState.FAIL] == status[FAILED] + status[DIVERGED]
        assert (states[TrialState.COMPLETE], states[TrialState.PRUNED]) == (status[COMPLETE], status[PRUNED])


def test_every_kind_of_trial_ends_as_what_it_is_and_none_ends_the_search(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster
) -> None:
    space = space.model_copy(update={"budget": space.budget.model_copy(update={"trials": 5})})
    used, _nothing_left = explore(tmp_path, space, ray_cluster)
    check_studies(used)
    lines = records.trials(tmp_path)
    status = {name: line["status"] for name, line in lines.items()}
    assert status["maml-000"] == status["maml_pp-000"] == COMPLETE  # the best of their algorithms
    assert status["maml-001"] == FAILED
    assert status["maml-003"] == status["maml_pp-003"] == DIVERGED
    assert status["maml_pp-002"] in (COMPLETE, PRUNED)  # which of them depends on who comes first
    assert "maml-001 is broken" in lines["maml-001"]["error"]
    attempts = {name: len(files.read_lines(tmp_path / "played" / name)) for name in lines}
    often = {"maml-001": 1 + failures.MAX_FAILURES, "maml_pp-002": 2}
    assert attempts == {name: often.get(name, 1) for name in lines}
    assert Counter(line["algorithm"] for line in lines.values()) == {"maml": 5, "maml_pp": 5}
    assert len(files.read_lines(tmp_path / files.TRIALS)) == 10
    check_decisions_in_tensorboard(tmp_path, lines["maml-000"])
    journal = (tmp_path / JOURNAL).read_bytes()
    explore(tmp_path, space, ray_cluster)
    assert (tmp_path / JOURNAL).read_bytes() == journal  # nothing is left to do
    assert not (tmp_path / files.RUNNING).exists()


def test_where_all_wait_for_the_last_the_best_of_all_go_on(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster
) -> None:
    budget = space.budget.model_copy(update={"scheduler": "top_k", "trials": 7})
    space = space.model_copy(update={"budget": budget, "algorithms": {"fomaml": {}}})
    first, last = explore(tmp_path, space, ray_cluster)
    assert (len(first.studies["fomaml"].asked), last.remaining()) == (7, 0)
    check_studies(last)
    status = [line["status"] for _, line in sorted(records.trials(tmp_path).items())]
    # Accuracy falls with the number, and the fourth diverges: of six that arrive, two go on.
    assert status == [COMPLETE, COMPLETE, PRUNED, DIVERGED, PRUNED, PRUNED, PRUNED]
    events = EventAccumulator(str(tmp_path / files.TENSORBOARD / "fomaml" / "fomaml-006"))
    events.Reload()
    (rank,) = events.Scalars("stopping/rank")
    assert rank.step == 100
    assert rank.value >= 5  # the last of as many as had arrived when it could not go on any more


def test_a_search_in_rounds_tries_every_setting_once_and_proposes_with_all_that_came_before(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "ROUND_TRIALS", 2)
    rounds = []

    class Tuner(experiment.tune.Tuner):  # type: ignore[name-defined]
        def fit(self) -> Any:
            rounds.append(len(Ledger(tmp_path, 2, is_driver=False).trials))
            return super().fit()

    monkeypatch.setattr(experiment.tune, "Tuner", Tuner)
    budget = space.budget.model_copy(update={"trials": 6})
    only = space.model_copy(update={"budget": budget, "algorithms": {"fomaml": {}}})
    (used, _nothing_left) = explore(tmp_path, only, ray_cluster)
    assert rounds == [0, 4]  # two places
    check_studies(used)
    attempts = [len(files.read_lines(path)) for path in (tmp_path / "played").iterdir()]
    assert attempts == [1] * 6


def test_trials_reevaluate_where_a_decision_is_within_the_noise(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster
) -> None:
    changed = {"trials": 5, "validation_tasks": 4, "borderline_tasks": 8}
    budget = space.budget.model_copy(update=changed)
    space = space.model_copy(update={"budget": budget, "algorithms": {"fomaml": {}}})
    used, _nothing_left = explore(tmp_path, space, ray_cluster, doubtful_trial)
    check_studies(used)
    events = files.read_lines(tmp_path / JOURNAL)
    doubted = {(e["trial"], e["tasks_seen"]) for e in events if e["event"] == "doubted"}
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in events if e["event"] == "report"]
    assert doubted
    assert len(judged) == len(set(judged))
    for event in events:
        if event["event"] == "report":
            n_tasks = 8 if (event["trial"], event["report"]["tasks_seen"]) in doubted else 4
            assert event["report"]["val_tasks"] == n_tasks


def check_decisions_in_tensorboard(folder: Path, line: dict[str, Any]) -> None:
    """Each rung's decision stands at its step, as in trials.jsonl."""
    events = EventAccumulator(str(folder / files.TENSORBOARD / "maml" / "maml-000"))
    events.Reload()
    assert [decision["decision"] for decision in line["decisions"]] == ["continue", "continue", COMPLETE]
    shown = {key: [(e.step, e.value) for e in events.Scalars(f"stopping/{key}")] for key in ("rung", "rank")}
    assert shown["rung"] == [(100, 0), (300, 1), (900, 2)]
    assert shown["rank"] == [(d["tasks_seen"], d["rank"]) for d in line["decisions"][:2]]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_one_message(tmp_path: Path, ray_folder: None, address: str) -> None:
    with (
        pytest.raises(MetabenchError, match=f"`address` {address}: no Ray cluster can be joined there"),
        cluster.connect(address, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("resources", "slots", "gpus"),
    [({"CPU": 8.0}, 8, 0), ({"CPU": 8.0, "GPU": 1.0}, 4, 0.25), ({"CPU": 4.0, "GPU": 2.0}, 4, 0.5)],
)
def test_trials_share_gpus_as_far_as_there_are_cpus(
    resources: dict[str, float], slots: int, gpus: float
) -> None:
    assert cluster.allocate(resources) == cluster.Cluster(slots, 1, gpus)


def test_where_no_node_is_left_the_search_ends_with_what_is_out_of_order_and_has_failed_nothing(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster
) -> None:
    space = space.model_copy(update={"algorithms": {"fomaml": {}}})
    fresh = ray_cluster._replace(excluded=failures.ExcludedNodes(cluster.workers, lambda text: None))
    with pytest.raises(OutOfOrder, match=r"node .*: no space left\nNothing is lost. .*the same command"):
        explore(tmp_path, space, fresh, broken_place)
    ledger = Ledger(tmp_path, keep=2)
    assert {trial.status for trial in ledger.trials.values()} == {None}


def test_an_error_of_the_disk_while_tune_asks_us_is_what_comes_out(
    tmp_path: Path, space: SearchSpace, ray_cluster: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Ledger, "record", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        explore(tmp_path, space, ray_cluster)
    assert error.value.errno == errno.ENOSPC


def test_jobs_that_wait_have_no_worker_of_their_own(
    ray_cluster: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray starts a worker for each that it is handed, beyond those that it has.
    start, started, ended = jobs._start, [], []

    def watched(function: Callable[..., Any], arguments: tuple[Any, ...], place: cluster.Cluster) -> Any:
        started.append(arguments)
        return start(function, arguments, place)

    def done(name: str, result: int) -> None:
        assert len(started) <= len(ended) + ray_cluster.slots
        ended.append(name)

    monkeypatch.setattr(jobs, "_start", watched)
    names = {f"job-{number}": (number,) for number in range(6)}
    assert not jobs.run_all(abs, names, ray_cluster, done)
    assert sorted(ended) == sorted(names)


def test_a_node_that_leaves_while_all_are_asked_is_left_out(
    ray_cluster: cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = cluster.workers()
    gone = {**node, "NodeID": "0123" * (len(node["NodeID"]) // 4)}
    monkeypatch.setattr(cluster, "workers", lambda: [gone, node])
    answers = cluster.ask_each(cluster.problem_of, str(tmp_path))
    name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"  # both have the same address
    assert answers == {name: "no such folder"}
