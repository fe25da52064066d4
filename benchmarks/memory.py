"""Does a model take the memory that `fathom info` says? Peak resident memory of one reply, in a process of its own.

    python benchmarks/memory.py nano models/small --bits 8 --out benchmarks/results/memory.json

Each model is asked for `--tokens` tokens after a prompt of `--prompt` random ids by `fathom generate`, with all its
defaults; what is said is `total_bytes` of `fathom info MODEL --bits B --cache-tokens N`. `imports_bytes` is the peak of
a process that has imported all that a reply needs, kernels included, and has no model: what `process_bytes` says
without the engine's own bookkeeping. Pages of mapped files count where they were touched.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from measure import ROOT, machine, write
from ours import call, fathom

BAR = 0.03
IMPORTS = "import fathom.cli.local, fathom.engine, fathom.serve.stream, fathom.serve.vocabulary, fathom.serve.defaults"
LIBRARY = "from fathom.ops.dispatch import library; library()"
RANDOM_IDS = range(20, 300)  # in the vocabulary of every model here


def peak_bytes(*command: str) -> int:
    """The most memory that a command had resident at once [B]."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compared(model: str, bits: int, prompt: int, tokens: int, repeats: int) -> dict[str, Any]:
    """What is said of a model beside what it takes."""
    asked = ("--bits", bits, "--cache-tokens", prompt + tokens, "--json")
    said = json.loads(call(*fathom("info", model, *asked)))["memory"]
    ids = ",".join(map(str, Random(0).choices(RANDOM_IDS, k=prompt)))
    options = ("--bits", bits, "--token-ids", ids, "--max-tokens", tokens, "--temperature", 0)
    peaks = [peak_bytes(*fathom("generate", "--model", model, *options)) for _ in range(repeats)]
    apart = median(peaks) / said["total_bytes"] - 1
    row = {"model": model, "bits": bits, "peak_bytes": median(peaks), "samples": peaks}
    return row | {"apart": round(apart, 4), "meets": abs(apart) <= BAR, "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="nano, or models' directories")
    parser.add_argument("--bits", type=int, choices=(32, 16, 8, 4), default=8)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for model in args.models:
        rows.append(compared(model, args.bits, args.prompt, args.tokens, args.repeats))
        print({key: value for key, value in rows[-1].items() if key != "said"}, file=sys.stderr)
    imports = [peak_bytes(sys.executable, "-c", f"{IMPORTS}\n{LIBRARY}") for _ in range(args.repeats)]
    facts = {"prompt": args.prompt, "tokens": args.tokens, "bar": BAR, "imports_bytes": median(imports)}
    write(machine() | facts | {"rows": rows}, args.out)
    sys.exit(0 if all(row["meets"] for row in rows) else 1)


if __name__ == "__main__":
    main()
