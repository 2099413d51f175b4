"""What a meta-gradient must cost on a GPU: kernels, operations and bytes, counted without one.

Runs a meta-gradient on torch's `meta` device, where tensors have shapes and no values. Bytes are those that
every step of the computation (a layer's convolution with its moments and pooling, its normalisation with
ReLU, their gradients, and each of torch's operations) must read and write once. The floor is the larger of
operations over the matrix units' speed and bytes over the memory's; on a CUDA device both are measured.

    python benchmarks/floor.py --setting omni --order second
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from contest import SETTINGS, Contest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from metabench.nets.kernels.gpu import rows

aten = torch.ops.aten

H200 = {"operations": 394e12, "bytes": 4.3e12}
"""Each second: tf32 products, half of the bf16 ones measured, and bytes read and written by a copy."""

PRODUCTS = {"float32": 3, "tf32": 1}
"""Of tf32 numbers, for one of these."""

LAUNCH = 2e-6
"""Seconds between the kernels of a CUDA graph."""


class Cost(NamedTuple):
    """Of one kind of step."""

    calls: int = 0
    kernels: int = 0
    operations: int = 0  # multiplications and additions
    bytes: int = 0


class Counter(TorchDispatchMode):
    """Counts what all operations under it cost, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = collections.defaultdict(Cost)
        self.launched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.launched
        result = func(*args, **(kwargs or {}))
        if not is_view(func):
            is_ours = func.namespace == "metabench"
            kernels = self.launched - before if is_ours else 1
            inputs, returned = (
                [t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result)
            )
            n_bytes = sum(t.numel() * t.element_size() for t in (*inputs, *returned))
            operations = products(func, args, result)
            old = self.costs[func.name()]
            self.costs[func.name()] = Cost(
                *map(sum, zip(old, (1, kernels, operations, n_bytes), strict=True))
            )
        return result

    def launch(self, kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        """Count a kernel of ours, in place of starting it."""
        self.launched += 1

    @property
    def total(self) -> Cost:
        """Return the sum over all operations."""
        return Cost(*map(sum, zip(*self.costs.values(), strict=True)))


def is_view(func: Any) -> bool:
    """Say whether an operation moves nothing: it looks at memory in another way, or takes some."""
    returned = func._schema.returns
    if func.overloadpacket in (aten._unsafe_view, aten.empty, aten.empty_strided, aten.scalar_tensor):
        return True
    return bool(returned) and all(one.alias_info and not one.alias_info.is_write for one in returned)


def products(func: Any, args: Any, result: Any) -> int:
    """Count the operations of convolutions and matrix products."""
    name = func.name().removeprefix("metabench::")
    if name in CONVOLUTIONS:
        return CONVOLUTIONS[name](args, result)
    counted = flop_registry.get(func.overloadpacket)
    return int(counted(*args, out_val=result)) if counted is not None else 0


def _one(x: Tensor, weight: Tensor) -> int:
    return 2 * len(x) * x.shape[2] * x.shape[3] * weight.numel()


def _of_step_grad_grad(args: Any, _: Any) -> int:
    h_weight, h_x, *_, x, weight, _, _, _, _, needs_x = args
    n = (h_weight is not None) * (1 + needs_x) + 2 * (h_x is not None)
    return n * _one(x, weight)


CONVOLUTIONS: dict[str, Callable[[Any, Any], int]] = {
    "step": lambda args, _: _one(*args[:2]),
    "step_grad": lambda args, _: (1 + args[9]) * _one(*args[3:5]),
    "step_grad_grad": _of_step_grad_grad,
}


@contextmanager
def counting() -> Iterator[Counter]:
    """Count what happens on the meta device."""
    counter = Counter()
    with mock.patch.object(rows, "launch", counter.launch), counter:
        yield counter


def count(setting: str, order: str, learner: str = "maml", steps: int = 5) -> Counter:
    """Count one meta-gradient of the benchmark of speed."""
    described = {"setting": setting, "order": order, "learner": learner, "steps": steps, "tasks": None}
    contest = Contest(
        argparse.Namespace(**described, what="train", peers="none", device="meta", precision="float32"), 1
    )
    call = contest.calls["ours"][0]
    call()  # records what later calls replay
    with counting() as counter:
        call()
    return counter


def ceilings(device: str) -> dict[str, float]:
    """Measure products of large matrices, as torch's convolutions take them, and a large copy."""
    a, b = (torch.randn(8192, 8192, device=device) for _ in range(2))
    source = torch.randn(1 << 30, device=device)
    target = torch.empty_like(source)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    rates = {
        "operations": 2 * 8192**3 / fastest(lambda: torch.mm(a, b)),
        "bytes": 2 * source.nbytes / fastest(lambda: target.copy_(source)),
    }
    torch.set_float32_matmul_precision(before)
    return rates


def fastest(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of ten calls."""
    taken = []
    for _ in range(10):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, default="omni")
    parser.add_argument("--order", choices=("second", "first"), default="second")
    parser.add_argument("--learner", choices=("maml", "multi_step", "anil", "protonet"), default="maml")
    parser.add_argument("--precision", choices=PRODUCTS, default="float32", help="of products")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    counter = count(options.setting, options.order, options.learner)
    rates = ceilings("cuda") if torch.cuda.is_available() else H200
    total, n_tasks = counter.total, SETTINGS[options.setting].tasks
    by = {
        "operations": PRODUCTS[options.precision] * total.operations / rates["operations"],
        "bytes": total.bytes / rates["bytes"],
    }
    floor = max(by.values())
    result = {
        "setting": options.setting,
        "order": options.order,
        "learner": options.learner,
        "precision": options.precision,
        "rates": rates,
        "measured": torch.cuda.is_available(),
        **total._asdict(),
        "floor_seconds": floor,
        "floor_tasks_per_second": n_tasks / floor,
        "launching_seconds": LAUNCH * total.kernels,
        "by_step": {name: cost._asdict() for name, cost in counter.costs.items()},
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    dear = sorted(counter.costs.items(), key=lambda item: -item[1].bytes)
    for name, cost in (*dear[:14], ("all", total)):
        giga = f"{cost.operations / 1e9:8.1f} GFLOP {cost.bytes / 1e9:8.3f} GB"
        print(f"{name:32} {cost.calls:5} calls {cost.kernels:5} kernels {giga}")
    source = "measured" if result["measured"] else "of an H200, not measured here"
    print(f"{rates['operations'] / 1e12:.0f} TFLOP/s of tf32 and {rates['bytes'] / 1e12:.1f} TB/s, {source}")
    print(", ".join(f"{name}: {1e3 * value:.2f} ms" for name, value in by.items()))
    print(f"floor {1e3 * floor:.2f} ms, {math.floor(n_tasks / floor)} tasks/s; {total.kernels} kernels")


if __name__ == "__main__":
    main()
