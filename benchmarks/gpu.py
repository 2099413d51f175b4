"""All that is to be measured on a GPU, in one go, the most important first; for a machine that is lent.

Each part is a command of its own, whose whole output goes into a folder; a part that fails or takes too long
does not keep the others from running. Nothing of it needs ray or an installation, only this folder's parent
on PYTHONPATH.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu --limit 480
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parent.parent


class Part(NamedTuple):
    """A command, and the seconds it may take."""

    name: str
    words: tuple[str, ...]
    seconds: int


def speed(setting: str, *words: str) -> Part:
    """Compare with peers on the GPU."""
    name = "-".join(["speed", setting, *(word.strip("-") for word in words)])
    command = ("benchmarks/speed.py", "--device", "cuda", "--setting", setting, "--repeats", "5", *words)
    return Part(name, command, 90)


TESTS = (
    "tests/nets/kernels",
    "tests/training/graphs",
    "tests/training/test_device.py",
    "tests/training/test_waiting.py",
)

PARTS = (
    Part("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS), 150),
    Part("floor-omni", ("benchmarks/floor.py", "--setting", "omni"), 40),
    speed("omni"),
    speed("omni", "--precision", "tf32"),
    Part("profile-omni", ("benchmarks/gpu_profile.py", "--setting", "omni"), 60),
    speed("seed"),
    speed("mini"),
    speed("omni", "--order", "first"),
    speed("omni", "--what", "evaluate", "--tasks", "1000", "--peers", "loop,vmap"),
    Part("memory", ("-m", "benchmarks.memory", "--device", "cuda", "--setting", "omni", "--tasks", "32"), 60),
    Part("growth", ("-m", "benchmarks.growth", "--device", "cuda"), 120),
    speed("seed", "--order", "first"),
    speed("mini", "--order", "first"),
    speed("seed", "--learner", "multi_step"),
    speed("seed", "--learner", "anil"),
    speed("seed", "--learner", "protonet", "--order", "first"),
    Part("floor-seed", ("benchmarks/floor.py", "--setting", "seed"), 40),
    Part("floor-mini", ("benchmarks/floor.py", "--setting", "mini"), 40),
)


def run(part: Part, out: Path, seconds: float) -> str:
    """Run a part and say how it ended; its output is in a file."""
    begun = time.perf_counter()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (out / f"{part.name}.txt").open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *part.words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(min(part.seconds, seconds))
            how = "ok" if code == 0 else f"exit {code}"
        except subprocess.TimeoutExpired:
            how = "too long"
        finally:
            if process.poll() is None:  # too long, or Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)  # with its own children, which hold the GPU
                process.wait()
    return f"{part.name:40} {how:10} {time.perf_counter() - begun:6.1f} s"


def main() -> None:
    """Run all parts and print what they printed last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, required=True, help="folder for what is printed")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds for all parts")
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="parts to run")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device: this runs on a GPU alone; benchmarks/speed.py compares on a CPU")
    there = [name for name in options.only if (options.out / f"{name}.txt").exists()]
    if there:
        parser.error(f"--out {options.out}: has {', '.join(there)} of an earlier run; name another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + options.limit
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    for part in PARTS:
        left = end - time.perf_counter()
        if part.name not in options.only:
            continue
        if left < 10:
            print(f"{part.name:40} no time left")
            continue
        print(run(part, options.out, left), flush=True)
        lines = (options.out / f"{part.name}.txt").read_text(encoding="utf-8").splitlines()
        print("\n".join(f"    {line[:150]}" for line in lines[-8:]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
