"""Seconds and memory to a process's first answer: an export's predictor beside `metabench predict`."""

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

# Nothing heavy is imported: the memory of a process that starts another would count as the other's.


def answer(command: list[str]) -> dict[str, float]:
    """Run a command once; return its seconds, CPU seconds and largest memory in MB."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "megabytes": used.ru_maxrss / 1024}  # Linux counts in kB


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask in turn, so that what else the machine does is the same for all."""
    support, picture = str(arguments.support), str(arguments.picture)
    ours = [sys.executable, "-m", "metabench"]
    learning = ["--support", support]
    commands = {"metabench predict": [*ours, "predict", arguments.run, picture, *learning]}
    with tempfile.TemporaryDirectory() as folder:
        for to in ("onnx", "torch"):
            for name, before, after in (("any", [], learning), ("own", learning, [])):
                out = f"{folder}/{to}-{name}"
                export = [*ours, "export-model", arguments.run, "--to", to, "--out", out, *before]
                # A learner that descends gradients is exported with classes of its own alone.
                if subprocess.run(export, capture_output=True).returncode == 0:
                    commands[f"{to}, {name} classes"] = [sys.executable, f"{out}/predict.py", picture, *after]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                runs[name].append(answer(command))
    return {
        name: {key: statistics.median(one[key] for one in some) for key in some[0]}
        | {"least_seconds": min(one["seconds"] for one in some)}
        for name, some in runs.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--support", type=Path, required=True, help="folder of classes")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        print(
            f"{name:18} {value['seconds']:6.2f} s (least {value['least_seconds']:5.2f}) "
            f"{value['cpu_seconds']:6.2f} CPU-s {value['megabytes']:5.0f} MB"
        )


if __name__ == "__main__":
    main()
