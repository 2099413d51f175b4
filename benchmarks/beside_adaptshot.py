"""A run on a frozen backbone beside AdaptShot, a package for few-shot pictures, on the same meta-test tasks.

Both are shown the same files of pictures, PNG at the run's size: the support set of a task, then its queries
one at a time. AdaptShot has its defaults, but for the error that sets of classes may make, which is ours:
10 %. The run is there twice, the second time exported to ONNX with the classes of the first task, which alone
it answers then. Each side is a process, for its memory. AdaptShot 0.3 is no dependency: install
it, or name the folder of its package in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COVERAGE = 0.9


def write_tasks(run: str, n_tasks: int, folder: Path) -> None:
    """Write the pictures of frozen meta-test tasks, and which of them make up each task."""
    from PIL import Image

    from metabench import data
    from metabench.data.tasks import frozen
    from metabench.training.run import read_config

    config = read_config(Path(run))
    task, side = config.task, config.network.image_size
    drawn = data.load(task)
    large = (
        drawn
        if side is None
        else data.load(task.model_copy(update={"options": {**task.options, "size": side}}))
    )
    (group,) = frozen.frozen(drawn, "meta_test", task, n_tasks, "test").groups
    shots, tasks = task.shots[0], []
    for classes, examples in zip(
        group.indices.classes.tolist(), group.indices.examples.tolist(), strict=True
    ):
        files: dict[str, list[Any]] = {"support": [], "labels": [], "query": [], "answers": []}
        for label, (row, columns) in enumerate(zip(classes, examples, strict=True)):
            for place, column in enumerate(columns):
                path = folder / f"{row}-{column}.png"
                if not path.exists():
                    pixels = large.meta_test.images[row, column].permute(1, 2, 0).numpy()
                    Image.fromarray(pixels).save(path)
                pictures, labels = ("support", "labels") if place < shots else ("query", "answers")
                files[pictures].append(str(path))
                files[labels].append(str(label))
        tasks.append(files)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    for path, label in zip(tasks[0]["support"], tasks[0]["labels"], strict=True):
        (folder / "support" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "support" / label)
    words = ["export-model", run, "--to", "onnx", "--support", str(folder / "support")]
    command = [sys.executable, "-m", "metabench", *words, "--out", str(folder / "export")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


Answer = Callable[[str], tuple[str, list[str], bool]]


def ours(run: str, folder: Path) -> Callable[[Sequence[str], Sequence[str]], Answer]:
    """Return what learns from a support set, and then answers: the class, the set, whether it abstains."""
    import metabench

    classifier = metabench.load(run)

    def learn(support: Sequence[str], labels: Sequence[str]) -> Answer:
        classifier.fit(list(support), list(labels))

        def answer(query: str) -> tuple[str, list[str], bool]:
            shares = classifier.predict_proba([query])[0]
            chosen = shares >= classifier.least_share(COVERAGE)
            names = [str(name) for name in classifier.classes_]
            return (
                names[shares.argmax()],
                [n for n, one in zip(names, chosen, strict=True) if one],
                chosen.sum() != 1,
            )

        return answer

    return learn


def exported(run: str, folder: Path) -> Callable[[Sequence[str], Sequence[str]], Answer]:
    """Return the same of the export, which knows its classes; no set is made, so it never abstains."""
    sys.path.insert(0, str(folder / "export"))
    import predict  # type: ignore[import-not-found]

    predictor = predict.Predictor()

    def answer(query: str) -> tuple[str, list[str], bool]:
        label = predictor.classes[predictor([Path(query)])[0].argmax()]
        return label, [label], False

    return lambda support, labels: answer


def adaptshot(run: str, folder: Path) -> Callable[[Sequence[str], Sequence[str]], Answer]:
    """Return the same of AdaptShot; it abstains where it would ask a person."""
    from adaptshot import AdaptShotConfig, FewShotLearner

    def learn(support: Sequence[str], labels: Sequence[str]) -> Answer:
        learner = FewShotLearner(AdaptShotConfig(verbose=False, conformal_alpha=1 - COVERAGE))
        learner.load_support_images(list(support), list(labels))

        def answer(query: str) -> tuple[str, list[str], bool]:
            result = learner.predict(query)
            return (
                str(result.prediction),
                [str(one) for one in result.conformal_set or []],
                result.uncertainty_flag,
            )

        return answer

    return learn


SIDES = {"metabench": ours, "exported": exported, "adaptshot": adaptshot}


def play(side: str, run: str, folder: Path) -> dict[str, Any]:
    """Answer every query of every task; return accuracy by task, seconds a picture, sets and memory."""
    learn = SIDES[side](run, folder)
    tasks = json.loads((folder / "tasks.json").read_text())
    right, covered, sizes, asked, seconds = [], [], [], [], []
    for task in tasks[:1] if side == "exported" else tasks:
        answer = learn(task["support"], task["labels"])
        answers = []
        for query in task["query"]:
            begun = time.perf_counter()
            answers.append(answer(query))
            seconds.append(time.perf_counter() - begun)
        right.append(np.mean([one[0] == truth for one, truth in zip(answers, task["answers"], strict=True)]))
        covered += [truth in one[1] for one, truth in zip(answers, task["answers"], strict=True)]
        sizes += [len(one[1]) for one in answers]
        asked += [bool(one[2]) for one in answers]
    return {
        "accuracy": [float(one) for one in right],
        "milliseconds": 1000 * float(np.median(seconds)),
        "coverage": float(np.mean(covered)),
        "set_size": float(np.mean(sizes)),
        "abstains": float(np.mean(asked)),
        # The peak of getrusage is that of who started this process, where that is higher.
        "megabytes": int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024,
    }


def main() -> None:
    """Play both sides on the same files, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run on a frozen backbone")
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--side", choices=["write", *SIDES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "write":
        write_tasks(options.run, options.tasks, options.folder)
        return
    if options.side:
        print(json.dumps(play(options.side, options.run, options.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        results = {}
        for side in ("write", *SIDES):  # this process stays small: its memory would count as theirs
            words = [options.run, "--side", side, "--folder", place, "--tasks", str(options.tasks)]
            command = [sys.executable, __file__, *words]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            if side in SIDES:
                results[side] = json.loads(text.splitlines()[-1])
    gain = 100 * (np.array(results["metabench"]["accuracy"]) - np.array(results["adaptshot"]["accuracy"]))
    error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    print("| side | accuracy % | coverage % | set size | asks a person % | ms a picture | MB |")
    print("|---|---|---|---|---|---|---|")
    for side, one in results.items():
        cells = [
            100 * np.mean(one["accuracy"]),
            100 * one["coverage"],
            one["set_size"],
            100 * one["abstains"],
        ]
        cells += [one["milliseconds"], one["megabytes"]]
        print(f"| {side} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    low, high = gain.mean() - error, gain.mean() + error
    print(f"\ngain {gain.mean():+.1f} [{low:+.1f}, {high:+.1f}] points, {len(gain)} tasks")


if __name__ == "__main__":
    main()
