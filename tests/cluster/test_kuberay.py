"""The manifest for KubeRay: fields that the operator knows, and a job that can be run again for ever."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.files import CLUSTER, ROOT, check_metabench, pinned

FIELDS = yaml.safe_load((Path(__file__).parent / "kuberay_fields.yaml").read_text())
ACCOUNT, JOB = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
SPEC = JOB["spec"]
HEAD = SPEC["rayClusterSpec"]["headGroupSpec"]
(WORKERS,) = SPEC["rayClusterSpec"]["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, WORKERS)]


def test_every_field_is_one_that_kuberay_and_kubernetes_have() -> None:
    jsonschema.Draft202012Validator.check_schema(FIELDS)
    jsonschema.validate(JOB, FIELDS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.backofflimit", 3),
        ("spec.entrypoint", ["metabench", "search"]),
        ("spec.rayClusterSpec.rayVersion", 2.6),
        ("spec.rayClusterSpec.autoscalerOptions.version", "v3"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restart", "Never"),
    ],
)
def test_a_wrong_field_is_noticed(path: str, value: Any) -> None:
    broken = copy.deepcopy(JOB)
    *parents, last = path.split(".")
    place = broken
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, FIELDS)


def test_ray_is_the_version_that_the_image_installs() -> None:
    assert SPEC["rayClusterSpec"]["rayVersion"] == pinned("ray")
    assert len({container["image"] for pod in PODS for container in pod["containers"]}) == 1


def test_the_head_runs_no_trials_and_workers_come_from_nothing() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert not any(SPEC.get(f"entrypointNum{kind}") for kind in ("Cpus", "Gpus")), "no node has room for it"
    assert WORKERS["replicas"] == WORKERS["minReplicas"] == 0 < WORKERS["maxReplicas"]
    assert SPEC["rayClusterSpec"]["enableInTreeAutoscaling"]
    limits = WORKERS["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= 1
    # With this autoscaler a pod that restarted would be taken for the node that it was.
    assert {pod["restartPolicy"] for pod in PODS} == {"Never"}


def test_the_job_is_a_search_in_object_storage_that_a_new_cluster_goes_on_with() -> None:
    program, *arguments = shlex.split(SPEC["entrypoint"])
    assert program == "metabench"
    understood = check_metabench(arguments)
    assert (understood["address"], understood["resume"]) == ("auto", "auto")
    assert understood["workers"] == WORKERS["maxReplicas"]
    assert re.fullmatch(r"(s3|gs)://.+", arguments[arguments.index("--storage") + 1])
    space = Path(str(understood["space"])).relative_to("/opt/metabench")
    assert (ROOT / space).is_file()
    assert SPEC["backoffLimit"] > 0
    assert SPEC["shutdownAfterJobFinishes"]


def test_the_search_and_the_job_do_not_both_set_the_environment_of_workers() -> None:
    assert "runtimeEnvYAML" not in SPEC, "Ray refuses to merge two that name the same variable"


def test_pods_have_the_images_folders_and_user_and_the_account_of_the_file() -> None:
    image = (CLUSTER / "Dockerfile").read_text()
    folders = set(re.findall(r"METABENCH_(?:DATA|CACHE)=(\S+)", image))
    assert len(folders) == 2
    (user,) = re.findall(r"useradd .*--uid (\d+)", image)
    for pod in PODS:
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert folders | {"/dev/shm"} == set(mounts)
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(user)
        assert pod["serviceAccountName"] == ACCOUNT["metadata"]["name"]
    assert SPEC["rayClusterSpec"]["authOptions"] == {"mode": "token"}
