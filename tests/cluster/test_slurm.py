"""The Slurm script, run to each of its ends with stand-ins for what it calls; and once with real Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metabench.storage import files
from tests.cluster.files import CLUSTER, ROOT
from tests.search.test_kill import PATIENCE, SPACE

SCRIPT = CLUSTER / "slurm.sh"
OPTIONS = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.+))?$", SCRIPT.read_text(), re.MULTILINE))


def program(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


class Job:
    """A job of Slurm that runs the script."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        fake = f'exec {sys.executable} {Path(__file__).with_name("fake.py")} "$(basename "$0")" "$@"'
        for name in ("srun", "scontrol"):
            program(folder / "bin" / name, fake)
        # As on Debian, whose nodes know themselves by a loopback address that the others cannot reach.
        program(folder / "bin" / "getent", "echo 127.0.1.1 STREAM n1")
        program(folder / "bin" / "hostname", "echo 127.0.0.1")
        for name in ("ray", "metabench"):
            program(folder / "venv" / "bin" / name, fake)
        (folder / "nodes").mkdir()
        self.scripts: list[subprocess.Popen[str]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY", "SLURM"))},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "FAKE": str(folder),
            "METABENCH_VENV": str(folder / "venv"),
            "RAY_ADDRESS": "of another cluster",
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "4",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the script as slurmd does."""
        script = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.scripts.append(script)
        return script

    def run(self, **environment: str) -> tuple[int, str]:
        """Run the script to its end; return its exit code and what it told."""
        script = self.start("space.yaml", "--out", "runs", **environment)
        output, _ = script.communicate(timeout=60)
        return script.returncode, output

    def calls(self, name: str | None = None, event: str | None = None) -> list[dict[str, Any]]:
        """Return what was written down, of one program or event or all."""
        path = self.folder / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in lines if name in (None, call["program"]) and event in (None, call["event"])]

    def was_requeued(self) -> bool:
        """Say whether Slurm was asked for the job again; once at most, for this job, when all had ended."""
        asked = [call for call in self.calls("scontrol") if call["argv"][0] == "requeue"]
        assert [call["argv"] for call in asked] == [["requeue", str(self.number)]] * len(asked)
        assert len(asked) <= 1
        assert not asked or self.calls()[-1] == asked[0]
        return bool(asked)


def end(job: Job) -> None:
    """Check what every job must leave, however it ended."""
    for script in job.scripts:
        script.kill()
        script.communicate()
    assert not Path(f"/tmp/mb{job.number}").exists(), "Ray's folder stays behind"
    assert len(job.calls("ray", "ended")) == len(job.calls("ray", "joined")), "a node stays behind"
    assert not [call for call in job.calls("ray") if call["argv"][0] == "stop"], "it ends other jobs' Ray"


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path, 10**8 + os.getpid())
    yield job
    end(job)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, str]:
    """Run one job to its ordinary end; return it and what it told."""
    job = Job(tmp_path_factory.mktemp("job"), 2 * 10**8 + os.getpid())
    code, output = job.run()
    end(job)
    assert code == 0, output
    return job, output


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stop(job: Job, *signals: signal.Signals) -> tuple[int, str]:
    """Send signals to the script while the search runs; return its exit code and what it told."""
    script = job.start("space.yaml", FAKE_SEARCH="until a signal")
    wait_for((job.folder / "searching").exists)
    for each in signals:
        script.send_signal(each)
        time.sleep(0.2)
    output, _ = script.communicate(timeout=60)
    return script.returncode, output


def test_it_starts_the_head_then_the_workers_then_the_search_and_ends_what_it_started(
    done: tuple[Job, str],
) -> None:
    job, output = done
    assert "the search says something" in output
    assert not job.was_requeued()
    order = [
        "head" if "--head" in call["argv"] else "workers" if call["program"] == "srun" else "search"
        for call in job.calls(event="called")
        if call["program"] in ("srun", "metabench")
    ]
    assert order == ["head", "workers", "search"]
    head, workers = ([word for word in call["argv"] if word[0] == "-"] for call in job.calls("srun"))
    for step, nodes in ((head, 1), (workers, 2)):
        assert {f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap"} <= set(step)
        assert {"--cpus-per-task=4", "--num-cpus=4"} <= set(step)
    assert "--nodelist=n1" in head
    assert "--exclude=n1" in workers
    (search,) = job.calls("metabench", "called")
    address = f"127.0.0.1:{20000 + job.number % 6000}"
    assert search["argv"] == f"search space.yaml --out runs --address {address} --resume auto".split()
    assert f"--address={address}" in workers
    assert len(job.calls("ray", "ended")) == 3


def test_all_know_one_token_that_nobody_else_sees(done: tuple[Job, str]) -> None:
    job, output = done
    tokens = {call["RAY_AUTH_TOKEN"] for call in job.calls() if call["program"] != "scontrol"}
    (token,) = tokens
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert {call["RAY_AUTH_MODE"] for call in job.calls("ray")} == {"token"}
    assert token not in output
    assert not [call for call in job.calls() if token in " ".join(call["argv"])]
    (search,) = job.calls("metabench", "called")
    assert search["seen"] == [], "a process shows it in its command line"


def test_two_jobs_differ_in_port_folder_and_token(done: tuple[Job, str], job: Job) -> None:
    assert job.run()[0] == 0
    settings = []
    for each in (done[0], job):
        (search,) = each.calls("metabench", "called")
        settings.append((search["argv"][-3], search["RAY_TMPDIR"], search["RAY_AUTH_TOKEN"]))
    assert all(one != two for one, two in zip(*settings, strict=True))
    # Ray's sockets lie some 70 characters deeper, and a socket's path has at most 107.
    assert all(len(folder) < 35 for _, folder, _ in settings)


def test_ports_are_apart_from_those_of_workers_and_of_the_kernel(done: tuple[Job, str]) -> None:
    job, _ = done
    (head, *_) = job.calls("srun")
    ports = dict(re.findall(r"--([\w-]*port)=(\d+)", " ".join(head["argv"])))
    assert ports.pop("min-worker-port") == ports.pop("max-worker-port") == "0"
    assert ports.pop("dashboard-agent-listen-port") == "0"
    assert set(ports) == {"port", "ray-client-server-port"}
    assert len(set(ports.values())) == 2
    assert all(20000 <= int(port) < 32000 for port in ports.values())


@pytest.mark.parametrize(("code", "is_requeued"), [(2, False), (75, True), (137, False)])
def test_a_job_is_queued_again_only_if_the_search_asks_to_be_run_again(
    job: Job, code: int, is_requeued: bool
) -> None:
    assert job.run(FAKE_SEARCH=str(code))[0] == code
    assert job.was_requeued() == is_requeued


def test_usr1_stops_the_search_waits_for_it_and_queues_the_job_again(job: Job) -> None:
    code, output = stop(job, signal.SIGUSR1)
    assert code == 75
    assert [call["event"] for call in job.calls("metabench")] == ["called", "SIGUSR1", "ended"]
    assert job.was_requeued()
    assert "asking Slurm to run the job again" in output


def test_a_second_signal_changes_nothing(job: Job) -> None:
    assert stop(job, signal.SIGUSR1, signal.SIGUSR1)[0] == 75
    assert job.calls("metabench")[-1]["event"] == "ended"
    assert job.was_requeued()


def test_a_cancelled_job_stops_cleanly_and_is_not_queued_again(job: Job) -> None:
    assert stop(job, signal.SIGTERM)[0] == 75
    assert [call["event"] for call in job.calls("metabench")] == ["called", "SIGTERM", "ended"]
    assert not job.was_requeued()


def test_a_signal_before_the_cluster_is_up_queues_the_job_again_without_a_search(job: Job) -> None:
    script = job.start("space.yaml", FAKE_HEAD="is silent")
    wait_for(lambda: any((job.folder / "nodes").iterdir()))
    script.send_signal(signal.SIGUSR1)
    script.communicate(timeout=60)
    assert script.returncode == 75
    assert job.was_requeued()
    assert not job.calls("metabench")


def test_a_refused_wish_is_told(job: Job) -> None:
    code, output = job.run(FAKE_SEARCH="75", FAKE_REQUEUE="1")
    assert code == 75
    assert "Slurm refuses; run the same sbatch command again" in output


def test_a_head_that_does_not_start_is_told_with_its_port(job: Job) -> None:
    code, output = job.run(FAKE_HEAD="dies", METABENCH_PORT="20007")
    assert code == 1
    assert "Ray did not start on port 20007 (see above); METABENCH_PORT sets another port" in output
    assert not job.calls("metabench")
    assert not job.was_requeued()


def test_one_node_needs_no_step_for_workers(job: Job) -> None:
    assert job.run(SLURM_JOB_NUM_NODES="1")[0] == 0
    assert len(job.calls("srun")) == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "nothing to do; run: sbatch cluster/slurm.sh SPACE.yaml"),
        (["space.yaml"], {"SLURM_JOB_ID": ""}, "nothing to do; run: sbatch"),
        (["space.yaml"], {"METABENCH_VENV": "/none"}, "/none/bin/ray is not there: submit from the checkout"),
    ],
)
def test_a_wrong_call_is_told_before_anything_starts(
    job: Job, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    script = job.start(*arguments, **environment)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 2
    assert message in output
    assert not job.calls()


def test_slurm_is_asked_for_one_task_a_node_a_signal_in_time_and_another_turn() -> None:
    assert OPTIONS["ntasks-per-node"] == "1"
    assert OPTIONS["signal"] == "B:USR1@180"
    assert "requeue" in OPTIONS
    assert OPTIONS["open-mode"] == "append", "the next turn would overwrite the log"


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run(
        [shellcheck, "--enable=quote-safe-variables", path], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_a_real_search_on_a_real_cluster_of_two_nodes_stops_in_time_and_ends_in_its_next_turn(
    job: Job,
) -> None:
    program(job.folder / "bin" / "getent", "exit 2")
    program(job.folder / "bin" / "hostname", "exec /usr/bin/hostname -I")
    (job.folder / "space.yaml").write_text(yaml.safe_dump(SPACE))

    def turn() -> subprocess.Popen[str]:
        return job.start(
            *["space.yaml", "--out", ".", "--name", "it"],
            METABENCH_VENV=str(Path(sys.executable).parent.parent),
            PYTHONPATH=str(ROOT),
            SLURM_JOB_NUM_NODES="2",
            SLURM_CPUS_PER_TASK="1",
        )

    trials = job.folder / "it" / files.TRIALS
    script = turn()
    wait_for(lambda: trials.exists() or script.poll() is not None, PATIENCE)
    script.send_signal(signal.SIGUSR1)
    output, _ = script.communicate(timeout=PATIENCE)
    assert script.returncode == 75, output
    assert "not all of the" not in output
    assert job.was_requeued()
    finished = trials.read_bytes()
    (job.folder / "calls").unlink()

    script = turn()
    output, _ = script.communicate(timeout=PATIENCE)
    assert script.returncode == 0, output
    assert trials.read_bytes().startswith(finished)
    assert (job.folder / "it" / "leaderboard.json").exists()
    assert not job.was_requeued()
