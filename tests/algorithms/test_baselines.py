"""The transfer-learning baselines agree with torch's own layers and optimisers; what is frozen stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import finetune
from metabench.core import HEAD, Net, Task, Tree, trees
from metabench.core.config import RunConfig
from metabench.training import loop, vectorise
from tests.algorithms import problems
from tests.algorithms.modules import close, conv4, ordered, values
from tests.support import small

N_CLASSES = 8  # of problems.tasks()
TRANSFER = ["finetune", "baseline_pp"]


def network(batch_norm: str = "transductive") -> Net:
    return problems.network(batch_norm)._replace(n_classes=N_CLASSES)


def body(theta: Tree) -> torch.nn.Sequential:
    """Build the layers before the head from torch's own."""
    head = {"weight": torch.zeros(problems.WAY, 4), "bias": torch.zeros(problems.WAY)}
    return conv4({**theta, HEAD: head})[:-1]


def one_task() -> Task:
    return problems.one(problems.tasks(1), 0)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


# Training from scratch.


def test_scratch_is_torchs_sgd_on_the_support_set() -> None:
    net, task = problems.network(), one_task()
    algorithm, h, meta, buffers = problems.start("scratch", net, inner_lr=0.2, inner_steps=6)
    built = conv4(meta["theta"])
    optimizer = torch.optim.SGD(built.parameters(), lr=0.2)
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(built(task.support.x), task.support.y).backward()
        optimizer.step()
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    assert close(ordered(learner["params"]), values(built))
    assert close([algorithm.predict(net, learner, task.query.x)], [built(task.query.x).detach()])


def untrained(name: str, **hyperparameters: Any) -> RunConfig:
    return small.config().model_copy(update={"algorithm": name, "hyperparameters": hyperparameters})


@pytest.mark.parametrize(("name", "settings"), [("scratch", {"inner_steps": 3}), ("nearest_mean", {})])
def test_what_is_not_trained_is_judged_at_every_rung_and_takes_no_meta_gradient(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a meta-gradient was taken")

    monkeypatch.setattr(vectorise, "meta_gradient", refuse)
    config, splits = untrained(name, **settings), small.splits()
    whole = list(loop.train(config, splits))
    reports = [report for report, _ in whole]
    assert [report.tasks_seen for report in reports] == [8, 16, 24]
    assert all(report.finite for report in reports)
    assert len({report.val_accuracy for report in reports}) == 1
    assert reports[0].val_accuracy > 1 / 3
    loop.save_state(tmp_path, whole[0][1])
    loaded = loop.load_state(tmp_path, config, splits)
    assert loaded.tasks_seen == 8
    resumed = [report for report, _ in loop.train(config, splits, state=loaded)]
    assert [report.val_loss for report in resumed] == [report.val_loss for report in reports[1:]]


def test_scratch_starts_where_the_seed_says() -> None:
    config = untrained("scratch", inner_steps=1)
    other = config.model_copy(update={"seed": 1})
    losses = [next(loop.train(c, small.splits()))[0].val_loss for c in (config, config, other)]
    assert losses[0] == losses[1] != losses[2]


# Pre-training.


@pytest.mark.parametrize("name", TRANSFER)
def test_pre_training_is_cross_entropy_over_all_classes_and_reaches_the_body(name: str) -> None:
    net, tasks = network(), problems.tasks(3)
    algorithm, h, meta, buffers = problems.start(name, net, **({} if name == "finetune" else {"scale": 3.0}))
    gradient, loss, logs, _ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
    )
    built = body(meta["theta"])
    base = {key: leaf.clone().requires_grad_() for key, leaf in meta["base"].items()}
    losses, right = [], []
    for index in range(3):
        task = problems.one(tasks, index)
        classes = task.classes.tolist()
        labels = [classes[y] for part in (task.support, task.query) for y in part.y.tolist()]
        features = built(torch.cat([task.support.x, task.query.x]))
        if name == "finetune":
            logits = features @ base["weight"].T + base["bias"]
        else:
            logits = 3 * unit(features) @ unit(base["weight"]).T
        assert logits.shape == (len(labels), N_CLASSES)
        losses.append(
            -sum(row.log_softmax(0)[y] for row, y in zip(logits, labels, strict=True)) / len(labels)
        )
        right += [int(row.argmax()) == y for row, y in zip(logits, labels, strict=True)]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert float(loss) == pytest.approx(float(mean.detach()), abs=1e-12)
    assert float(logs["accuracy"]) == pytest.approx(sum(right) / len(right))
    assert close(ordered(gradient["theta"]), [parameter.grad for parameter in built.parameters()])
    assert close(trees.leaves(gradient["base"]), [leaf.grad for leaf in base.values()])
    assert all(bool(leaf.any()) for leaf in trees.leaves(gradient))


