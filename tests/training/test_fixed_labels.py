"""Labels that are fixed: outputs that a task lacks, who can have them, and what is right before any step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metabench import algorithms, leaderboard, predict, stats
from metabench.core import MetabenchError, Splits
from metabench.core.config import RunConfig
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.training import evaluate, loop
from metabench.training import run as runs
from tests.data.tasks.test_sampling import table
from tests.leaderboard.folders import change, make_run
from tests.support import small

WITHIN = small.TASK.model_copy(update={"way": 2, "domains": "within", "labels": "fixed"})


def splits(n_domains: int = 3) -> Splits:
    """Make splits of regions that have the same four classes, a random image each, with noise."""
    bare = small.splits(n_examples=6)
    parts = []
    for number, part in enumerate((bare.meta_train, bare.meta_validation, bare.meta_test)):
        like = table(4 * n_domains, domains=n_domains)
        names = tuple(f"{number}{name}" for name in like.classes)
        homes = tuple(f"{number}{home}" for home in like.domains)
        images = part.images[torch.arange(4).repeat(n_domains)]
        shared = ("class0", "class1", "class2", "class3")
        parts.append(part._replace(images=images, classes=names, domains=homes, shared=shared))
    return bare._replace(meta_train=parts[0], meta_validation=parts[1], meta_test=parts[2])


def config(algorithm: str = "maml", tasks: int = 8) -> RunConfig:
    settings = {"task_batch_size": 4, "inner_steps": 1}
    allowed = algorithms.get(algorithm).hparams.__dataclass_fields__
    kept = {name: value for name, value in settings.items() if name in allowed}
    described = small.config(algorithm, tasks, (tasks,))
    return described.model_copy(update={"task": WITHIN, "hyperparameters": kept, "validation_tasks": 4})


@pytest.mark.parametrize("name", algorithms.names("classification"))
def test_who_has_outputs_of_its_own_learns_fixed_labels_and_who_compares_is_refused(name: str) -> None:
    if algorithms.get(name).taken is not None:
        pytest.skip("reads unlabelled images, which these tasks have none of")
    described = config(name, 4)
    if algorithms.get(name).compares(algorithms.hparams(name, described.hyperparameters)):
        with pytest.raises(MetabenchError, match="compares with support examples of each class"):
            loop.build(described, splits())
        return
    ((report, _),) = loop.train(described, splits())
    assert report.finite
    assert loop.build(described, splits()).net.outputs == 4


def test_what_is_recorded_names_domains_and_what_is_right_before_any_step(tmp_path: Path) -> None:
    data = splits()
    runs.train_run(config(), data, tmp_path, device="cpu")
    result = runs.test_run(tmp_path, data, 12, "cpu")
    assert len(result["accuracy_zero_step"]) == 12
    assert result["is_by_domain"]
    assert tuple(result["domains"]) == data.meta_test.domains
    assert sum(result["by_class"]["queries"]) == 12 * 2 * 3, "guesses of absent classes count as wrong"
    total = sum(result["by_class"]["hits"]) / sum(result["by_class"]["queries"])
    assert total == pytest.approx(np.mean(result["accuracy"]))
    row = next(one for one in leaderboard.leaderboard([tmp_path])["rows"] if one["algorithm"] == "maml")
    assert row["zero_step"] == pytest.approx(np.mean(result["accuracy_zero_step"]))
    assert {name for name, *_ in row["by_domain"]} <= set(result["domains"])
    assert [share for _, share, _ in row["by_domain"]] == sorted(share for _, share, _ in row["by_domain"])
    counts = np.array(result["of_labels"])
    assert counts.sum(0).sum() == counts.sum() == sum(result["by_class"]["queries"])
    assert counts.trace() == sum(result["by_class"]["hits"])
    words = dict(zip(data.meta_test.classes, data.meta_test.words, strict=True))
    per_class = dict.fromkeys(result["label_names"], 0)
    for name, n in zip(result["class_names"], result["by_class"]["queries"], strict=True):
        per_class[words[name]] += n
    assert counts.sum(1).tolist() == list(per_class.values())
    assert row["kappa"] == pytest.approx(stats.kappa(counts))
    assert row["domain_over"] == "domains"
    assert row["domain_low"] <= row["accuracy"] <= row["domain_high"]
    assert row["class_low"] is None
    text = leaderboard.as_markdown(leaderboard.leaderboard([tmp_path]))
    assert "New domains" in text
    assert "Worst domain" in text
    assert "Zero-step %" in text
    assert json.loads((tmp_path / "inputs.json").read_text())["shared"] == list(data.meta_test.shared)
    with pytest.raises(MetabenchError, match=r"labels=fixed.*predict with a run of labels=shuffled"):
        predict.load(tmp_path).fit([np.zeros((16, 16), np.uint8)] * 2, ["a", "b"])
    change(tmp_path / files.TEST, classes=result["classes"][:1] * 12)
    board = leaderboard.leaderboard([tmp_path])
    assert not any(row.get("domain_low") is not None for row in board["rows"]), (
        "one domain says nothing of others"
    )
    assert "nan" not in leaderboard.as_markdown(board)


def test_a_board_does_not_mix_fixed_and_shuffled_labels(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, name, 0, 0.5) for name in ("maml", "reptile"))
    described = files.read_json(b / files.CONFIG)["run"]
    described["task"] = {**described["task"], "labels": "fixed"}
    change(b / files.CONFIG, run=described)
    with pytest.raises(MetabenchError, match=r"labels: shuffled in .*maml; fixed in .*reptile"):
        leaderboard.leaderboard([a, b])


def test_other_data_are_of_the_same_classes(tmp_path: Path) -> None:
    original = splits()
    runs.train_run(config(tasks=4), original, tmp_path, device="cpu")
    names = ("class0", "class1", "class2", "class4")
    meta_test = original.meta_test._replace(shared=names)
    with pytest.raises(MetabenchError, match=r"classes class0, .*, class3, and those of .* are .*, class4;"):
        runs.test_run(tmp_path, original, 4, "cpu", other=original._replace(meta_test=meta_test))


def test_confusions_of_fixed_labels_begin_with_the_task_s_classes() -> None:
    tasks = frozen.frozen(splits(), "meta_test", WITHIN, 5, "test")
    assert tasks.groups[0].indices.labels is not None
    confusion = np.zeros((5, 4, 4))
    for place, labels in enumerate(tasks.groups[0].indices.labels.tolist()):
        absent = next(label for label in range(4) if label not in labels)
        confusion[place, labels[0], labels[1]] = 1
        confusion[place, labels[1], absent] = 2
    evaluate._by_position(confusion, tasks)
    assert bool((confusion[:, 0, 1] == 1).all())
    assert bool((confusion[:, 1, 2:].sum(1) == 2).all())
    counted = evaluate.by_class(confusion, frozen.classes_of(tasks), 12)
    assert sum(counted["by_class"]["queries"]) == 15
    assert sum(counted["by_class"]["hits"]) == 0


def test_nearest_mean_has_the_figure_that_it_has_where_labels_are_shuffled() -> None:
    data = splits()
    both = [
        frozen.frozen(data, "meta_test", WITHIN.model_copy(update={"labels": labels}), 6, "test")
        for labels in ("fixed", "shuffled")
    ]
    assert both[0].hash != both[1].hash
    fixed, shuffled = (evaluate.nearest_mean(data.meta_test.images, tasks).score for tasks in both)
    assert np.array_equal(fixed, shuffled)
