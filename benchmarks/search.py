"""What a search costs beside its trials: metabench's beside plain Ray Tune's, measured side by side.

Both run the same number of trials of one algorithm of the same space, as many at once, in reused actors,
each reporting at the same rungs; Optuna's TPE proposes under the same settings, and successive halving has
the same rungs and factor. A trial does nothing but report, and its score is the time, so that whoever arrives
is the best so far and on both sides every trial makes every report. "ray" has the loggers that Ray Tune has
by default, "ray, no logs" none; metabench writes its journal and its TensorBoard files. Each run is a process
of its own, the sides take turns, and figures are medians over the rounds.

Seconds a trial are those between the first ending and the last, divided by the endings; those of the driver's
processor are given too, as they depend less on what else a machine does. With --work, trials keep a core busy
for so long before each report, and it is told for which share of the time places for trials did no work, from
the first start to the last report.

With --driver N, the driver alone goes through N trials, whose reports come from no worker: what proposing,
judging, writing down and showing cost, and hold in memory, as trials accumulate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import search_trials

SIDES = ("metabench", "ray", "ray, no logs")
FOLDER = Path(__file__).parent
MARKS = (100, 200, 500, 1000, 2000, 5000, 10_000)
"""Numbers of trials at which memory and cost are told."""


def parameters(path: Path, algorithm: str) -> dict[str, dict[str, Any]]:
    """Return what a space samples of an algorithm, in plain words; conditions are left out."""
    from metabench.search import space as spaces

    sampled = spaces.of(spaces.load(path), algorithm).sampled
    return {name: one.model_dump(mode="json") for name, one in sampled.items()}


def run(side: str, arguments: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Run one side in a process of its own, and return what its driver and its workers noted."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as name:
        setting = {**vars(arguments), "folder": name, "space": str(arguments.space)}
        setting |= {"logs": side == "ray", "workers_are_played": side == "driver", **changed}
        paths = [str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
        (Path(name) / "ray_tmp").mkdir()
        # Paths of sockets must be short, so Ray's own folder is not one of ours where ours is deep.
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "RAY_TMPDIR": str(Path(name) / "ray_tmp"),
        }
        module = "search_ray" if side.startswith("ray") else "search_ours"
        setting["begun"] = time.time()
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}; {module}.main()", json.dumps(setting)],
            env=variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{side}: the process failed\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if side != "driver":
            result |= search_trials.waits(Path(name))
        return result


def summary(result: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one run."""
    n, ends = len(result["ends"]), result["ends"]
    assert n == setting["trials"], f"{n} of {setting['trials']} trials have ended"
    steps = max(1, n - 1)
    worked = n * setting["reports"] * setting["work"]
    return {
        "seconds_to_first_report": result["first_report"],
        "seconds_a_trial": (ends[-1] - ends[0]) / steps,
        "driver_cpu_seconds_a_trial": (result["cpu"][-1] - result["cpu"][0]) / steps,
        "seconds_whole": result["whole"],
        "seconds_to_decision": statistics.median(result["decisions"]),
        "seconds_between_trials": statistics.median(result["between"]),
        "workers_that_ran": result["processes"],
        "idle_share": 1 - worked / (setting["workers"] * result["span"]),
        "memory_bytes_a_trial": (result["memory"][-1] - result["memory"][n // 10]) / max(1, n - n // 10),
        "memory_bytes": result["memory"][-1],
    }


def sides(arguments: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Run all sides in turn some times: medians, and each other's over ours."""
    setting = {**vars(arguments), **changed}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(summary(run(side, arguments, **changed), setting))
    medians = {
        side: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for side, results in runs.items()
    }
    keys = ("seconds_a_trial", "driver_cpu_seconds_a_trial", "seconds_to_first_report")
    ratio = {side: {key: medians[side][key] / medians[SIDES[0]][key] for key in keys} for side in SIDES[1:]}
    return {"medians": medians, "ratio": ratio, "load": os.getloadavg()[0]}


def driver(arguments: argparse.Namespace, n_trials: int) -> dict[str, Any]:
    """Have the driver alone go through trials, and return on the way what they cost and its memory."""
    result = run("driver", arguments, trials=n_trials)
    marks = [mark for mark in MARKS if mark < n_trials] + [n_trials]
    rows = {}
    for before, mark in zip([1, *marks], marks, strict=False):
        n = max(1, mark - before)
        rows[str(mark)] = {
            "cpu_seconds_a_trial": (result["cpu"][mark - 1] - result["cpu"][before - 1]) / n,
            "seconds_a_trial": (result["ends"][mark - 1] - result["ends"][before - 1]) / n,
            "memory_bytes": result["memory"][mark - 1],
        }
    return {"trials": rows, "seconds_to_read_back": result["read_back"]}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures that were asked for."""
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    result: dict[str, Any] = {"setting": shown}
    if arguments.trials:
        result["idle"] = sides(arguments, work=0.0)
    if arguments.work:
        result["work"] = sides(arguments, trials=arguments.work_trials)
    if arguments.driver:
        result["driver"] = driver(arguments, arguments.driver)
    return result


def row(side: str, one: dict[str, float], has_work: bool) -> str:
    """Return a side's figures in two lines."""
    idle = f", idle {one['idle_share']:.1%} of the time" if has_work else ""
    return (
        f"  {side:13}{one['seconds_a_trial']:8.4f} s a trial, {one['driver_cpu_seconds_a_trial']:.4f} of the "
        f"driver's processor; first report after {one['seconds_to_first_report']:.1f} s, all in "
        f"{one['seconds_whole']:.1f} s\n"
        f"  {'':13}a decision after {one['seconds_to_decision'] * 1e3:.1f} ms, the next trial after "
        f"{one['seconds_between_trials'] * 1e3:.1f} ms; {one['workers_that_ran']:.0f} workers{idle}; "
        f"{one['memory_bytes_a_trial'] / 1e3:.0f} kB a trial, {one['memory_bytes'] / 1e6:.0f} MB in the end"
    )


def report(result: dict[str, Any]) -> str:
    """Return the result in lines."""
    lines = []
    for kind, title in (("idle", "trials that only report"), ("work", "trials that work")):
        if kind not in result:
            continue
        lines.append(f"{title}; load of the machine {result[kind]['load']:.1f}")
        lines += [row(side, one, kind == "work") for side, one in result[kind]["medians"].items()]
        for side, ratio in result[kind]["ratio"].items():
            figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in ratio.items())
            lines.append(f"  {side} / metabench: {figures}")
    if "driver" in result:
        lines.append("the driver alone")
        for mark, one in result["driver"]["trials"].items():
            lines.append(
                f"  up to {mark:>6} trials {one['cpu_seconds_a_trial'] * 1e3:7.1f} ms of processor a trial, "
                f"{one['memory_bytes'] / 1e6:6.0f} MB"
            )
        lines.append(f"  read back from the journal in {result['driver']['seconds_to_read_back']:.1f} s")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    space = FOLDER.parent / "search_spaces" / "demo.yaml"
    parser.add_argument("--space", type=Path, default=space, help="of which one algorithm is searched")
    parser.add_argument("--algorithm", default="maml")
    settings = {"trials": 200, "workers": 2, "reports": 3, "repeats": 3, "work_trials": 30, "driver": 0}
    for name, default in settings.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--work", type=float, default=0.0, help="seconds before each report; 0: leave it out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    arguments = parse()
    arguments.parameters = parameters(arguments.space, arguments.algorithm)
    result = measure(arguments)
    print(json.dumps(result, indent=2) if arguments.json else report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
