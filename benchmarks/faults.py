"""Run a small real search over and over, do random faults to it, and check that what must hold does.

    python -m benchmarks.faults                 two hundred faults; exit status 1 where a law is broken
    python -m benchmarks.faults --faults 20 --scenes storage --schedulers freeze_thaw --json

Each search runs through the command line: on this machine with a small disk of its own, on several nodes that
come and go, or in object storage behind a network that can be out of order. Faults are drawn from a seeded
list. A search that ends well is checked, against training the same settings here without any fault, and the
next one begins. Mounting the small disk and limiting memory need root; without it those faults are left out,
and the table says so. A search in which a law is broken is left for people to look at.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.fault_scenes import Broken, ManyNodes, Scene, Stored
from metabench.search import space as spaces
from metabench.storage import files
from tests.search import laws
from tests.search.processes import until
from tests.search.test_kill import SPACE

SCENES: dict[str, type[Scene]] = {"disk": Scene, "nodes": ManyNodes, "storage": Stored}

SCHEDULERS = ("asha", "freeze_thaw")

AT_ONCE = 10
"""Faults of one search."""

SEEDS = 3
"""Seeds of searches, taken in turn: what was trained without faults for one serves the next of its seed."""

ENDING = ("raylet", "head", "driver", "SIGTERM", "SIGUSR1", "disk", "flip", "cut_state")
"""Faults after which the driver may have ended."""

LAWS = {
    "goes_on": "the driver goes on, or ends as told, and the same command ends the search",
    "keeps": "every line of the journal and of finished trials stays, byte for byte",
    "once": "a trial is judged once at a rung and finished once, none fails, no reports are written again",
    "decides": "rule and searcher, asked anew from the journal alone, repeat every decision and proposal",
    "recomputes": "a restart trains at most one report interval of a trial again, and one a damaged file",
    "numbers": "every report of a trial equals, bit for bit, that of training without faults",
    "results": "final runs, meta-test and leaderboard have, bit for bit, the numbers without faults",
}


class Campaign:
    """What was done, and what was found."""

    def __init__(
        self, seed: int, wanted: int, names: list[str], schedulers: list[str], say: Callable[[str], None]
    ) -> None:
        self.draw = random.Random(seed)
        self.wanted = wanted
        self.names = names
        self.schedulers = schedulers
        self.say = say
        self.done: collections.Counter[tuple[str, str]] = collections.Counter()
        self.broken: dict[str, list[str]] = {law: [] for law in LAWS}
        self.kept: list[str] = []
        self.searches = self.starts = self.restarts = self.tasks = self.again = self.damaged = 0

    def run(self) -> None:
        """Search until enough faults were done."""
        while self.done.total() < self.wanted:
            name = self.names[self.searches % len(self.names)]
            scheduler = self.schedulers[self.searches // len(self.names) % len(self.schedulers)]
            place = Path(tempfile.mkdtemp(prefix="mbf", dir="/tmp"))
            (place / "space.yaml").write_text(yaml.safe_dump(space(scheduler)))
            before = sum(map(len, self.broken.values()))
            with SCENES[name](place, place / "space.yaml", self.searches % SEEDS, self.draw) as scene:
                try:
                    Search(self, name, scene).run()
                except Broken as error:
                    self.broken["goes_on"].append(f"{name}, search {self.searches}: {error}")
                self.starts += scene.starts
                if sum(map(len, self.broken.values())) > before:
                    self.kept.append(shutil.copytree(place, f"{place}-kept", ignore=ignore))
            shutil.rmtree(place, ignore_errors=True)
            self.searches += 1
            broken = sum(map(len, self.broken.values()))
            self.say(
                f"{self.searches} searches ({scheduler}), {self.done.total()} faults, {broken} broken laws"
            )

    def found(self) -> dict[str, Any]:
        """Return the result for programs."""
        kinds: dict[str, dict[str, int]] = {}
        for (scene, kind), count in sorted(self.done.items()):
            kinds.setdefault(kind, {})[scene] = count
        return {
            "faults": self.done.total(),
            "kinds": kinds,
            "searches": self.searches,
            "starts": self.starts,
            "restarts_of_trials": self.restarts,
            "tasks_trained": self.tasks,
            "tasks_trained_again": self.again,
            "damaged_files_noticed": self.damaged,
            "laws": {law: {"says": text, "broken": self.broken[law]} for law, text in LAWS.items()},
            "kept": self.kept,
        }


class Search:
    """One search with its share of faults."""

    def __init__(self, campaign: Campaign, name: str, scene: Scene) -> None:
        self.campaign = campaign
        self.name = name
        self.scene = scene
        self.lines: dict[str, bytes] = {}
        self.written: dict[str, Any] = {}
        self.may_end = False

    def run(self) -> None:
        """Do the faults, let the search end, and check it."""
        draw, scene = self.campaign.draw, self.scene
        left = min(AT_ONCE, self.campaign.wanted - self.campaign.done.total())
        scene.start()
        while left and not self.has_ended():
            kind = draw.choice(scene.kinds)
            at_work = kind not in ENDING or draw.random() < 0.75  # else: while it starts
            if not until(lambda kind=kind, at_work=at_work: self.is_moment(kind, at_work), 120):
                continue
            time.sleep(draw.uniform(0, 4))
            if not scene.runs:
                continue
            self.may_end = self.may_end or kind in ENDING
            if scene.do(kind):
                self.campaign.done[self.name, kind] += 1
                self.campaign.say(f"  {self.name}: {kind}")
                left -= 1
        while not self.has_ended():
            scene.wait(900)
        self.check()

    def is_moment(self, kind: str, at_work: bool) -> bool:
        """Tell whether to go on: a fault can be done, or the driver has ended."""
        scene = self.scene
        return not scene.runs or (scene.can(kind) and (not at_work or bool(scene.workers())))

    def has_ended(self) -> bool:
        """Tell whether the search is complete; a driver that ended before is started again."""
        scene = self.scene
        if scene.runs:
            return False
        code, output = scene.wait(1), scene.told()
        self.keep()
        if "Traceback" in output:
            raise Broken(f"exit code {code} with a traceback: {output[-800:]}")
        if code == 0:
            return True
        if not self.may_end:
            raise Broken(f"the driver ended by itself with code {code}: {output[-800:]}")
        if scene.starts > 5 * AT_ONCE:
            raise Broken(f"{scene.starts} starts have not ended the search: {output[-800:]}")
        self.may_end = False
        scene.start()
        return False

    def keep(self) -> None:
        """Check that nothing that was there is gone, or was written again."""
        broken = self.campaign.broken
        finished = {json.loads(line)["trial"] for line in whole(self.lines.get(files.TRIALS, b""))}
        lines, written = self.scene.objects(), self.scene.reports()
        for name, before in self.lines.items():
            if not lines.get(name, b"").startswith(b"".join(whole(before))):
                broken["keeps"].append(f"{name} has lost lines")
        for name in finished:
            if written.get(name) != self.written.get(name):
                broken["once"].append(f"the reports of {name} were written again")
        self.lines, self.written = lines, written

    def check(self) -> None:
        """Check what must hold of a complete search."""
        campaign, scene = self.campaign, self.scene
        folder = scene.fetch() if isinstance(scene, Stored) else scene.folder
        rungs = spaces.rungs(laws.space_of(folder)[0].budget)
        checks: dict[str, Iterator[str]] = {
            "once": laws.judged_once(folder),
            "decides": laws.decided_again(folder),
            "recomputes": laws.little_again(scene.trace, rungs),
            "numbers": laws.same_numbers(folder),
            "results": laws.same_results(folder),
        }
        for law, problems in checks.items():
            campaign.broken[law] += [f"{self.name}, search {campaign.searches}: {one}" for one in problems]
        for attempts in laws.read_trace(scene.trace).values():
            campaign.tasks += sum(attempt["reach"] - attempt["start"] for attempt in attempts)
            campaign.restarts += len(attempts) - 1
            again = list(laws.recomputed(attempts, rungs))
            campaign.again += sum(tasks for tasks, _, _ in again)
            campaign.damaged += sum(damaged for _, _, damaged in again)


def space(scheduler: str) -> dict[str, Any]:
    """Return two algorithms with rungs at 10, 30 and 90 tasks."""
    return {**SPACE, "budget": {**SPACE["budget"], "tasks": 90, "trials": 4, "scheduler": scheduler}}


def whole(lines: bytes) -> list[bytes]:
    """Return the lines that are complete: the last may have been torn by a crash."""
    return [line + b"\n" for line in lines.split(b"\n")[:-1]]


def ignore(folder: str, names: list[str]) -> list[str]:
    """Leave out Ray's files, which no copy can be made of."""
    return [
        name
        for name in names
        if name == "ray" or not Path(folder, name).is_file() | Path(folder, name).is_dir()
    ]


