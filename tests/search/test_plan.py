"""What a search would take: the shares of a cluster, the expected cost, and a plan that starts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from metabench.cli import app
from metabench.core import MetabenchError, device
from metabench.core.config import SearchSpace
from metabench.search.ray import cluster
from metabench.search.stages import plan
from tests.search.test_kill import SPACE


@pytest.mark.parametrize(
    ("resources", "share", "expected"),
    [
        ({"CPU": 8}, cluster.TrialResources(), (8, 1, 0)),
        ({"CPU": 8}, cluster.TrialResources(cpus=3), (2, 3, 0)),
        ({"CPU": 8, "GPU": 2}, cluster.TrialResources(gpus=0), (8, 1, 0)),
        ({"CPU": 8, "GPU": 2}, cluster.TrialResources(gpus=1), (2, 1, 1)),
        ({"CPU": 8, "GPU": 2}, cluster.TrialResources(gpus=2), (1, 1, 2)),
        ({"CPU": 8, "GPU": 2}, cluster.TrialResources(gpus=0.25), (8, 1, 0.25)),
        (
            {"CPU": 4, "GPU": 2},
            cluster.TrialResources(gpus=0.25),
            (4, 1, 0.25),
        ),  # too few cores
        ({"CPU": 8, "GPU": 2}, cluster.TrialResources(gpus=0.4), (4, 1, 0.4)),  # a share lies on one GPU
        ({"CPU": 6, "GPU": 2}, cluster.TrialResources(), (6, 1, 1 / 3)),
        ({"CPU": 6, "GPU": 2}, cluster.TrialResources(cpus=2), (2, 2, 1)),
    ],
)
def test_a_cluster_is_divided_as_asked(
    resources: dict[str, float], share: cluster.TrialResources, expected: tuple[float, float, float]
) -> None:
    assert cluster.allocate(resources, share) == pytest.approx(cluster.Cluster(*expected))


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (cluster.TrialResources(gpus=1.5), "a share of one GPU or a whole number"),
        (cluster.TrialResources(gpus=4), "gpus_per_trial=4: the cluster has 2 GPUs"),
        (cluster.TrialResources(cpus=16), "has 8 cores, and a trial takes 16"),
    ],
)
def test_a_share_that_no_node_can_give_is_refused(share: cluster.TrialResources, message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        cluster.allocate({"CPU": 8, "GPU": 2}, share)


def test_a_gpu_that_is_asked_for_where_there_is_none_is_refused() -> None:
    with pytest.raises(MetabenchError, match="the cluster has 0 GPUs"):
        cluster.allocate({"CPU": 8}, cluster.TrialResources(gpus=0.5))


def test_the_cost_is_that_of_the_stages(space: SearchSpace) -> None:
    cost = plan.cost(space, "maml", plan.Pace(training=0.1, evaluation=0.01, slowest=0.2))
    # 9 trials to 100 tasks, 3 of them to 300, 1 to 900
    assert cost["trials_at_rungs"] == [9, 3, 1]
    assert cost["trial_tasks"] == 9 * 100 + 3 * 200 + 1 * 600
    assert cost["final_tasks"] == 2 * 2 * 900
    training = 0.1 * (2100 + 3600)
    evaluation = 0.01 * (13 * 10 + 2 * 10 + 4 * 10 * 10 + 4 * 20)
    assert cost["seconds"] == pytest.approx(training + evaluation)
    at_most = 9 * (0.2 * 900 + 3 * 10 * 0.01) + 0.2 + 0.1 * 3600 + 0.01 * (400 + 80)
    assert cost["at_most_seconds"] == pytest.approx(at_most)


def test_the_cost_of_other_schedulers_and_of_seconds_is_theirs(space: SearchSpace) -> None:
    pace = plan.Pace(training=0.1, evaluation=0.01, slowest=0.2)

    def cost(**budget: Any) -> dict[str, Any]:
        changed = space.model_copy(update={"budget": space.budget.model_copy(update=budget)})
        return plan.cost(changed, "maml", pace)

    after = cost()["seconds"] - (0.1 * 2100 + 0.01 * (13 * 10 + 2 * 10))
    assert cost(trials=27)["trials_at_rungs"] == [27, 9, 3]
    assert cost(trials=2)["trials_at_rungs"] == [2, 1, 1]
    assert cost(scheduler="none")["trial_tasks"] == 9 * 900
    assert cost(scheduler="top_k")["trials_at_rungs"] == [9, 3]
    assert cost(scheduler="top_k")["trial_tasks"] == 9 * 100 + 3 * 800
    timed = cost(unit="seconds", seconds=60.0)
    assert timed["seconds"] == pytest.approx(60 + 0.01 * 2 * 10 + after)  # and the confirmation
    assert timed["at_most_seconds"] == pytest.approx(timed["seconds"])
    assert cost(unit="seconds", seconds=1e6)["seconds"] == cost()["seconds"]
    steps = {"unit": "environment_steps", "environment_steps": 2100 * 50}
    assert cost(**steps) == cost(unit="seconds", seconds=1e6)  # a learner that takes none
    pace = pace._replace(environment_steps=100)
    counted = cost(**steps)
    assert counted["trial_tasks"] == 1050  # a half of what the trials would see
    one = 0.2 * 900 + 3 * 10 * 0.01
    assert counted["at_most_seconds"] == pytest.approx(1050 / 900 * one + 0.01 * 2 * 10 + after)


def test_a_plan_tells_what_it_would_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "SECONDS", 0.05)
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    shown = CliRunner().invoke(app, ["search", "space.yaml", "--plan", "--json"])
    assert shown.exit_code == 0, shown.output
    printed = json.loads(shown.stdout)
    assert printed["slots"] >= 1
    assert printed["algorithms"]["maml"]["training"] > 0
    assert 0 < printed["accelerator_hours"] <= printed["at_most_accelerator_hours"]
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_process_is_kept_to_its_share_of_a_gpu() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    device.cap(0.1)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.2 * total), dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
