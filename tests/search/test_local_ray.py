"""Ray on this machine: what it listens to, what it writes, and what is left of it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from metabench.core import OutOfOrder
from metabench.search.ray import local
from metabench.storage import files
from tests.search import processes
from tests.search.test_kill import SPACE

CANARY = "CANARY-that-no-file-may-hold"

LISTENS = "0A"
"""State of a socket in /proc/net/tcp."""

LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder for all that a search leaves; short, for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start(home: Path) -> subprocess.Popen[str]:
    """Start a search that has nowhere else to write, with credentials in its environment."""
    (home / "space.yaml").write_text(yaml.safe_dump(SPACE))
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    places = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR", "METABENCH_CACHE"), str(home))
    return subprocess.Popen(
        [*processes.COMMAND, "search", "space.yaml", "--out", ".", "--name", "it"],
        cwd=home,
        env={**os.environ, **dict.fromkeys(names, CANARY), **places, "PYTHONPATH": str(processes.ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        umask=0o022,
    )


def leaks(home: Path) -> set[str]:
    """List the files that hold the credentials."""
    found = set()
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names):
            try:
                if stat.S_ISREG(path.lstat().st_mode) and CANARY.encode() in path.read_bytes():
                    found.add(str(path.relative_to(home)))
            except FileNotFoundError:
                continue
    return found


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


class Seen(NamedTuple):
    """What was seen of a search until it was finished."""

    home: Path
    mode: int  # of the folder of Ray's session
    titles: str  # of its processes
    addresses: dict[str, str]  # on which they listen
    leaked: set[str]


@pytest.fixture(scope="module")
def searched() -> Iterator[Seen]:
    """Watch a search from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        home, leaked = Path(folder), set[str]()
        program = start(home)
        try:
            trials = home / "it" / files.TRIALS
            processes.until(lambda: leaked.update(leaks(home)) or trials.exists() or program.poll())
            assert program.poll() is None, program.communicate()[1]
            mode = stat.S_IMODE(next(home.glob(f"{local.PREFIX}*")).stat().st_mode)
            running = processes.of(folder)
            titles = " ".join(one.title for one in running.values())
            addresses = listening(list(running))
            while program.poll() is None:
                leaked |= leaks(home)
                time.sleep(0.2)
            assert program.returncode == 0, program.communicate()[1]
            yield Seen(home, mode, titles, addresses, leaked | leaks(home))
        finally:
            processes.kill(program.pid, *processes.of(folder))
            program.communicate()


def test_no_file_holds_credentials_at_any_time(searched: Seen) -> None:
    assert searched.leaked == set()


def test_ray_listens_to_this_machine_alone_and_asks_nobody(searched: Seen) -> None:
    assert "raylet" in searched.titles
    assert "dashboard/dashboard.py" not in searched.titles  # it asks every cloud whether it runs there
    assert len(searched.addresses) > 0
    assert {a: name for a, name in searched.addresses.items() if a not in LOOPBACK} == {}


def test_rays_session_is_private_and_goes_with_the_search(searched: Seen) -> None:
    assert searched.mode == 0o700
    assert list(searched.home.glob(f"{local.PREFIX}*")) == []
    assert not (searched.home / "it" / files.RAY).exists()


def test_the_same_command_makes_damaged_results_anew(searched: Seen) -> None:
    folder = searched.home / "it"
    run = folder / files.FINAL / "maml-tuned-seed0"
    damaged = [run / files.REPORTS, run / files.TEST, folder / files.CHOSEN, folder / files.TRIALS]
    wholes = {path: path.read_bytes() for path in damaged}
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    for path, data in wholes.items():
        place = data.index(b"0.") + 2
        digit = b"1" if data[place : place + 1] != b"1" else b"2"
        path.write_bytes(data[:place] + digit + data[place + 1 :])
    (folder / f"{files.LEADERBOARD}.json").write_bytes(b'{"rows": [')
    refused = subprocess.run(
        [*processes.COMMAND, "leaderboard", str(folder)], cwd=processes.ROOT, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is not what was written" in refused.stderr
    assert "run again the command" in refused.stderr
    again = start(searched.home)
    _, said = again.communicate(timeout=processes.PATIENCE)
    assert again.returncode == 0, said
    for path in damaged:
        assert path.name in said
    assert (folder / files.CHOSEN).read_bytes() == wholes[folder / files.CHOSEN]
    made = files.read_json(folder / f"{files.LEADERBOARD}.json")
    shown = [[(row["algorithm"], row["accuracy"]) for row in one["rows"]] for one in (board, made)]
    assert shown[0] == shown[1]


def test_nothing_is_left_of_ray_where_a_search_is_killed(home: Path) -> None:
    program = start(home)
    try:
        assert processes.until(lambda: any(one.trains for one in processes.of(str(home)).values()))
        os.kill(program.pid, signal.SIGKILL)
        assert processes.until(lambda: not processes.of(str(home)), 60), processes.of(str(home))
        assert list(home.glob(f"{local.PREFIX}*")) == []
    finally:
        processes.kill(program.pid, *processes.of(str(home)))
        program.communicate()


def test_a_folder_too_deep_for_sockets_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("deep" * 20)))
    with local.private_folder() as folder:
        socket = folder / "session_2026-11-29_15-40-19_709932_4194304/sockets/plasma_store.1"
        assert len(str(socket)) <= 107


@pytest.mark.parametrize(("why", "attempts"), [("The current node timed out during startup.", 3), ("no", 1)])
def test_a_start_that_took_too_long_is_tried_again(
    why: str, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(**options: object) -> None:
        tried.append(options["_temp_dir"])
        raise RuntimeError(why)

    monkeypatch.setattr(local.ray, "init", start)
    with pytest.raises(OutOfOrder, match=why):
        local._init(tmp_path, None)
    assert tried == [str(tmp_path)] * attempts
