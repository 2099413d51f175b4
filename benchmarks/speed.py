"""Tasks per second of meta-gradients and of evaluation, ours beside other libraries', in one sitting.

Everybody gets the same weights, tasks and steps, and must find the same meta-gradient. On a CPU each is timed
twice: as one process with a thread for each core, and as one process of one thread on each core at once, as
two trials of a search run; the better of both counts. Contestants take turns, and medians are reported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import queue
import statistics
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import peers
import torch
from contest import CHECKED, SETTINGS, STEPS, Contest
from peers import EVALUATION, present
from peers_learners import LEARNERS

from metabench.core import device

TOLERANCE = 1e-6
"""Relative difference of float64 meta-gradients; a wrong second order is far above it."""


def run(arguments: argparse.Namespace, threads: int, gate: Barrier, results: Any) -> None:
    """Time everybody in turn, at the same moments as the processes beside this one."""
    contest = Contest(arguments, threads)
    differences = contest.check()
    seconds: dict[str, list[float]] = {name: [] for name in contest.calls}
    peaks: dict[str, int] = {}
    for round_ in range(arguments.repeats + 1):
        for name in contest.calls:
            gate.wait()
            device.reset_peak(arguments.device)
            taken = contest.time(name)
            peaks[name] = device.peak(arguments.device)
            if round_:  # the first warms up
                seconds[name].append(taken)
    tasks = {name: n_tasks for name, (_, n_tasks) in contest.calls.items()}
    results.put((seconds, tasks, differences, peaks))


def sitting(arguments: argparse.Namespace, processes: int, threads: int) -> dict[str, dict[str, float]]:
    """Run one way of using the machine; return tasks per second and more by contestant."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=run, args=(arguments, threads, gate, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    measured: list[Any] = []
    while len(measured) < processes:
        try:
            measured.append(results.get(timeout=1.0))
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                for worker in workers:
                    worker.kill()
                raise SystemExit("a process of the benchmark failed; its error stands above") from None
    for worker in workers:
        worker.join()
    speeds = {}
    for name in measured[0][0]:
        rounds = zip(*(seconds[name] for seconds, *_ in measured), strict=True)
        slowest = statistics.median(max(taken) for taken in rounds)
        speeds[name] = {
            "tasks_per_second": processes * measured[0][1][name] / slowest,
            "difference": max(differences[name] for _, _, differences, _ in measured),
            "peak_bytes": max(peaks[name] for *_, peaks in measured),
        }
    return speeds


def ceiling(device: str, threads: int) -> float:
    """Measure floating-point operations per second of a large matrix product."""
    torch.set_num_threads(threads)
    a = torch.rand(2048, 2048, device=device)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        float((a @ a)[0, 0])
        taken.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(taken)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let everybody run in every way, and compare."""
    cores = arguments.cores if arguments.device == "cpu" else 1
    ways = (
        {"threads": (1, cores)}
        if cores == 1 or arguments.device != "cpu"
        else {
            "threads": (1, cores),
            "processes": (cores, 1),
        }
    )
    sittings = {way: sitting(arguments, *how) for way, how in ways.items()}
    best = {
        name: max(
            (speeds[name] | {"way": way} for way, speeds in sittings.items()),
            key=lambda x: x["tasks_per_second"],
        )
        for name in next(iter(sittings.values()))
    }
    wrong = {
        name: figures["difference"] for name, figures in best.items() if figures["difference"] > TOLERANCE
    }
    if wrong:
        raise SystemExit(f"meta-gradients disagree: {wrong}")
    ours = best.pop("ours")
    fastest = max(best, key=lambda name: best[name]["tasks_per_second"])
    peak = ceiling(arguments.device, cores)
    contest = Contest(argparse.Namespace(**{**vars(arguments), "tasks": 1}), cores)
    flops = peers.flops(contest.known["loop"], contest.problem) if arguments.what == "train" else None
    return {
        "setting": arguments.setting,
        "order": arguments.order,
        "learner": arguments.learner,
        "what": arguments.what,
        "steps": arguments.steps,
        "device": arguments.device,
        "precision": arguments.precision,
        "machine": f"{machine(arguments.device)}, {cores} cores, torch {torch.__version__}",
        "ours": ours["tasks_per_second"],
        "peers": {name: figures["tasks_per_second"] for name, figures in best.items()},
        "ratio": ours["tasks_per_second"] / best[fastest]["tasks_per_second"],
        "fastest_peer": fastest,
        "ways": {name: figures["way"] for name, figures in {"ours": ours, **best}.items()},
        "peak_bytes": {name: figures["peak_bytes"] for name, figures in {"ours": ours, **best}.items()},
        "difference": {name: figures["difference"] for name, figures in {"ours": ours, **best}.items()},
        "flops_per_task": flops,
        "share_of_ceiling": flops and ours["tasks_per_second"] * flops / peak,
        "versions": {name: version(name) for name in ("torch", "higher", "torchopt", "jax")},
    }


def machine(device: str) -> str:
    """Name the processor or the GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def version(name: str) -> str | None:
    """Return an installed library's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="seed")
    parser.add_argument("--order", choices=("second", "first"), default="second", help="of derivatives")
    parser.add_argument("--learner", choices=LEARNERS, default="maml")
    parser.add_argument("--what", choices=("train", "evaluate"), default="train")
    parser.add_argument("--steps", type=int, default=STEPS, help="inner steps")
    parser.add_argument(
        "--tasks", type=int, default=None, help="tasks of a batch; the setting's own if not given"
    )
    parser.add_argument("--peers", default="", help="names of those to compete with; all if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32"),
        default="float32",
        help="of everybody's products on a GPU; torch's convolutions take tf32 unless they are told not to",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args()
    if arguments.what == "evaluate" and arguments.learner != "maml":
        parser.error("--what evaluate has peers for --learner maml alone")
    available = present(EVALUATION if arguments.what == "evaluate" else LEARNERS[arguments.learner])
    wrong = sorted(set(filter(None, arguments.peers.split(","))) - set(available))
    if wrong:
        parser.error(
            f"--peers {','.join(wrong)}: must be of {', '.join(available)}, those that are installed"
        )
    if arguments.tasks is not None and arguments.tasks < CHECKED:
        parser.error(f"--tasks {arguments.tasks}: must be >= {CHECKED}")
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    what = (result[name] for name in ("setting", "learner", "order", "what"))
    print(f"{', '.join(what)}, on {result['machine']}")
    for name, speed in {"ours": result["ours"], **result["peers"]}.items():
        peak = result["peak_bytes"][name] / 1e9
        print(f"{name:10} {speed:8.1f} tasks/s  ({result['ways'][name]})  peak {peak:.2f} GB")
    print(f"ratio {result['ratio']:.2f} to {result['fastest_peer']}")
    if result["share_of_ceiling"]:
        print(f"{result['share_of_ceiling']:.0%} of the matrix product's speed")


if __name__ == "__main__":
    main()