@pytest.mark.parametrize("name", TRANSFER)
def test_vectorised_equals_a_plain_loop(name: str) -> None:
    tasks, net = problems.tasks(3), network()
    algorithm, h, meta, buffers = problems.start(name, net)
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
    )
    leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses = [
        algorithm.task_loss(net, leaves, buffers, problems.one(tasks, index), h, 0.5)[0] for index in range(3)
    ]
    looped = torch.autograd.grad(torch.stack(losses).mean(), trees.leaves(leaves))
    assert close(trees.leaves(gradient), list(looped))


@pytest.mark.parametrize("name", TRANSFER)
def test_a_new_classifier_on_trained_features_tells_the_classes_of_pre_training_apart(name: str) -> None:
    splits = small.splits()
    splits = splits._replace(meta_validation=splits.meta_train)
    config = small.config(name, tasks=160, rungs=(80, 160), inner_steps=20, outer_lr=1e-2)
    report = list(loop.train(config, splits))[-1][0]
    assert report.train_accuracy > 0.6  # of six classes
    assert report.val_accuracy > 0.85  # of three


# A new classifier.


@pytest.mark.parametrize(
    ("name", "settings"),
    [("finetune", {"classifier": "linear"}), ("finetune", {"classifier": "prototype"}), ("baseline_pp", {})],
)
def test_adapting_leaves_a_frozen_body_untouched_to_the_last_bit(name: str, settings: dict[str, Any]) -> None:
    net = network()
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.5, inner_steps=5, **settings)
    learner = algorithm.adapt(net, meta, buffers, one_task().support, h)
    assert set(learner["params"]) == {*meta["theta"], HEAD}
    for layer, kept in meta["theta"].items():
        assert all(torch.equal(learner["params"][layer][key], leaf) for key, leaf in kept.items())


