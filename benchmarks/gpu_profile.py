"""Where the time of a captured meta-gradient goes on a GPU: kernel by kernel, beside what the count allows.

python benchmarks/gpu_profile.py --setting omni
"""

from __future__ import annotations

import argparse
import collections
import statistics

import floor
import torch
from contest import SETTINGS, Contest
from torch.profiler import ProfilerActivity, profile


def replayed(contest: Contest, repeats: int) -> float:
    """Return the median seconds of a replay, by the device's own clock."""
    call = contest.calls["ours"][0]
    for _ in range(3):
        call()
    taken = []
    for _ in range(repeats):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        torch.cuda.synchronize()
        taken.append(begun.elapsed_time(ended) / 1e3)
    return statistics.median(taken)


def by_kernel(contest: Contest) -> list[tuple[str, int, float]]:
    """Return each kernel's name, launches and seconds in one replay, the dearest first."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], acc_events=True) as taken:
        contest.calls["ours"][0]()
        torch.cuda.synchronize()
    seconds: dict[str, float] = collections.defaultdict(float)
    launches: dict[str, int] = collections.Counter()
    for event in taken.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            seconds[event.name] += event.device_time / 1e6
            launches[event.name] += 1
    return sorted(((name, launches[name], seconds[name]) for name in seconds), key=lambda one: -one[2])


def main() -> None:
    """Measure and print; the sum last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, default="omni")
    parser.add_argument("--order", choices=("second", "first"), default="second")
    parser.add_argument("--precision", choices=floor.PRODUCTS, default="float32")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device: benchmarks/floor.py counts without one")
    described = {"learner": "maml", "what": "train", "steps": 5, "tasks": None, "peers": "none"}
    chosen = {"setting": options.setting, "order": options.order, "precision": options.precision}
    contest = Contest(argparse.Namespace(**described, **chosen, device="cuda"), 1)
    seconds = replayed(contest, options.repeats)
    rows = by_kernel(contest)
    for name, launches, taken in rows[:25]:
        print(f"{name[:70]:70} {launches:5} launches {1e3 * taken:8.3f} ms")
    busy, n_kernels = sum(taken for *_, taken in rows), sum(launches for _, launches, _ in rows)
    print(f"{contest.n_tasks / seconds:.0f} tasks/s: {1e3 * seconds:.2f} ms a meta-gradient of which kernels")
    print(f"take {1e3 * busy:.2f} ms, {n_kernels} of them")


if __name__ == "__main__":
    main()