def table(result: dict[str, Any], names: list[str]) -> Iterator[str]:
    """Show faults by kind and scene, and the laws."""
    yield f"{'fault':<12}" + "".join(f"{name:>10}" for name in [*names, "all"])
    for kind, counts in result["kinds"].items():
        shown = [counts.get(name, 0) for name in names]
        yield f"{kind:<12}" + "".join(f"{count:>10}" for count in [*shown, sum(shown)])
    totals = [sum(counts.get(name, 0) for counts in result["kinds"].values()) for name in names]
    yield f"{'all':<12}" + "".join(f"{count:>10}" for count in [*totals, result["faults"]])
    yield (
        f"{result['searches']} searches, {result['starts']} starts, "
        f"{result['restarts_of_trials']} restarts of trials"
    )
    yield (
        f"{result['tasks_trained_again']} of {result['tasks_trained']} tasks were trained again; "
        f"{result['damaged_files_noticed']} damaged files were noticed"
    )
    for law, entry in result["laws"].items():
        yield f"{'BROKEN' if entry['broken'] else 'holds':<7} {law}: {entry['says']}"
        yield from (f"        {problem}" for problem in entry["broken"][:5])
    yield from (f"kept: {place}" for place in result["kept"])


def main() -> int:
    """Run the campaign; 1 where a law is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=200, help="how many at least")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    parser.add_argument("--scenes", default=",".join(SCENES), help="where: disk, nodes, storage")
    parser.add_argument("--schedulers", default=",".join(SCHEDULERS), help="in turn: asha, freeze_thaw")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    names, schedulers = options.scenes.split(","), options.schedulers.split(",")
    for option, chosen, allowed in (("scenes", names, SCENES), ("schedulers", schedulers, SCHEDULERS)):
        if unknown := [name for name in chosen if name not in allowed]:
            parser.error(f"--{option} {unknown[0]}: must be among {', '.join(allowed)}")
    torch.set_num_threads(1)
    campaign = Campaign(
        options.seed, options.faults, names, schedulers, lambda line: print(line, file=sys.stderr, flush=True)
    )
    campaign.run()
    result = campaign.found()
    print(json.dumps(result, indent=1) if options.json else "\n".join(table(result, names)))
    return int(any(entry["broken"] for entry in result["laws"].values()))


if __name__ == "__main__":
    sys.exit(main())
