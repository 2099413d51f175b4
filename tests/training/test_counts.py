"""What a meta-gradient comes down to on a CPU, in counts that no clock disturbs: it may only become less."""

from __future__ import annotations

import pytest
import torch

from metabench import algorithms, nets
from metabench.core import Query, Support, Task, seeds
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from tests.support.counting import Counted, count, held_at_most

WAY, QUERY, STEPS = 5, 15, 5

SETTINGS = {"seed": (20, 28, 1, 2, 1), "omni": (64, 28, 1, 2, 1), "mini": (32, 84, 3, 1, 5)}
"""Width, size of an image, channels, tasks, shots, as in the benchmark of speed, but with fewer tasks."""

MOST = {
    ("seed", "maml"): (Counted(operations=10280, convolutions=193, megabytes=152), 42),
    ("seed", "fomaml"): (Counted(operations=4663, convolutions=78, megabytes=99), 35),
    ("omni", "maml"): (Counted(operations=10756, convolutions=223, megabytes=616), 109),
    ("omni", "fomaml"): (Counted(operations=5139, convolutions=108, megabytes=378), 82),
    ("mini", "maml"): (Counted(operations=17226, convolutions=642, megabytes=3296), 479),
    ("mini", "fomaml"): (Counted(operations=8193, convolutions=297, megabytes=1528), 168),
}
"""What is done, of blocks that fit a processor's cache, and the megabytes that are held at once."""

SLACK = 1.05
"""For other versions of torch, which compose some operations of others."""


@pytest.mark.parametrize(
    ("setting", "name"),
    [pytest.param(*which, marks=[] if which == ("seed", "maml") else [pytest.mark.slow]) for which in MOST],
)
def test_a_meta_gradient_takes_no_more_than_it_did(setting: str, name: str) -> None:
    width, size, channels, n_tasks, shot = SETTINGS[setting]
    shape = (channels, size, size)
    net = nets.build(
        NetworkConfig(width=width, batch_norm="transductive"), WAY, shape, OBJECTIVES["classification"], 64
    )
    algorithm, h = algorithms.get(name), algorithms.hparams(name, {"inner_steps": STEPS})
    generator = seeds.generator("counts")
    meta, buffers = algorithm.init(net, h, generator)
    parts = [
        (
            torch.rand(n_tasks, WAY * n, *shape, generator=generator),
            torch.arange(WAY).repeat(n).expand(n_tasks, -1),
        )
        for n in (shot, QUERY)
    ]
    tasks = Task(Support(*parts[0]), Query(*parts[1]), torch.zeros(n_tasks, WAY, dtype=torch.int64))

    def step() -> object:
        return vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.0, n_tasks)

    counted = count(step)
    most, held = MOST[setting, name]
    assert counted.convolutions <= most.convolutions
    assert counted.operations <= SLACK * most.operations
    assert counted.megabytes <= SLACK * most.megabytes
    assert held_at_most(step) <= SLACK * held * 1e6
    # And they are those of all steps: a guard that saw a part alone would guard nothing.
    assert counted.convolutions >= 4 * (STEPS + 1) * (3 if name == "maml" else 2)


def test_the_number_of_tasks_adds_no_operation() -> None:
    width, size, channels, *_ = SETTINGS["seed"]
    net = nets.build(
        NetworkConfig(width=width, batch_norm="transductive"),
        WAY,
        (channels, size, size),
        OBJECTIVES["classification"],
        64,
    )
    algorithm, h = algorithms.get("maml"), algorithms.hparams("maml", {"inner_steps": 1})
    meta, buffers = algorithm.init(net, h, seeds.generator("counts"))

    def counted(n_tasks: int) -> Counted:
        x = torch.rand(n_tasks, WAY, channels, size, size)
        y = torch.arange(WAY).expand(n_tasks, -1)
        tasks = Task(Support(x, y), Query(x, y), torch.zeros(n_tasks, WAY, dtype=torch.int64))
        return count(
            lambda: vectorise.meta_gradient(
                vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.0, n_tasks
            )
        )

    assert counted(2).operations == counted(8).operations  # more make blocks of their own
