"""Tasks per second as a problem grows: in tasks of a batch, inner steps, width of a network, size of images.

One thing at a time, from the *seed* setting: Conv4 of 20 channels, 28x28, 5-way 1-shot, 15 queries a class, 5
inner steps, but 16 tasks. Beside each speed stands what it would be if time grew as a task's arithmetic does.

    python -m benchmarks.growth --picture growth.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import Form, seconds, step
from metabench.core import device

START = Form(width=20, size=28, channels=1, tasks=16, shot=1, query=15, steps=5)

GROWTH = {
    "tasks": (1, 4, 16, 64, 256),
    "steps": (1, 2, 5, 10),
    "width": (16, 32, 64, 128),
    "size": (28, 42, 56, 84),
}

TITLES = {
    "tasks": "tasks of a batch",
    "steps": "inner steps",
    "width": "channels",
    "size": "side of an image",
}


def flops(form: Form) -> int:
    """Count the floating-point operations of one task's meta-gradient by torch's own layers."""
    from metabench.nets import layers

    with layers.plain(torch.device("cpu")):
        call = step(form._replace(tasks=1), "cpu", float("inf"))
        with FlopCounterMode(display=False) as counter:
            call()
    return int(counter.get_total_flops())


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every form."""
    rows = []
    for name in options.only:
        for value in GROWTH[name]:
            form = START._replace(order=options.order, **{name: value})
            call = step(form, options.device, 0.0)
            call()
            call()  # recorded
            speed = form.tasks / seconds(call, options.repeats)
            rows.append(
                {"of": name, "value": value, "tasks_per_second": speed, "flops_per_task": flops(form)}
            )
            print(described(rows[-1]), flush=True)
    return rows


def described(row: dict[str, Any]) -> str:
    """Write one line."""
    gigaflops = row["flops_per_task"] / 1e9
    speed = row["tasks_per_second"]
    return (
        f"{TITLES[row['of']]:18} {row['value']:4} {speed:9.2f} tasks/s {gigaflops:8.2f} GFLOP a task "
        f"{speed * gigaflops:7.1f} GFLOP/s"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw speed and arithmetic over what grows."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot, ticker

    named = list(dict.fromkeys(row["of"] for row in rows))
    figure, axes = pyplot.subplots(1, len(named), figsize=(3.4 * len(named), 3), squeeze=False)
    for name, axis in zip(named, axes[0], strict=True):
        series = [row for row in rows if row["of"] == name]
        values, speeds = [row["value"] for row in series], [row["tasks_per_second"] for row in series]
        ideal = [speeds[0] * series[0]["flops_per_task"] / row["flops_per_task"] for row in series]
        axis.loglog(values, speeds, "o-", label="measured")
        axis.loglog(values, ideal, "--", color="gray", label="as its arithmetic")
        axis.set_xlabel(TITLES[name])
        axis.set_xticks(values, [str(value) for value in values])
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.minorticks_off()
    axes[0][0].set_ylabel("tasks a second")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--order", choices=("second", "first"), default="second")
    parser.add_argument("--only", choices=GROWTH, nargs="+", default=list(GROWTH), help="what is to grow")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    for path in (options.picture, options.json):
        if path and not path.parent.is_dir():
            parser.error(f"{path}: there is no folder {path.parent}; make it first")
    torch.set_num_threads(options.threads)
    device.raise_malloc_thresholds()
    rows = measure(options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
