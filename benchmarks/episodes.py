"""Tasks per second of drawing Omniglot tasks: this package's way beside torchmeta's and learn2learn's.

The others' ways are written anew in `other_ways.py`, as they are documented; neither needs to be installed.
What each does for every image of every task:

- metabench: an index. The split is one uint8 table in memory, and T tasks are gathered from it at once.
- torchmeta: a decoded drawing of 105x105 becomes a Pillow image, is turned if its class is a turned one,
  resized to 28x28 and made a tensor. A data set a class, a task that joins them, a splitter of classes, a
  DataLoader that collates images, then tasks. torchmeta reads each drawing from an HDF5 file: so does
  "torchmeta", where h5py is installed; "torchmeta, decoded" has them in memory, which favours it.
- learn2learn: a PNG file is opened, resized to 28x28 (Lanczos), made a tensor and inverted; task transforms
  choose N ways and K shots, load, remap labels and put them in order, and a task is collated. Its random turn
  of classes is left out, which favours it.
- "in memory" is the most favourable variant of either: every image is a finished 28x28 float tensor, as in
  learn2learn's OnDeviceDataset, and only choosing, labels and collating are left. torchmeta has no such way.

One process, one thread; loader processes would multiply the others' rates, and threads ours. Then the share
of drawing in a whole meta-step. Needs Omniglot under METABENCH_DATA.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_ways import in_hdf5, learn2learn_way, opened, resized, torchmeta_way
from PIL import Image

from metabench import data
from metabench.core import MetabenchError, Split, Splits, device, seeds
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.training import loop

Files = Sequence[Sequence[Path]]
"""The drawings of each character."""

Calls = dict[str, tuple[Callable[[], Any], int]]
"""Ways to draw: a call, and the tasks that it draws."""


def our_way(part: Split, way: int, shot: int, query: int, n_tasks: int) -> Callable[[], Any]:
    """Return a call that draws a batch of tasks as a meta-step does."""
    generator = seeds.generator("benchmark", "episodes")
    shape = sampling.Shape(way, shot, query)
    source = sampling.pool(part, TaskConfig(dataset="omniglot"))

    def draw() -> Any:
        indices = sampling.sample(generator, source, shape, n_tasks)
        return frozen.gather(part.images, indices, shape)

    return draw


def ways(part: Split, files: Files, folder: Path, arguments: argparse.Namespace) -> Calls:
    """Return every way to draw.

    Args:
        folder: for torchmeta's file.
    """
    way, shot, query, n_tasks = arguments.way, arguments.shot, arguments.query, arguments.tasks
    drawings = [[255 - np.array(Image.open(path).convert("L")) for path in row] for row in files]
    finished = [[resized(image, 0) for image in row] for row in drawings]
    paths = [path for row in files for path in row]
    labels = [label for label, row in enumerate(files) for _ in row]
    size = (way, shot, query)
    flat = [tensor for row in finished for tensor in row]
    stored = in_hdf5(folder / "data.hdf5", drawings)
    as_shipped = {"torchmeta": (torchmeta_way(stored, resized, *size, n_tasks), n_tasks)} if stored else {}
    return {
        "metabench": (our_way(part, *size, n_tasks), n_tasks),
        **as_shipped,
        "torchmeta, decoded": (torchmeta_way(drawings, resized, *size, n_tasks), n_tasks),
        "torchmeta, in memory": (torchmeta_way(finished, lambda x, turn: x, *size, n_tasks), n_tasks),
        "learn2learn": (learn2learn_way(paths, labels, opened, *size), 1),
        "learn2learn, in memory": (learn2learn_way(flat, labels, lambda x: x, *size), 1),
    }


def rates(calls: Calls, repeats: int, seconds: float) -> dict[str, dict[str, float]]:
    """Time all ways in turn, each for some seconds a repeat: medians of tasks per second, by wall and CPU."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(repeats):
        for name, (call, n_tasks) in calls.items():
            wall, cpu, n = time.perf_counter(), time.process_time(), 0
            while n == 0 or time.perf_counter() - wall < seconds:
                call()
                n += n_tasks
            measured[name].append((n / (time.perf_counter() - wall), n / (time.process_time() - cpu)))
    kinds = ("tasks_per_second", "tasks_per_cpu_second")
    return {
        kind: {name: statistics.median(pair[i] for pair in pairs) for name, pairs in measured.items()}
        for i, kind in enumerate(kinds)
    }


