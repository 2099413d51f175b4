"""A whole small search through the command line, killed and interrupted, and what Ray does meanwhile."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.search.journal.ledger import JOURNAL, WORK
from metabench.search.ray import local
from metabench.storage import files
from tests.search import processes

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs", "options": {"n_classes": 60}, "test_query": 5},
    "network": {"width": {"choices": [4, 6, 8], "default": 4}},
    "budget": {
        "tasks": 60,
        "trials": 3,
        "grace": 10,
        "scheduler": "asha",
        "validation_tasks": 8,
        "confirm_top": 2,
        "confirm_tasks": 8,
        "seeds": 1,
        "test_tasks": 8,
    },
    "shared": {"task_batch_size": 5, "inner_lr": {"low": 0.05, "high": 2.0, "log": True, "default": 0.4}},
    "algorithms": {"maml": {"inner_steps": 1}, "fomaml": {"inner_steps": 1}},
}

SMALL = {**SPACE, "algorithms": {"maml": {"inner_steps": 1}}}
"""Half of it: what a search does, in little time."""

PATIENCE = processes.PATIENCE

CANARY = "CANARY-that-no-file-may-hold"

LISTENS = "0A"
"""State of a socket in /proc/net/tcp."""

LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder for all that a search leaves; what still runs of it in the end is killed."""
    with processes.short_folder() as folder:
        yield Path(folder)
        processes.kill(*processes.of(folder))


