"""The files of `ray up`, through what the launcher itself does with them before it calls a cloud."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import CLUSTER, ROOT, pinned

CLOUDS = ["aws.yaml", "gcp.yaml"]
FILES = [*CLOUDS, "onprem.yaml"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def prepared(name: str) -> dict[str, Any]:
    """Return a file as the launcher completes it, in the root of the checkout."""
    return prepare_config(load(name))


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_accepts_the_file(name: str) -> None:
    validate_config(prepared(name))


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_refuses_a_misspelt_field(name: str) -> None:
    config = prepared(name)
    config["idle_timeout_minute"] = 1
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(config)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_stays_and_runs_no_trials_and_workers_come_from_nothing(name: str) -> None:
    config = prepared(name)
    types = config["available_node_types"]
    head, (worker,) = types.pop(config["head_node_type"]), types.values()
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert worker["resources"]["GPU"] >= 1, "Ray cannot ask for what it does not know a node to have"
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"].get("cache_stopped_nodes") is not True


def test_machines_of_ones_own_all_run_and_the_head_runs_no_trials() -> None:
    config = prepared("onprem.yaml")
    (machines,) = config["available_node_types"].values()
    n_workers = len(config["provider"]["worker_ips"])
    assert (machines["min_workers"], machines["max_workers"]) == (n_workers, n_workers)
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    # The second version counts the head as one of the workers, and would leave the last one out.
    assert "RAY_enable_autoscaler_v2=0 ray start" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", FILES)
def test_nodes_install_the_ray_that_was_tested_and_know_the_token(name: str) -> None:
    config = prepared(name)
    install = config["worker_setup_commands"][-1]
    assert f"ray[default,tune]=={pinned('ray')}" in install
    assert "--constraint constraints.txt" in install
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "export RAY_AUTH_MODE=token" in (CLUSTER / "environment.sh").read_text()
    head = config["head_start_ray_commands"][-1]
    assert "--disable-usage-stats" in head, "the launcher turns it on again on the head"
    assert "dashboard-host" not in head, "only the head itself reaches the dashboard"


def sources(name: str) -> list[str]:
    """Return what of the checkout a file copies to the nodes, or the image holds."""
    if name != "Dockerfile":
        return [local for local in load(name)["file_mounts"].values() if not local.startswith("~")]
    lines = (CLUSTER / name).read_text().splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


@pytest.mark.parametrize("copied", sorted({tuple(sorted(sources(name))) for name in [*FILES, "Dockerfile"]}))
def test_the_whole_package_can_be_built_from_what_is_copied(copied: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    assert {"constraints.txt", "search_spaces"} <= set(copied)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    building = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert building.returncode == 0, building.stderr
    with zipfile.ZipFile(source / building.stdout.split()[-1]) as wheel:
        built = {name for name in wheel.namelist() if name.startswith("metabench/")}
    assert built == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "metabench").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_aws_starts_a_head_on_demand_and_workers_on_spot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed: no EC2 to start nodes in")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes a key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody's")
    with moto.mock_aws():
        for profile in ("metabench-head", "metabench-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=profile)
        config = _bootstrap_config(load("aws.yaml"), no_config_cache=True)
        provider = _get_node_provider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-name": name}
            provider.create_node(copy.deepcopy(node["node_config"]), tags, 1)
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        instances = [each["Instances"][0] for each in ec2.describe_instances()["Reservations"]]
        kinds = {
            kind["InstanceType"]: kind
            for kind in ec2.describe_instance_types(
                InstanceTypes=[instance["InstanceType"] for instance in instances]
            )["InstanceTypes"]
        }
    head, worker = instances
    assert head.get("InstanceLifecycle") is None
    assert worker["InstanceLifecycle"] == "spot"
    for instance, role in ((head, "head"), (worker, "worker")):
        assert instance["IamInstanceProfile"]["Arn"].endswith(f"/metabench-{role}")
    kind = kinds[worker["InstanceType"]]
    has = {"CPU": kind["VCpuInfo"]["DefaultVCpus"], "GPU": kind["GpuInfo"]["Gpus"][0]["Count"]}
    assert load("aws.yaml")["available_node_types"]["gpu_spot"]["resources"] == has


GCP: dict[str, Any] = {  # of the fields of an Instance of Compute Engine, those in use
    "type": "object",
    "additionalProperties": False,
    "required": ["machineType", "disks"],
    "properties": {
        "machineType": {"type": "string"},
        "disks": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "boot": {"type": "boolean"},
                    "autoDelete": {"type": "boolean"},
                    "type": {"enum": ["PERSISTENT", "SCRATCH"]},
                    "initializeParams": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "diskSizeGb": {"type": "integer"},
                            "sourceImage": {"pattern": "^projects/[^/]+/global/images/family/[^/]+$"},
                        },
                    },
                },
            },
        },
        "scheduling": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "provisioningModel": {"enum": ["SPOT", "STANDARD"]},
                "instanceTerminationAction": {"enum": ["DELETE", "STOP"]},
                "onHostMaintenance": {"enum": ["MIGRATE", "TERMINATE"]},
                "automaticRestart": {"type": "boolean"},
            },
        },
        "serviceAccounts": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["email", "scopes"],
                "properties": {"email": {"type": "string"}, "scopes": {"type": "array"}},
            },
        },
    },
}


def test_google_cloud_is_asked_for_a_head_on_demand_and_workers_on_spot_in_fields_that_it_has() -> None:
    types = load("gcp.yaml")["available_node_types"]
    for node in types.values():
        jsonschema.validate(node["node_config"], GCP)
    assert "scheduling" not in types["head"]["node_config"]
    scheduling = types["gpu_spot"]["node_config"]["scheduling"]
    assert scheduling["provisioningModel"] == "SPOT"
    assert scheduling["onHostMaintenance"] == "TERMINATE", "a machine with a GPU cannot be moved"
    broken = copy.deepcopy(types["gpu_spot"]["node_config"]) | {"scheduling": [{"preemptible": True}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, GCP)
