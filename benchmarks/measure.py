"""What the comparisons share: turns, medians, and a result that says where it comes from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each side measured `repeats` times, one after the other, so that what else the machine does falls on all."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            taken[name].append(round(sides[name](), 3))
    return taken


def spread(samples: list[float]) -> dict[str, Any]:
    """Median and range of some samples, and the samples."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def compared(taken: Mapping[str, list[float]]) -> dict[str, Any]:
    """The spread of each side; `ours` over each other: the ratio of medians, and the range of ratios turn by turn."""
    row: dict[str, Any] = {name: spread(samples) for name, samples in taken.items()}
    for name in taken.keys() - {"ours"} if "ours" in taken else ():
        ratios = [a / b for a, b in zip(taken["ours"], taken[name], strict=True)]
        row[f"ratio_to_{name}"] = {
            "median": round(row["ours"]["median"] / row[name]["median"], 3),
            "min": round(min(ratios), 3), "max": round(max(ratios), 3),
        }  # fmt: skip
    return row


def machine() -> dict[str, Any]:
    """Where and from what a result was taken."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return {
        "processor": model, "instructions": [flag for flag in wanted if flag in flags], "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2), "commit": commit + ("+changes" if changed else ""),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }  # fmt: skip


def write(report: Mapping[str, Any], out: Path | None) -> None:
    """Print a result, and keep it."""
    text = json.dumps(report, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