STEPS: dict[str, tuple[dict[str, Any], NetworkConfig]] = {
    "conv4 of 20 channels, 5 inner steps, 10 tasks": (
        {"inner_steps": 5, "inner_lr": 0.1, "task_batch_size": 10},
        NetworkConfig(width=20, batch_norm="transductive"),
    ),
    "conv4 of 64 channels, 1 inner step, 32 tasks": (
        {"inner_steps": 1, "inner_lr": 2.0, "task_batch_size": 32},
        NetworkConfig(width=64, shrink="stride", readout="mean", batch_norm="transductive"),
    ),
}
"""Second-order MAML as it is searched, and as the MAML paper trained it on Omniglot."""


def shares(splits: Splits, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the seconds of a meta-step, those of drawing its tasks, and their ratio; medians."""
    task = TaskConfig(dataset="omniglot", way=arguments.way, shot=arguments.shot, query=arguments.query)
    by_algorithm = {}
    for name, (settings, network) in STEPS.items():
        n_tasks = settings["task_batch_size"]
        config = RunConfig(
            algorithm="maml",
            hyperparameters=settings,
            task=task,
            network=network,
            tasks=10_000,
            rungs=[10_000],
        )
        learner = loop.build(config, splits)
        state = loop.start(config, learner, splits.meta_train.images.device)
        source = sampling.pool(splits.meta_train, config.task)
        step = functools.partial(loop.meta_step, config, learner, source, state, n_tasks)
        draw = our_way(splits.meta_train, task.way, task.shot, task.query, n_tasks)
        seconds: dict[str, list[float]] = {"step": [], "draw": []}
        for _ in range(arguments.repeats):
            for kind, call, often in (("step", step, 1), ("draw", draw, arguments.draws)):
                call()
                begun = time.perf_counter()
                for _ in range(often):
                    result = call()
                float(result[1]["loss"] if kind == "step" else result.support.x.sum())  # the device is done
                seconds[kind].append((time.perf_counter() - begun) / often)
        medians = {kind: statistics.median(values) for kind, values in seconds.items()}
        by_algorithm[name] = {**medians, "share": medians["draw"] / medians["step"]}
    return by_algorithm


def measure(splits: Splits, files: Files, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return tasks per second of every way, ours over each, and the shares of a meta-step."""
    calls = ways(splits.meta_train, files, folder, arguments)
    speeds = rates(calls, arguments.repeats, arguments.seconds)
    ratios = {
        name: speeds["tasks_per_second"]["metabench"] / rate
        for name, rate in speeds["tasks_per_second"].items()
        if name != "metabench"
    }
    return {"setting": vars(arguments), **speeds, "ratio": ratios, "meta_step": shares(splits, arguments)}


def unpack(root: Path, splits: Splits, folder: Path, n_characters: int) -> Files:
    """Lay out the PNG files of meta-train's first characters, as learn2learn's data set reads them."""
    names = [name for name in splits.meta_train.classes if name.count("/") == 1][:n_characters]
    for archive in (root / "omniglot").glob("images_*.zip"):
        with zipfile.ZipFile(archive) as packed:
            members = [one for one in packed.namelist() if "/".join(one.split("/")[1:3]) in names]
            packed.extractall(folder, members)
    homes = (folder, root / "omniglot")  # archives or folders, whichever are there
    return [sorted(path for home in homes for path in home.glob(f"*/{name}/*.png")) for name in names]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    settings = {"way": 5, "shot": 1, "query": 15, "tasks": 32, "repeats": 7, "draws": 20, "threads": 1}
    for name, default in settings.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--characters", type=int, default=1028, help="of meta-train, for the other ways")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each way in each repeat")
    parser.add_argument("--device", default="cpu", help="where our table lies")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def report(result: dict[str, Any]) -> str:
    """Return the result in lines."""
    lines = []
    for name, rate in result["tasks_per_second"].items():
        ratio = f"metabench is {result['ratio'][name]:.0f} times as fast" if name in result["ratio"] else ""
        cpu = result["tasks_per_cpu_second"][name]
        lines.append(f"{name:24}{rate:9.0f} tasks/s {cpu:9.0f} tasks/CPU-s  {ratio}".rstrip())
    for name, costs in result["meta_step"].items():
        lines.append(
            f"{name}: a meta-step takes {costs['step'] * 1e3:.0f} ms, drawing {costs['draw'] * 1e3:.2f} ms, "
            f"{costs['share']:.2%}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    device.raise_malloc_thresholds()
    root = data.default_root()
    try:
        splits = data.load(TaskConfig(dataset="omniglot"), root)
    except MetabenchError as error:
        print(f"this benchmark draws real Omniglot tasks: {error}", file=sys.stderr)
        return 2
    part = splits.meta_train
    splits = splits._replace(meta_train=part._replace(images=part.images.to(arguments.device)))
    assert root is not None, "or Omniglot was not found"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = measure(splits, unpack(root, splits, folder, arguments.characters), folder, arguments)
    print(json.dumps(result, indent=2) if arguments.json else report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
