"""What the comparisons share: options, turns, medians, and a result that says where it comes from."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm import undisturbed

from fathom.config import SHAPES, cache_dir

Sample = tuple[float, float]  # tokens per second, share of the processors that others took
ROOT = Path(__file__).resolve().parent.parent


def options(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a comparison with a peer."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--bits", type=int, choices=(16, 8, 4), required=True, help="of our weights")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", type=Path, default=cache_dir() / "peers" / "models", help="where models are kept")
    parser.add_argument("--cases", help="some of the cases, with commas (default: all)")
    parser.add_argument("--peer-only", action="store_true", help="leave out our side")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<name>_<shape>_<bits>.json")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for a calm machine, per sample")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    return parser


def compare(
    name: str, sides: Mapping[str, Mapping[str, Callable[[], float]]], facts: Mapping[str, Any],
    args: argparse.Namespace,
) -> None:  # fmt: skip
    """Measure each case on each side, in turns, and write the result."""
    kept = {side: cases for side, cases in sides.items() if not (args.peer_only and side == "ours")}
    known = [case for case in list(kept.values())[-1] if all(case in cases for cases in kept.values())]
    report = machine() | facts | {
        "shape": args.shape, "bits": args.bits, "threads": 2, "repeats": args.repeats, "unit": "tokens per second",
        "note": args.note, "cases": {},
    }  # fmt: skip
    for case in args.cases.split(",") if args.cases else known:
        row = compared(turns({side: cases[case] for side, cases in kept.items()}, args.repeats, args.patience))
        report["cases"][case] = row
        print(case, {key: value["median"] for key, value in row.items()}, file=sys.stderr)
    file = f"{name}_{args.shape}_{args.bits}{'_peer_only' if args.peer_only else ''}.json"
    write(report, args.out or ROOT / "benchmarks" / "results" / file)


def turns(sides: Mapping[str, Callable[[], float]], repeats: int, patience_s: float) -> dict[str, list[Sample]]:
    """Each side measured `repeats` times, one after the other, so that a slower hour falls on all of them."""
    taken: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            taken[name].append(undisturbed(sides[name], patience_s))
    return taken


def compared(taken: Mapping[str, list[Sample]]) -> dict[str, Any]:
    """Median and range of each side; `ours` over each other: the ratio of medians, and the range turn by turn."""
    rates = {name: [round(rate, 3) for rate, _ in samples] for name, samples in taken.items()}
    row: dict[str, Any] = {
        name: {
            "median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples,
            "others_share": [round(share, 3) for _, share in taken[name]],
        }
        for name, samples in rates.items()
    }  # fmt: skip
    for name in rates.keys() - {"ours"} if "ours" in rates else ():
        ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
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
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_named(sys.argv[1:])]),
    }  # fmt: skip


def _named(arguments: Sequence[str]) -> list[str]:
    """Folders of this machine by what they are."""
    return [Path(text).name if "/" in text else text for text in arguments]


def write(report: Mapping[str, Any], out: Path | None) -> None:
    """Print a result, and keep it."""
    text = json.dumps(report, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
