"""Where a measurement was taken: what a number is worth nothing without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from fathom import __version__
from fathom.ops.speed import native_name

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """Processor, cores, threads, kernels, versions and commit, as they go into a result's JSON."""
    native = native_name()
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": native.split()[0] if native else "reference",
        "version": __version__,
        "torch": torch.__version__,
        "commit": commit(),
    }


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
