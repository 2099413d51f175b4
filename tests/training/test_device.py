"""What only a GPU can show: its numbers are a CPU's, its graphs wait for nothing, its memory ends."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from metabench import algorithms, nets
from metabench.core import Query, Support, Task, Tree, device, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import sampling
from metabench.nets.kernels.cpu import kernels
from metabench.training import loop, vectorise
from metabench.training.graphs.cuda import Captured
from metabench.training.graphs.trace import TraceCache
from tests.support import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CUDA = torch.device("cuda", 0)
WAY = 5


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def problem(name: str, n_tasks: int, width: int = 20, steps: int = 3) -> tuple[Any, ...]:
    """Return the arguments of a meta-gradient on the GPU."""
    net = nets.build(
        NetworkConfig(width=width, batch_norm="transductive"),
        WAY,
        (1, 28, 28),
        OBJECTIVES["classification"],
        64,
    )
    algorithm = algorithms.get(name)
    h = algorithms.hparams(name, {"inner_steps": steps})
    generator = seeds.generator("device")
    meta, buffers = (
        trees.map(lambda leaf: leaf.to(CUDA), tree) for tree in algorithm.init(net, h, generator)
    )
    halves = []
    for shot in (1, 15):
        x = torch.rand(n_tasks, WAY * shot, 1, 28, 28, generator=generator).to(CUDA)
        halves.append((x, torch.arange(WAY, device=CUDA).repeat(shot).expand(n_tasks, -1)))
    classes = torch.zeros(n_tasks, WAY, dtype=torch.int64, device=CUDA)
    return algorithm, net, meta, buffers, Task(Support(*halves[0]), Query(*halves[1]), classes), h, 0.0


@pytest.mark.parametrize(("precision", "least", "most"), [("highest", 0, 2e-5), ("high", 2e-5, 3e-3)])
@pytest.mark.parametrize("sizes", [(3, 1, 20, 28), (4, 20, 20, 7), (2, 64, 64, 13), (2, 3, 32, 21)])
def test_convolutions_in_float32_are_near_those_in_float64(
    sizes: tuple[int, ...], precision: str, least: float, most: float
) -> None:
    pytest.importorskip("triton")
    from metabench.nets.kernels.gpu import convolutions

    torch.set_float32_matmul_precision(precision)
    groups, n_in, n_out, side = sizes
    x = torch.randn(7, groups * n_in, side, side, device=CUDA)
    g = torch.randn(7, groups * n_out, side, side, device=CUDA)
    w = torch.randn(groups * n_out, n_in, 3, 3, device=CUDA)
    exact = [one.double() for one in (x, g, w)]
    forward = kernels.convolve(exact[0], exact[2], groups)
    onto = g.clone(memory_format=torch.channels_last)
    pairs = [
        (convolutions.convolve(x, w, groups), forward),
        (convolutions.convolve(x, w, groups, onto=onto), forward + exact[1]),
        (
            convolutions.convolve(g, w, groups, is_back=True),
            kernels.convolve(exact[1], kernels.flip(exact[2], groups), groups),
        ),
        (convolutions.correlate(x, g, groups), kernels.correlate(*exact[:2], groups)),
    ]
    for actual, expected in pairs:
        assert least <= float((actual - expected).norm() / expected.norm()) < most


@pytest.mark.parametrize("name", ["maml", "fomaml", "protonet"])
def test_meta_gradients_are_those_of_a_processor(name: str) -> None:
    algorithm, net, *inputs, h, _ = problem(name, 4)
    inputs = [
        tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, one) for one in inputs
    ]
    there = [tree_map(torch.Tensor.cpu, one) for one in inputs]
    on_gpu, on_cpu = (
        vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.0)[0]
        for meta, buffers, tasks in (inputs, there)
    )
    difference = trees.norm(trees.map(lambda a, b: a.cpu() - b, on_gpu, on_cpu))
    assert float(difference / trees.norm(on_cpu)) < 1e-9


def test_kernels_in_float32_find_the_meta_gradient_of_a_processor_in_float64() -> None:
    # A pixel that rounding puts on the other side of a ReLU moves it: of few tasks, after one step.
    differences = []
    algorithm, net, meta, buffers, tasks, h, _ = problem("maml", 8, steps=1)
    for index in range(8):
        one = vectorise.cut(tasks, slice(index, index + 1))
        exact = tree_map(lambda leaf: leaf.cpu().double() if leaf.is_floating_point() else leaf.cpu(), one)
        there = [tree_map(lambda leaf: leaf.cpu().double(), tree) for tree in (meta, buffers)]
        gradient = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), one, 0.0)[0]
        expected = vectorise.meta_gradient(vectorise.Model(algorithm, net, *there, h), exact, 0.0)[0]
        difference = trees.norm(trees.map(lambda a, b: a.cpu().double() - b, gradient, expected))
        differences.append(float(difference / trees.norm(expected)))
    assert statistics.median(differences) < 1e-3


def test_a_captured_step_gives_the_same_bits_and_lets_its_results_be() -> None:
    *learnt, tasks, h, progress = problem("maml", 4)
    traces = TraceCache(capture_after=0)
    gradients = [
        vectorise.meta_gradient(vectorise.Model(*learnt, h), tasks, progress, traces=traces)[0]
        for _ in range(3)
    ]
    assert [type(one.graph) for one in traces.recorded.values()] == [Captured]
    expected = vectorise.meta_gradient(vectorise.Model(*learnt, h), tasks, progress)[0]
    for one in gradients:
        for mine, theirs in zip(trees.leaves(one), trees.leaves(expected), strict=True):
            assert torch.equal(mine, theirs)


def stepped(config: Any, learner: Any, source: Any, state: Any, traces: TraceCache, n: int) -> Tree:
    for _ in range(n):
        state, _ = loop.meta_step(config, learner, source, state, 4, traces)
    return state


@pytest.mark.parametrize("name", ["maml", "maml_pp", "protonet", "r2d2"])
def test_meta_steps_wait_for_nothing(name: str) -> None:
    splits, config = small.splits(), small.config(name)
    fields = algorithms.get(name).hparams.__dataclass_fields__
    kept = {key: value for key, value in config.hyperparameters.items() if key in fields}
    config = config.model_copy(update={"hyperparameters": {**kept, "augment": "both"}})
    learner = loop.build(config, splits)
    source = sampling.pool(splits.meta_train._replace(images=splits.meta_train.images.to(CUDA)), config.task)
    traces = TraceCache(capture_after=0)
    state = stepped(config, learner, source, loop.start(config, learner, CUDA), traces, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        state = stepped(config, learner, source, state, traces, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(trees.is_finite(state.meta))


def test_tasks_that_do_not_fit_a_gpu_are_halved_and_have_the_same_gradient() -> None:
    *learnt, tasks, h, progress = problem("maml", 16, width=64, steps=5)
    expected = vectorise.meta_gradient(vectorise.Model(*learnt, h), tasks, progress, chunk=2)[0]
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.empty_cache()
    device.reset_peak(CUDA)
    vectorise.meta_gradient(vectorise.Model(*learnt, h), tasks, progress, chunk=4)
    room = device.peak(CUDA) * 1.5  # for four tasks, not for sixteen
    traces = TraceCache()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        gradient = vectorise.meta_gradient(
            vectorise.Model(*learnt, h), tasks, progress, chunk=16, traces=traces
        )[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert next(iter(traces.fits.values())) in (2, 4, 8)
    difference = trees.norm(trees.map(torch.sub, gradient, expected))
    assert float(difference / trees.norm(expected)) < 1e-4
