"""Each node of a cluster is asked once for the data before trials start; one that lacks them is named."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from metabench import data
from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.data.reading import cache
from metabench.search.ray import cluster, nodes
from metabench.storage import files
from tests.data.reading.server import serving
from tests.support import small

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

OPTIONS = {"path": "mine", "size": 4, "channels": 1, "meta_train": 0.34, "meta_validation": 0.33}
TASK = TaskConfig(dataset="folder", options=OPTIONS, way=2, shot=1, query=1, test_query=1)


def images(root: Path) -> None:
    for row in range(6):
        (root / "mine" / f"class{row}").mkdir(parents=True)
        for column in range(2):
            image = np.full((4, 4), 40 * row + column, np.uint8)
            Image.fromarray(image).save(root / "mine" / f"class{row}" / f"{column}.png")


@pytest.fixture
def two_nodes(tmp_path: Path, ray_folder: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a cluster whose second node has folders of its own; the first is told the driver's."""
    images(tmp_path / "here")
    for name in ("METABENCH_DATA", "METABENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # for good: this process reads it once
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    variables = {"METABENCH_DATA": str(tmp_path / "there"), "METABENCH_CACHE": str(tmp_path / "cache there")}
    both = {"num_cpus": 1, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=both)
    try:
        started.add_node(num_cpus=1, env_vars=variables)
        monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "here"))
        monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache here"))
        yield started.address
    finally:
        started.shutdown()


def test_a_node_without_the_data_or_with_others_is_refused_by_name_and_one_with_them_has_them_decoded(
    tmp_path: Path, two_nodes: str
) -> None:
    splits = data.load(TASK)
    files.write_json(tmp_path / "out" / files.SEARCH, {})
    there = tmp_path / "there"
    with cluster.connect(two_nodes, tmp_path / "out"):
        first = ray.get_runtime_context().get_node_id()
        (second,) = (node["NodeID"] for node in cluster.workers() if node["NodeID"] != first)
        with pytest.raises(MetabenchError) as error:
            nodes.check(two_nodes, TASK, splits)
        first_line, *rest = str(error.value).splitlines()
        assert f"({second[:8]}): folder: path='mine': no such file or folder at" in first_line
        assert first_line.endswith(f"nor at {there}/mine")
        assert len(rest) == 1, "the node that has the driver's folder is content"
        assert "set METABENCH_DATA to storage that all nodes share" in rest[0]
        assert "fetch" not in rest[0], "nobody can fetch the user's own images"

        images(there)
        Image.fromarray(np.full((4, 4), 99, np.uint8)).save(there / "mine" / "class0" / "0.png")
        with pytest.raises(MetabenchError, match="other data than here") as error:
            nodes.check(two_nodes, TASK, splits)
        assert f"({second[:8]}): other data" in str(error.value)
        assert f"METABENCH_DATA={str(there)!r} there" in str(error.value)
        assert first[:8] not in str(error.value)

        shutil.rmtree(there)
        images(there)
        shutil.rmtree(tmp_path / "cache there", ignore_errors=True)
        nodes.check(two_nodes, TASK, splits)
        networks_are_compared(two_nodes, second)
    there_and_here = [tmp_path / "cache there", tmp_path / "cache here"]
    kept = [sorted(path.name.partition("-")[0] for path in cache.glob("*.npy")) for cache in there_and_here]
    assert kept == [["checksum", "folder"], ["checksum", "folder"]]
    assert all(path.suffix == ".npy" for cache in there_and_here for path in cache.iterdir())


def networks_are_compared(address: str, second: str) -> None:
    for kind, words in {
        "absent": "no such library on this node",
        "other": "another network than here",
    }.items():
        made = {"module": "tests.support.own_networks:of_node", "options": {"kind": kind}}
        with pytest.raises(MetabenchError, match=words) as error:
            nodes.check_network(address, NetworkConfig(**made))
        first_line, advice = str(error.value).splitlines()
        assert f"({second[:8]}): " in first_line
        assert "PYTHONPATH" in advice
    nodes.check_network(address, NetworkConfig(**made | {"options": {"kind": "same"}}))
    nodes.check_network(address, NetworkConfig())


