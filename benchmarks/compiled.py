"""What Triton and NVIDIA's assembler make of the kernels of a meta-gradient; neither needs a GPU.

Registers, stack and shared memory of each form of each kernel, and whether its products are done by matrix
units. A stack of more than nothing means that registers did not suffice.

    python benchmarks/compiled.py --setting omni --arch 90
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import floor
import torch
import triton
from contest import SETTINGS
from torch import Tensor
from triton.backends.compiler import GPUTarget

from metabench.nets.kernels.gpu import rows

TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.uint8: "u8"}


class Form(NamedTuple):
    """A kernel for arguments of some types, constants, and multiples of 16."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, Any], ...]
    multiples: tuple[int, ...]
    warps: int


class Compiled(NamedTuple):
    """What came out of a form."""

    kernel: str
    constants: list[Any]
    launches: int
    registers: int
    stack: int
    shared: int
    matrix_products: int
    wide_loads: int


def launched(setting: str, order: str) -> dict[Form, int]:
    """Return the forms that a meta-gradient launches, and how often."""
    counts: dict[Form, int] = {}

    def launch(self: Any, kernel: Any, grid: Any, *arguments: Any, **constants: Any) -> None:
        warps = constants.pop("num_warps", rows.WARPS)
        form = form_of(kernel, [*arguments, *constants.values()], warps)
        counts[form] = counts.get(form, 0) + 1

    with mock.patch.object(floor.Counter, "launch", launch):
        floor.count(setting, order)
    return counts


def most_launched(forms: dict[Form, int], n_forms: int) -> dict[Form, int]:
    """Return so many forms of each kernel."""
    ranked = sorted(forms.items(), key=lambda item: -item[1])
    of_kernel = {one.kernel: [item for item in ranked if item[0].kernel is one.kernel] for one in forms}
    return dict(item for items in of_kernel.values() for item in items[:n_forms])


def form_of(kernel: Any, values: list[Any], warps: int) -> Form:
    """Tell types, constants and multiples apart as Triton does."""
    signature, constants, multiples = [], [], []
    for place, (parameter, value) in enumerate(zip(kernel.params, values, strict=True)):
        is_size = parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not is_size):
            signature.append((parameter.name, "constexpr"))
            constants.append((place, value))
            continue
        is_tensor = isinstance(value, Tensor)
        signature.append((parameter.name, f"*{TYPES[value.dtype]}" if is_tensor else "i32"))
        if is_tensor or (value % 16 == 0 and not is_size):
            multiples.append(place)
    return Form(kernel, tuple(signature), tuple(constants), tuple(multiples), warps)


def compiled(form: Form, launches: int, arch: int) -> Compiled:
    """Compile one form for a compute capability."""
    source = triton.compiler.ASTSource(
        fn=form.kernel,
        signature=dict(form.signature),
        constexprs={(place,): value for place, value in form.constants},
        attrs={(place,): [["tt.divisibility", 16]] for place in form.multiples},
    )
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": form.warps})
    registers, stack = resources(made.asm["cubin"])
    ptx = made.asm["ptx"]
    constants = [value for _, value in form.constants]
    counts = (len(re.findall(r"mma\S*\.sync", ptx)), len(re.findall(r"ld\.global\S*\.v4|cp\.async\.cg", ptx)))
    return Compiled(
        form.kernel.__name__, constants, launches, registers, stack, made.metadata.shared, *counts
    )


def resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers and bytes of stack of a thread."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    if match is None:
        raise SystemExit(f"{tool} does not tell registers: {listing}")
    return int(match[1]), int(match[2])


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, default="omni")
    parser.add_argument("--order", choices=("second", "first"), default="second")
    parser.add_argument(
        "--arch",
        type=int,
        choices=(75, 80, 86, 89, 90, 100, 120),
        default=90,
        help="compute capability, 90 for an H100 or H200",
    )
    parser.add_argument("--forms", type=int, default=1000, help="of each kernel, those launched most often")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    forms = most_launched(launched(options.setting, options.order), options.forms)
    results = [compiled(form, n, options.arch) for form, n in forms.items()]
    if options.json:
        print(json.dumps([one._asdict() for one in results], indent=1))
        return
    print("kernel                  launches registers stack shared products wide loads  constants")
    for one in sorted(results):
        numbers = f"{one.launches:8} {one.registers:9} {one.stack:5} {one.shared:6} {one.matrix_products:8}"
        print(f"{one.kernel:24}{numbers} {one.wide_loads:10}  {one.constants}")


if __name__ == "__main__":
    main()
