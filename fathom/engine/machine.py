"""Where a measurement was taken: what a number is worth nothing without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from fathom import __version__
from fathom.model import Model, PackedTransformer
from fathom.ops.packing import Kind

HERE = Path(__file__).resolve().parent


def machine(model: Model) -> dict[str, Any]:
    """Processor, cores, threads, kernels, versions and commit, as they go into a result's JSON."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads(model),
        "kernels": kernels(model),
        "version": __version__,
        "torch": torch.__version__,
        "commit": commit(),
    }


def threads(model: Model) -> int:
    """Threads that compute it."""
    return model.kernels.threads if isinstance(model, PackedTransformer) else torch.get_num_threads()


def kind(model: Model) -> Kind:
    """Of its weights; plain torch unpacks them all to f32."""
    return model.kind if isinstance(model, PackedTransformer) else "f32"


def kernels(model: Model) -> str:
    """Who computes it: a variant of the native kernels, or the reference."""
    return model.kernels.name if isinstance(model, PackedTransformer) else "reference"


class Neighbours:
    """What others took of the processors while this was open: `share`, 0 to 1; 0 too where nobody can tell.

    Two threads that wait for each other lose more than half to one neighbour, so it belongs to every measurement.
    """

    share = 0.0

    def __enter__(self) -> Neighbours:
        self._began, self._others_s = perf_counter(), _others_s()
        return self

    def __exit__(self, *_: object) -> None:
        spent_s, others_s = perf_counter() - self._began, _others_s() - self._others_s
        self.share = min(1.0, max(0.0, others_s / spent_s / (os.cpu_count() or 1)))


def _others_s() -> float:
    """Processor time spent so far on anything but this process, a host's other guests included [s]."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return -process_time()  # not Linux: the difference is then below 0
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - process_time()


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # not Linux
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def commit() -> str | None:
    """The commit of the source tree this package runs from, with "+changes" if files differ; None outside of git."""
    git = shutil.which("git")
    if git is None:
        return None
    here = [git, "-C", str(HERE)]
    head = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run([*here, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