def hear_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: it makes them, and all below them, deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(home: Path, space: dict[str, Any] = SMALL, *words: str) -> subprocess.Popen[str]:
    """Start a search that has nowhere else to write, with credentials in its environment."""
    (home / "space.yaml").write_text(yaml.safe_dump(space))
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    places = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR", "METABENCH_CACHE"), str(home))
    return subprocess.Popen(
        [*processes.COMMAND, "search", "space.yaml", "--out", ".", "--name", "it", *words],
        cwd=home,
        env={**os.environ, **dict.fromkeys(names, CANARY), **places, "PYTHONPATH": str(processes.ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        umask=0o022,
        preexec_fn=hear_ctrl_c,
    )


def ended(program: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code of a search, and what it told."""
    _, printed = program.communicate(timeout=PATIENCE)
    return program.returncode, printed


def leaks(home: Path) -> set[str]:
    """List the files that hold the credentials."""
    holding = set()
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names):
            try:
                if stat.S_ISREG(path.lstat().st_mode) and CANARY.encode() in path.read_bytes():
                    holding.add(str(path.relative_to(home)))
            except FileNotFoundError:
                continue
    return holding


def listening(pids: list[int]) -> dict[str, str]:
    """Map the addresses on which processes listen to their names."""
    inodes = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes[os.readlink(link)] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in table.splitlines()]
    return {
        row[1].partition(":")[0]: inodes[f"socket:[{row[9]}]"]
        for row in rows
        if row[3] == LISTENS and f"socket:[{row[9]}]" in inodes
    }


def test_after_kill_and_interrupt_the_same_command_keeps_every_trial_and_runs_none_twice(home: Path) -> None:
    folder = home / "it"
    leaked: set[str] = set()
    looked = [0.0]

    def is_in_the_middle() -> bool:
        if time.monotonic() - looked[0] > 1:  # to look for leaks takes the processor from the search
            leaked.update(leaks(home))
            looked[0] = time.monotonic()
        return bool(reported(folder))

    program = start(home)
    stop_when(program, is_in_the_middle, lambda: check_ray(home), signal.SIGKILL)
    assert ended(program)[0] == -signal.SIGKILL
    assert processes.until(lambda: not processes.of(str(home)), 60), processes.of(str(home))
    assert list(home.glob(f"{local.PREFIX}*")) == []
    before = (folder / JOURNAL).read_bytes()
    names = {line["trial"] for line in reported(folder)}
    written = {name: (folder / WORK / name / files.REPORTS).read_bytes() for name in names}
    assert len(files.read_lines(folder / files.TRIALS)) < 3

    program = start(home)
    stop_when(program, lambda: any((folder / files.FINAL).glob(f"*/{files.CONFIG}")), None, signal.SIGINT)
    code, printed = ended(program)
    assert code == 130, printed
    assert "The same command continues" in printed
    assert "Traceback" not in printed
    chosen = (folder / files.CHOSEN).read_bytes()
    damage(folder / files.CHOSEN)

    program = start(home)
    while program.poll() is None:
        leaked |= leaks(home)
        time.sleep(2)
    code, printed = ended(program)
    assert code == 0, printed
    assert files.CHOSEN in printed, "a damaged file is named, and made anew"
    assert (folder / JOURNAL).read_bytes().startswith(before)
    for name, reports in written.items():
        assert (folder / WORK / name / files.REPORTS).read_bytes().startswith(reports)
    assert (folder / files.CHOSEN).read_bytes() == chosen
    assert sorted(line["trial"] for line in files.read_lines(folder / files.TRIALS)) == [
        f"maml-00{number}" for number in range(3)
    ]
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in reported(folder)]
    assert len(judged) == len(set(judged))
    check_results(folder, ["maml"])
    check_networks(folder)
    assert leaked | leaks(home) == set()
    assert list(home.glob(f"{local.PREFIX}*")) == []
    assert not (folder / files.RAY).exists()


def stop_when(
    program: subprocess.Popen[str],
    moment: Callable[[], bool],
    check: Callable[[], None] | None,
    with_signal: int,
) -> None:
    """Send a search a signal at a moment, once something of it was checked."""
    processes.until(lambda: program.poll() is not None or moment())
    assert program.poll() is None, ended(program)
    if check is not None:
        check()
    program.send_signal(with_signal)


def check_ray(home: Path) -> None:
    """Ray's session is private, it listens to this machine alone, and asks nobody."""
    assert stat.S_IMODE(next(home.glob(f"{local.PREFIX}*")).stat().st_mode) == 0o700
    running = processes.of(str(home))
    titles = " ".join(one.title for one in running.values())
    assert "raylet" in titles
    assert "dashboard/dashboard.py" not in titles  # it asks every cloud whether it runs there
    addresses = listening(list(running))
    assert len(addresses) > 0
    assert {a: name for a, name in addresses.items() if a not in LOOPBACK} == {}


def damage(path: Path) -> None:
    """Change a digit of a file."""
    content = path.read_bytes()
    place = content.index(b"0.") + 2
    digit = b"1" if content[place : place + 1] != b"1" else b"2"
    path.write_bytes(content[:place] + digit + content[place + 1 :])


@pytest.mark.slow
def test_the_same_command_makes_damaged_results_anew(home: Path) -> None:
    assert ended(start(home))[0] == 0
    folder = home / "it"
    run = folder / files.FINAL / "maml-tuned-seed0"
    damaged = [run / files.REPORTS, run / files.TEST, folder / files.CHOSEN, folder / files.TRIALS]
    chosen = (folder / files.CHOSEN).read_bytes()
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    for path in damaged:
        damage(path)
    (folder / f"{files.LEADERBOARD}.json").write_bytes(b'{"rows": [')
    refused = subprocess.run(
        [*processes.COMMAND, "leaderboard", str(folder)], cwd=processes.ROOT, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is not what was written" in refused.stderr
    assert "run again the command" in refused.stderr
    code, said = ended(start(home))
    assert code == 0, said
    for path in damaged:
        assert path.name in said
    assert (folder / files.CHOSEN).read_bytes() == chosen
    made = files.read_json(folder / f"{files.LEADERBOARD}.json")
    shown = [[(row["algorithm"], row["accuracy"]) for row in one["rows"]] for one in (board, made)]
    assert shown[0] == shown[1]


def untimed(record: Any) -> Any:
    """Return a record without what is different each time: what it took, when, and its digest."""
    if isinstance(record, dict):
        timed = ("seconds", "peak_memory", "per_second", "checksum", "opened")
        return {key: untimed(value) for key, value in record.items() if not key.endswith(timed)}
    return [*map(untimed, record)] if isinstance(record, list) else record


@pytest.mark.slow
def test_a_search_of_control_ends_as_if_it_had_not_been_killed(home: Path) -> None:
    space = yaml.safe_load((processes.ROOT / "search_spaces" / "navigation.yaml").read_text())
    space["task"] |= {"options": {"environments": 50, "horizon": 5}, "shot": 3, "query": 3, "test_query": 3}
    space["network"]["width"] = 8
    space["budget"] |= {"validation_tasks": 4, "confirm_tasks": 4, "seeds": 1, "test_tasks": 8}
    # One trial at a time, so that nothing hangs on which of two is faster.
    words = ["--algorithms", "maml", "--tasks", "2000", "--trials", "3", "--cpus-per-trial"]
    whole, killed = home / "whole", home / "killed"
    for place in (whole, killed):
        place.mkdir()
    program = start(killed, space, *words, str(os.cpu_count()))
    stop_when(program, lambda: len(reported(killed / "it")) > 1, None, signal.SIGKILL)
    assert ended(program)[0] == -signal.SIGKILL
    assert processes.until(lambda: not processes.of(str(home)), 60), processes.of(str(home))
    before = reported(killed / "it")
    for place in (whole, killed):
        code, printed = ended(start(place, space, *words, str(os.cpu_count())))
        assert code == 0, printed
    assert len(before) < len(reported(killed / "it"))
    journals = [[*map(untimed, files.read_lines(place / "it" / JOURNAL))] for place in (whole, killed)]
    assert journals[0] == journals[1]
    boards = [files.read_json(place / "it" / f"{files.LEADERBOARD}.json") for place in (whole, killed)]
    assert untimed(boards[0]["rows"]) == untimed(boards[1]["rows"])
    assert {row["algorithm"] for row in boards[0]["rows"] if row["return"] < 0} == {"maml", "zero"}


def reported(folder: Path) -> list[dict[str, Any]]:
    """List what a search's journal says that trials reported."""
    return [line for line in files.read_lines(folder / JOURNAL) if line["event"] == "report"]


def check_networks(folder: Path) -> None:
    """Trials, full runs and rows have the networks that were sampled for them."""
    widths = {e["sampled"]["network.width"] for e in files.read_lines(folder / JOURNAL) if "sampled" in e}
    assert len(widths) > 1
    best = files.read_json(folder / files.CHOSEN)["maml"]["hyperparameters"]["network.width"]
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    shown = {
        row["variant"]: row["hyperparameters"]["network.width"] for row in board["rows"] if row["trials"]
    }
    for variant, width in (("tuned", best), ("default", 4)):
        run = files.read_json(folder / files.FINAL / f"maml-{variant}-seed0" / files.CONFIG)["run"]
        assert run["network"]["width"] == width
        assert shown.get(variant, width) == width


def check_results(folder: Path, algorithms: Collection[str] = tuple(SPACE["algorithms"])) -> None:
    """Every stage left what it should, and TensorBoard shows each rung once."""
    opened = files.read_json(folder / files.META_TEST)
    assert opened["finished"] is not None
    assert len(opened["runs"]) == 2 * len(algorithms)
    tests = [files.read_json(folder / files.FINAL / run / files.TEST) for run in opened["runs"]]
    assert {test["tasks_hash"] for test in tests} == {opened["tasks_hash"]}
    assert {test["times_opened"] for test in tests} == {1}
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    assert board["status"] == "finished"
    rows = {(row["algorithm"], row["variant"]) for row in board["rows"] if 0 < row["accuracy"] < 1}
    assert {(a, v) for a in algorithms for v in ("tuned", "default")} <= rows
    confirmed = files.read_json(next((folder / files.CONFIRM).iterdir()))
    assert confirmed["tasks_hash"] != opened["tasks_hash"]
    assert len(confirmed["accuracy"]) == 8
    for line in files.read_lines(folder / files.TRIALS):
        events = EventAccumulator(str(folder / files.TENSORBOARD / line["algorithm"] / line["trial"]))
        events.Reload()
        steps = [event.step for event in events.Scalars("accuracy/meta_validation")]
        assert steps == sorted(set(steps))
        assert steps[-1] == line["tasks_seen"]