MADE = """
import os
from metabench.data import load
from metabench.core.config import TaskConfig

if os.environ["METABENCH_DATA"].endswith("there"):
    raise ImportError("no driver for the camera")

def made():
    return load(TaskConfig(dataset="folder", options={options}))
"""


@pytest.mark.slow
def test_a_function_that_a_node_cannot_import_is_told_with_the_node_before_anything_starts(
    tmp_path: Path, two_nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "camera.py").write_text(MADE.replace("{options}", repr(OPTIONS)))
    monkeypatch.syspath_prepend(tmp_path)
    task = TaskConfig(dataset="module:camera:made", way=2, shot=1, query=1, test_query=1)
    splits = data.load(task)
    files.write_json(tmp_path / "out" / files.SEARCH, {})
    with cluster.connect(two_nodes, tmp_path / "out"):
        first = ray.get_runtime_context().get_node_id()
        with pytest.raises(MetabenchError) as error:
            nodes.check(two_nodes, task, splits)
    problem, advice = str(error.value).splitlines()
    assert "dataset='camera:made': importing camera raised ImportError: no driver for the camera" in problem
    assert "camera.py, line 7" in problem
    assert first[:8] not in problem
    assert "install the package that makes them on each node" in advice


def test_a_node_without_the_data_downloads_them_once_where_it_is_told_to(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskConfig(dataset="quickdraw", options={"examples_per_class": 20})
    monkeypatch.setenv("METABENCH_DATA", str(data_root))
    here = data.load(task)
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "node"))
    assert "quickdraw" in nodes.look(task.model_dump(mode="json")).problem
    with serving(data_root / "quickdraw/numpy_bitmap") as (url, behaviour):
        for _ in range(2):
            answer = nodes.look(task.model_dump(mode="json"), url)
            assert answer == (here.fingerprint, "", str(tmp_path / "node"))
            n_requests = len(behaviour.seen)
            behaviour.codes = [500] * 1000  # a second download would fail
    assert n_requests > 345


def test_this_machine_alone_is_not_asked_again() -> None:
    nodes.check(None, TASK, small.splits())  # without a Ray, or the data


def test_a_line_says_what_each_node_needs_and_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path)
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    with cache.noted() as kept:
        splits = data.load(TASK)
    assert [path.parent for path in kept] == [tmp_path / "cache"]
    n_bytes = sum(path.stat().st_size for path in (tmp_path / "mine").rglob("*.png"))
    line = nodes.needs(TASK, splits.name, kept)
    assert line == (
        f"each node needs folder/own: {n_bytes / 1000:.0f} kB of files in {tmp_path}/mine (METABENCH_DATA), "
        f"{kept[0].stat().st_size / 1000:.0f} kB decoded in {tmp_path}/cache (METABENCH_CACHE)"
    )
    monkeypatch.delenv("METABENCH_DATA")
    sinusoid = TaskConfig(dataset="sinusoid", way=1)
    assert nodes.needs(sinusoid, "sinusoid/random", []) == (
        "each node needs sinusoid/random: no files, nothing in the cache"
    )


def test_the_sources_of_every_data_set_are_there_and_hold_what_is_read(data_root: Path) -> None:
    for name in ("omniglot", "quickdraw"):
        sources = data.sources(TaskConfig(dataset=name), data_root)
        assert sources
        assert all(path.exists() and path.is_relative_to(data_root / name) for path in sources)
        assert data.sources(TaskConfig(dataset=name), data_root / "nowhere") == []


def test_a_node_takes_the_drivers_folders_only_where_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABENCH_DATA", "/own")
    monkeypatch.delenv("METABENCH_CACHE", raising=False)
    for name, variable in cluster.FORWARDED.items():
        monkeypatch.setenv(variable, f"/driver/{name}")
    cluster.adopt_driver_folders()
    assert os.environ["METABENCH_DATA"] == "/own"
    assert os.environ["METABENCH_CACHE"] == "/driver/METABENCH_CACHE"
    monkeypatch.delenv("METABENCH_CACHE")
