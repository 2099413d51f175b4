"""A search that is asked to finish now: it confirms and tests what there is, and records that it did.

The request is a file beside the search, which any process may write; who drives the search takes it, in the
stage for which it was meant, and records that first, so that whoever goes on after a crash does the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from metabench.core import utc_now
from metabench.search.progress import summary, view
from metabench.storage import files, models, records, remote

SEARCH, FINAL = summary.STAGES[0], summary.STAGES[2]
"""The stages that can be cut short."""

LOOK_SECONDS, LOOK_SECONDS_IN_STORAGE = 1.0, 10.0
"""Least time between two looks for a request."""


def ask(folder: Path) -> str:
    """Ask for what is left of the stage that a search is in to be left out; say what is going to happen."""
    standing = summary.read(folder)
    stage = standing["reached" if standing["stage"] in summary.BEFORE else "stage"]
    if stage == view.FINISHED:
        return f"{folder}: is finished, with nothing to leave out"
    if stage not in (SEARCH, FINAL):
        return f"{folder}: the {stage} runs, of which nothing can be left out; {_counted(standing, stage)}"
    files.write_json(
        folder / files.FINISH, {"stage": stage, "asked": utc_now().isoformat(timespec="seconds")}
    )
    what = {
        SEARCH: "no further trial is begun or goes on; what there is will be confirmed, trained over the "
        "seeds and tested (ask again during the final runs to test those that have ended)",
        FINAL: "final runs that have not ended are left out; those that have are tested",
    }
    when = "within seconds" if standing["is_driven"] else "once the same search command is run again"
    return f"{folder}: {_counted(standing, stage)}; {when} {what[stage]}"


def _counted(standing: view.Standing, stage: str) -> str:
    return f"{stage}, {view.counted(stage, standing['phases'].get(stage, {}))} done"


class Finish:
    """What the driver of a search knows of requests to finish it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        record = records.optional(folder / files.SEARCH, models.SEARCH) or {}
        self._taken = {entry["stage"] for entry in record.get("finish", [])}
        self._looked = 0.0

    def is_cut(self, stage: str) -> bool:
        """Tell whether what is left of a stage is to be left out, and take a request for that."""
        return stage in self._taken or (self._is_asked(stage) and self._take(stage))

    def _is_asked(self, stage: str) -> bool:
        is_stored = remote.mirror_of(self.folder) is not None
        pause = LOOK_SECONDS_IN_STORAGE if is_stored else LOOK_SECONDS
        if time.monotonic() - self._looked < pause:
            return False
        path = self.folder / files.FINISH
        if is_stored and not path.exists():
            remote.refresh(path)
        self._looked = time.monotonic()
        request = records.recover(path, models.FINISH, self.say)
        if request is not None and request["stage"] == SEARCH and stage != SEARCH:
            remote.remove(path)  # the stage that it was meant for has ended by itself
        return request is not None and bool(request["stage"] == stage)

    def _take(self, stage: str) -> bool:
        record = records.read(self.folder / files.SEARCH, models.SEARCH)
        entry = {"stage": stage, "date": utc_now().isoformat(timespec="seconds")}
        files.write_json(self.folder / files.SEARCH, {**record, "finish": [*record.get("finish", []), entry]})
        remote.remove(self.folder / files.FINISH)
        self._taken.add(stage)
        self.say(f"finishing now, as was asked: what is left of the {stage} is left out")
        return True