def fit_with_torch(
    name: str, theta: Tree, task: Task, steps: int, lr: float, adapt_body: bool
) -> tuple[torch.nn.Sequential, dict[str, torch.Tensor]]:
    """Descend a new head, and the body if asked for, with torch's own SGD."""
    built = body(theta)
    features = built(task.support.x).detach()
    if name == "finetune":
        head = {"weight": features.new_zeros(problems.WAY, features.shape[1]), "bias": features.new_zeros(3)}
    else:
        means = [unit(features)[task.support.y == label].mean(0) for label in range(problems.WAY)]
        head = {"weight": unit(torch.stack(means))}
    for leaf in head.values():
        leaf.requires_grad_()
    moving = [*head.values(), *(built.parameters() if adapt_body else [])]
    optimizer = torch.optim.SGD(moving, lr=lr, momentum=0.9, dampening=0.9, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(logits_of(head, built(task.support.x)), task.support.y).backward()
        optimizer.step()
    return built, head


def logits_of(head: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    if "bias" in head:
        return F.linear(features, head["weight"], head["bias"])
    return 2 * unit(features) @ unit(head["weight"]).T


@pytest.mark.parametrize("name", TRANSFER)
@pytest.mark.parametrize("adapt_body", [False, True])
def test_a_new_classifier_descends_as_torchs_sgd_does(name: str, adapt_body: bool) -> None:
    """Without a scale of its own, Baseline++ has the published factor of two."""
    net, task = network(), one_task()
    algorithm, h, meta, buffers = problems.start(
        name, net, inner_lr=0.1, inner_steps=12, adapt_body=adapt_body
    )
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    built, head = fit_with_torch(name, meta["theta"], task, 12, 0.1, adapt_body)
    assert close(trees.leaves(learner["params"][HEAD]), [leaf.detach() for leaf in head.values()])
    adapted = {layer: learner["params"][layer] for layer in meta["theta"]}
    assert close(ordered(adapted), values(built))
    logits = algorithm.predict(net, learner, task.query.x)
    assert close([logits], [logits_of(head, built(task.query.x)).detach()])


def test_without_a_step_fine_tuning_prefers_no_class_and_baseline_pp_the_nearest_mean_direction() -> None:
    net, task = network(), one_task()
    algorithm, h, meta, buffers = problems.start("finetune", net, inner_steps=0)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    assert not algorithm.predict(net, learner, task.query.x).any()
    algorithm, h, meta, buffers = problems.start("baseline_pp", net, inner_steps=0, scale=5.0)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    support, query = (unit(net.embed(meta["theta"], part.x)[0]) for part in (task.support, task.query))
    means = unit(inner.class_means(support, task.support.y, problems.WAY))
    assert close([algorithm.predict(net, learner, task.query.x)], [5 * query @ means.T])


def test_the_prototype_classifier_takes_the_nearest_class_mean_of_the_features() -> None:
    net, task = network(), one_task()
    algorithm, h, meta, buffers = problems.start("finetune", net, classifier="prototype")
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    support, query = (net.embed(meta["theta"], part.x)[0] for part in (task.support, task.query))
    means = torch.stack([support[task.support.y == label].mean(0) for label in range(problems.WAY)])
    distances = torch.cdist(query, means)
    logits = algorithm.predict(net, learner, task.query.x)
    assert torch.equal(logits.argmax(1), distances.argmin(1))
    # Softmax of minus the squared distance: what is left out is the same for every class.
    assert close([logits.log_softmax(1)], [(-(distances**2)).log_softmax(1)])


@pytest.mark.parametrize("scale", [0.5, 7.0])
def test_cosine_logits_stay_within_their_scale(scale: float) -> None:
    net, task = network(), one_task()
    algorithm, h, meta, buffers = problems.start("baseline_pp", net, inner_lr=1.0, scale=scale)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    logits = algorithm.predict(net, learner, task.query.x)
    assert float(logits.abs().max()) <= scale * (1 + 1e-12)
    longer = {**learner["params"], HEAD: {"weight": 3 * learner["params"][HEAD]["weight"]}}
    assert close([algorithm.predict(net, {**learner, "params": longer}, task.query.x)], [logits])


@pytest.mark.parametrize(("n_classes", "factor"), [(200, 2), (201, 10)])
def test_the_published_scale_depends_on_how_many_classes_there_are(n_classes: int, factor: float) -> None:
    net, task = network()._replace(n_classes=n_classes), one_task()
    _, _, meta, buffers = problems.start("baseline_pp", net)
    losses = []
    for scale in (0.0, factor):
        algorithm, h, *_ = problems.start("baseline_pp", net, scale=scale)
        losses.append(float(algorithm.task_loss(net, meta, buffers, task, h, 0.5)[0]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", [*TRANSFER, "scratch"])
@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats", "with_support"])
def test_a_query_sees_other_queries_only_where_batch_norm_is_transductive(name: str, batch_norm: str) -> None:
    net, task = network(batch_norm), one_task()
    algorithm, h, meta, buffers = problems.start(name, net, inner_steps=4)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    together = algorithm.predict(net, learner, task.query.x)[:1]
    alone = algorithm.predict(net, learner, task.query.x[:1])
    assert bool((together - alone).abs().max() < 1e-10) == (batch_norm != "transductive")


@pytest.mark.parametrize("name", [*TRANSFER, "scratch"])
def test_relabelling_relabels_predictions_unless_the_head_starts_at_random(name: str) -> None:
    net, task = network(), one_task()
    algorithm, h, meta, buffers = problems.start(name, net, inner_steps=4)
    turned = task.support._replace(y=(task.support.y + 1) % problems.WAY)
    logits = [
        algorithm.predict(net, algorithm.adapt(net, meta, buffers, support, h), task.query.x)
        for support in (task.support, turned)
    ]
    assert close([logits[0]], [logits[1].roll(-1, 1)]) == (name != "scratch")


@pytest.mark.parametrize("name", ["finetune", "baseline_pp"])
@pytest.mark.parametrize("norm", ["batch", "torch"])
def test_the_last_block_is_fine_tuned_and_what_is_before_stays(name: str, norm: str) -> None:
    net = problems.network("support_stats", norm)._replace(n_classes=N_CLASSES)
    task = one_task()
    settings = {"inner_lr": 0.1, "inner_steps": 3, "adapt_block": True}
    algorithm, h, meta, buffers = problems.start(name, net, **settings)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    moved = {
        key
        for key, layer in meta["theta"].items()
        if problems.largest_difference(layer, learner["params"][key])
    }
    assert moved == set(net.last_block) == ({"12", "13"} if norm == "torch" else {"conv4", "norm4"})


@pytest.mark.parametrize("name", ["finetune", "baseline_pp"])
def test_copies_of_the_support_set_are_mirrored_shifted_and_the_same_each_time(name: str) -> None:
    support = one_task().support
    algorithm, h, meta, buffers = problems.start(
        name, network("support_stats"), inner_steps=3, support_copies=4
    )
    copied, again = (finetune.with_copies(support, h) for _ in range(2))
    n = len(support.y)
    assert torch.equal(copied.x, again.x)
    assert copied.x.shape == (5 * n, *support.x.shape[1:])
    assert torch.equal(copied.y, support.y.repeat(5))
    inner = slice(4, -4)  # of 16 pixels, which are shifted by two at most
    for number, copy in enumerate(copied.x.split(n)[1:]):
        shown = copy if number % 2 else copy.flip(-1)
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
        assert any(
            torch.equal(shown[..., inner, inner], support.x.roll(shift, (-2, -1))[..., inner, inner])
            for shift in shifts
        )
    plain = problems.start(name, network("support_stats"), inner_steps=3)[1]
    learners = [algorithm.adapt(network("support_stats"), meta, buffers, support, one) for one in (h, plain)]
    assert problems.largest_difference(*(one["params"]["head"] for one in learners)) > 1e-4
    moments = network("support_stats").embed(learners[0]["params"], copied.x)[1]
    assert problems.largest_difference(learners[0]["moments"], moments) < 1e-6
