"""What a run's learner scores on frozen meta-test tasks, and all that stands beside the scores."""

from __future__ import annotations

from typing import Any

from metabench.core import Split, Splits
from metabench.core.config import RunConfig
from metabench.data.tasks import frozen
from metabench.training import calibration, cost, diagnostics, evaluate, fairness, unlabelled
from metabench.training.vectorise import Model


def scored(
    model: Model,
    config: RunConfig,
    trained: Splits,
    tested: Splits,
    tasks: frozen.FrozenTasks,
    sure: calibration.Calibration | None,
) -> dict[str, Any]:
    """Return the scores of single tasks, of classes and pictures, and what they cost.

    Args:
        trained: the run's own data, on whose meta-validation thresholds are chosen.
        tested: data whose meta-test tasks are drawn from.
        sure: the run's calibration, where it has one.
    """
    algorithm, net, *_, h = model
    split, metric = tested.meta_test, net.objective.metric
    judge = None if sure is None else calibration.judge(sure)
    result = evaluate.test(model, split.images, tasks, judge)
    record = {
        "algorithm": config.algorithm,
        metric.name: result.score.tolist(),
        f"{metric}_one_at_a_time": result.alone.tolist(),
        "loss": result.loss.tolist(),
        "tasks": len(result.score),
        "tasks_hash": tasks.hash,
        "batch_norm": algorithm.batch_norm(net, h),
        "cost": cost.of(model, config.network, trained.features, split.images, tasks),
        **_of_classes(model, config, tested, tasks),
        **unlabelled.compare(model, split.images, tasks),
    }
    if result.confusion is not None and not split.labels:  # a row of these is a task, and no class
        record |= evaluate.by_class(result.confusion, frozen.classes_of(tasks), len(split.classes))
    if result.of_labels is not None:
        record["label_names"] = split.shared
        record["of_labels"] = result.of_labels.astype(int).tolist()
    if algorithm.reading is not None:
        record["by_instance"] = evaluate.by_instance(model, split.images, tasks)
    if tested.shares_classes:
        record["pictures"] = [evaluate.by_picture(result, tasks, split)]
    if sure is not None:
        record["calibration"] = calibration.judgement(sure, result.judged)
    if split.has_group:
        record |= fairness.counted(model, trained, config.task, split.images, tasks)
    return record


def _of_classes(model: Model, config: RunConfig, tested: Splits, tasks: frozen.FrozenTasks) -> dict[str, Any]:
    """Say which classes tasks have, and of which domains; with fixed labels score the first guesses."""
    split: Split = tested.meta_test
    rows = [" ".join(map(str, one)) for one in frozen.classes_of(tasks)]
    record: dict[str, Any] = {"classes": rows, "class_names": split.classes}
    if len(set(split.domains)) > 1:
        record["domains"] = split.domains
    if tested.is_by_domain:
        record["is_by_domain"] = True
    if config.task.labels == "fixed" and model.algorithm.inner_steps:
        at_first = diagnostics.over_steps(model)[0]
        record["accuracy_zero_step"] = evaluate.evaluate(at_first, split.images, tasks).score.tolist()
    return record
