"""Nodes that vanish, join, or have other data, GPUs that are shared, and a storage that does not answer.

The long form is `python -m benchmarks.faults`, which does hundreds of random faults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from metabench import PROTOCOL
from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import JOURNAL, Ledger
from metabench.search.progress.watch import Watch
from metabench.search.ray import cluster, experiment
from metabench.storage import files
from tests.search import laws
from tests.search.played import packed_trial
from tests.search.processes import COMMAND, PATIENCE, ROOT, Nodes, kill, of, short_folder, until
from tests.search.test_kill import SPACE
from tests.storage.remote import server
from tests.storage.remote.proxy import Proxy

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

RUNGS = [10, 30]

IMAGES = {"path": "mine", "size": 16, "channels": 1, "meta_train": 0.4, "meta_validation": 0.3}


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder with a short path; whatever still runs with it in its environment is killed."""
    with short_folder() as folder:
        yield Path(folder)
        kill(*of(folder))


def search(place: Path, *options: str, **changes: Any) -> subprocess.Popen[str]:
    """Start a small search in a place, which tells people in a file there."""
    budget = {**SPACE["budget"], "tasks": RUNGS[-1], "trials": 3}
    space = {**SPACE, "budget": budget, **changes}
    (place / "space.yaml").write_text(yaml.safe_dump(space))
    environment = {"RAY_TMPDIR": str(place), "METABENCH_TRACE": str(place / "trace"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*COMMAND, "search", "space.yaml", "--out", ".", "--name", "it", *options],
        cwd=place,
        env={**os.environ, "METABENCH_CACHE": str(place / "cache"), **environment},
        stdout=subprocess.DEVNULL,
        stderr=(place / "told").open("w"),
        text=True,
    )


def output_of(place: Path) -> str:
    return (place / "told").read_text()


def reports(place: Path) -> int:
    return sum(event["event"] == "report" for event in files.read_lines(place / "it" / JOURNAL))


def broken(folder: Path, trace: Path) -> list[str]:
    """List the laws that do not hold."""
    return [
        *laws.judged_once(folder),
        *laws.decided_again(folder),
        *laws.little_again(trace, RUNGS),
        *laws.same_numbers(folder),
    ]


def images(root: Path, shade: int) -> None:
    """Make ten classes of three images."""
    draw = np.random.Generator(np.random.PCG64(7))
    for row in range(10):
        (root / "mine" / f"class{row}").mkdir(parents=True)
        for column in range(3):
            image = draw.integers(shade, 250, (16, 16)).astype(np.uint8)
            Image.fromarray(image).save(root / "mine" / f"class{row}" / f"{column}.png")


@pytest.mark.slow
def test_nodes_come_and_go_and_one_with_other_data_reports_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(place / "here", shade=0)
    images(place / "there", shade=1)
    monkeypatch.setenv("METABENCH_DATA", str(place / "here"))
    (place / "r").mkdir()
    nodes = Nodes(place / "r", METABENCH_TRACE=str(place / "trace"))
    try:
        lost, _kept = nodes.add(), nodes.add()
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        task = {"dataset": "folder", "options": IMAGES, "way": 2, "query": 2, "test_query": 2}
        driver = search(place, "--address", nodes.address, task=task)
        assert until(lambda: reports(place) >= 1 or driver.poll() is not None), output_of(place)
        nodes.lose(lost)
        nodes.add(METABENCH_DATA=str(place / "there"))
        assert until(
            lambda: "not the search's data_fingerprint" in output_of(place) or driver.poll() is not None
        )
        nodes.add()
        assert driver.wait(PATIENCE) == 0, output_of(place)
    finally:
        nodes.close()
    said = output_of(place)
    assert said.count("not the search's data_fingerprint") == 1
    assert f"METABENCH_DATA={str(place / 'there')!r}" in said
    assert "Nothing more is started there; it goes on elsewhere" in said
    assert "Traceback" not in said
    assert broken(place / "it", place / "trace") == []


def pack(address: str, folder: str, described: str) -> None:
    """Play trials on shares of GPUs; in a process of its own, as Ray's token is read once a process."""
    place, space = Path(folder), SearchSpace.model_validate_json(described)
    with cluster.connect(address, place) as connected:
        assert (connected.slots, connected.gpus) == (4, 0.5)
        watch = Watch(place, space, quiet=True)
        ledger = Ledger(place, keep=2)
        experiment.explore(place, space, ledger, connected, watch, seed=0, trainable=packed_trial)


@pytest.mark.slow
def test_four_trials_share_two_gpus_evenly(tmp_path: Path, place: Path, space: SearchSpace) -> None:
    space = space.model_copy(update={"budget": space.budget.model_copy(update={"trials": 2})})
    record = {"protocol": PROTOCOL, "seed": 0, "data_fingerprint": "", "space": space.model_dump(mode="json")}
    files.write_json(tmp_path / files.SEARCH, record)
    nodes = Nodes(place)
    try:
        nodes.add(cpus=4, gpus=2)
        code = "import sys; from tests.search.test_faults import pack; pack(*sys.argv[1:])"
        arguments = [nodes.address, str(tmp_path), space.model_dump_json()]
        environment = {name: value for name, value in os.environ.items() if name not in cluster.ENVIRONMENT}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT), **nodes.environment, "RAY_TMPDIR": str(place)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
    finally:
        nodes.close()
    words = [files.read_json(path) for path in (tmp_path / "packed").iterdir()]
    assert Counter(word["visible"] for word in words) == {"0": 2, "1": 2}
    assert all(word["gpus"] == [int(word["visible"])] for word in words)


@pytest.mark.slow
def test_a_search_waits_for_a_storage_that_does_not_answer_and_goes_on(place: Path) -> None:
    with server.running() as s3:
        proxy = Proxy(s3.port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.url)
            driver = search(place, "--storage", s3.url)
            for mode, since in (("stall", 1), ("refuse", 2), ("cut", 3)):
                assert until(lambda since=since: reports(place) >= since or driver.poll() is not None)
                assert driver.poll() is None, output_of(place)
                proxy.be(mode)
                time.sleep(2)
                proxy.be("pass")
            assert driver.wait(PATIENCE) == 0, output_of(place)
        for name, content in s3.objects().items():
            files.write_bytes(place / "bucket" / name, content)
    folder = place / "bucket/searches/it"
    assert "Traceback" not in output_of(place)
    assert broken(folder, place / "trace") == []
    assert files.read_lines(folder / JOURNAL) == files.read_lines(place / "it" / JOURNAL)
