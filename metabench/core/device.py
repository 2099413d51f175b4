"""This process's device: its name, its memory's peak and limits, what is copied to it, how it multiplies."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from metabench.core import MetabenchError


def pick(name: str) -> torch.device:
    """Turn a device's name into a device that this machine has; auto takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MetabenchError(f"`device` {name}: not on this machine ({reason}); use cpu or auto") from None
    return device


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def cap(share: float) -> None:
    """Keep this process to its share of a GPU's memory, so that trials beside each other cannot starve."""
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def reset_peak(device: torch.device | str) -> None:
    """Start measuring anew, where the system can."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device | str) -> int:
    """Return the most bytes held since the last reset: of the device, or of this process on a CPU."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def to_device_async(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor in main memory to a device, without waiting for what the device still has to do."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28), "M_MMAP_THRESHOLD": (-3, 2**30)}


def raise_malloc_thresholds() -> None:
    """Let glibc keep freed memory instead of handing every large tensor back to the system.

    A step on a CPU allocates the same tensors again and again; faulting their pages in anew takes longer than
    the arithmetic. What earlier work in this process left behind is handed back first, once. Without glibc
    this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
        for parameter, value in MALLOPT.values():
            libc.mallopt(parameter, value)


def is_exact() -> bool:
    """Say whether products keep float32's precision, as they do unless torch is told otherwise."""
    return torch.backends.cuda.matmul.fp32_precision != "tf32"


def match_cudnn_tf32() -> None:
    """Let convolutions on a GPU keep float32's precision where matrix products do.

    torch rounds the factors of a convolution to tf32's 11 bits by default. A meta-gradient through several
    inner steps comes out tens of per cent away then, as pixels take other ways through ReLU and pooling.
    torch.set_float32_matmul_precision("high") allows tf32 in both.
    """
    if is_exact():
        torch.backends.cudnn.allow_tf32 = False
