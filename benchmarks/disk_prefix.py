"""What is a prefix cache on disk worth? Time to the first token of a prompt whose pages lie there, or are computed.

    python benchmarks/disk_prefix.py nano --bits 8
    fathom init small models/small --random && python benchmarks/disk_prefix.py models/small --bits 8

Three sides, in turns, each with an engine whose memory is empty: `compute` has no folder; `warm` has one whose files
are still in the system's memory, as after a restart of the server alone; `cold` has them dropped from there before, so
that the disk is read. Opening the engine is not timed, finding, reading and checking the pages is. `disk_ms` and
`memory_ms` say what reading the same bytes takes by itself, `digest_ms` what SHA-256 takes over them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from calm import undisturbed
from measure import ROOT, compared, machine, write

from fathom.batching.request import Request, SamplingParams
from fathom.cost import cache_bytes_per_token
from fathom.engine import Engine, EngineConfig, load_model
from fathom.model import Model

PROMPTS = (256, 1024, 2048)
ONE = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


def engine(model: Model, tokens: int, folder: Path | None) -> Engine:
    """One with an empty memory."""
    pages = 2 * tokens // EngineConfig.page_tokens + 8
    config = EngineConfig(num_pages=pages, spec="off", cache_dir=None if folder is None else str(folder))
    return Engine(model, config=config)


def first_token_s(worker: Engine, prompt: tuple[int, ...]) -> tuple[float, int, int]:
    """Seconds until the first token, the token, and how much of the prompt was read from disk."""
    started = perf_counter()
    worker.add(Request("r", prompt, ONE))
    output = worker.step()
    while not output or not output[-1].token_ids:
        output = worker.step()
    return perf_counter() - started, output[-1].token_ids[0], output[-1].disk_tokens


def drop(folder: Path) -> None:
    """Have the system forget what it holds of these files, so that they are read from the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(model: Model, tokens: int, repeats: int, patience_s: float) -> dict[str, Any]:
    """One length of prompt on all sides."""
    random, vocabulary = Random(tokens), model.config.vocab_size
    prompt = tuple(random.randrange(vocabulary) for _ in range(tokens))
    folder = Path(tempfile.mkdtemp(prefix="fathom-disk-prefix-"))
    first = engine(model, tokens, folder)
    _, token, _ = first_token_s(first, prompt)
    while first.save_pages():
        pass
    first.runner.spill.close()
    size = sum(file.stat().st_size for file in folder.rglob("pages"))

    def sample(side: str) -> float:
        if side == "cold":
            drop(folder)
        worker = engine(model, tokens, None if side == "compute" else folder)
        seconds, found, from_disk = first_token_s(worker, prompt)
        if found != token or (from_disk == 0) != (side == "compute"):
            sys.exit(f"{side}: token {found} after {from_disk} tokens from disk, not {token}: report this")
        if worker.runner.spill is not None:
            worker.runner.spill.close()
        return seconds

    taken: dict[str, list[tuple[float, float]]] = {"compute": [], "warm": [], "cold": []}
    for number in range(repeats + 1):
        for side in list(taken) if number % 2 == 0 else reversed(list(taken)):
            value = undisturbed(lambda side=side: sample(side), patience_s)
            if number:  # the first turn is a warm-up
                taken[side].append(value)
    row = compared({side: [(1e3 * seconds, share) for seconds, share in each] for side, each in taken.items()})
    raw = reading(folder)
    shutil.rmtree(folder)
    times = {side: row[side]["median"] for side in taken}
    return row | {
        "prompt_tokens": tokens, "bytes": size, "ratio_warm": round(times["compute"] / times["warm"], 2),
        "ratio_cold": round(times["compute"] / times["cold"], 2), **raw,
    }  # fmt: skip


def reading(folder: Path) -> dict[str, float]:
    """What the bytes cost by themselves [ms]: from the disk, from the system's memory, and their digest."""
    (file,) = folder.rglob("pages")

    def read_ms(forget: bool) -> float:
        if forget:
            drop(folder)
        started = perf_counter()
        file.read_bytes()
        return 1e3 * (perf_counter() - started)

    content = file.read_bytes()
    started = perf_counter()
    hashlib.sha256(content).digest()
    digest_ms = 1e3 * (perf_counter() - started)
    return {
        "disk_ms": round(statistics.median(read_ms(True) for _ in range(5)), 3),
        "memory_ms": round(statistics.median(read_ms(False) for _ in range(5)), 3),
        "digest_ms": round(digest_ms, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="nano, or a model's directory")
    parser.add_argument("--bits", default="8", choices=("32", "16", "8", "4"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a calm machine, per sample")
    parser.add_argument("--prompts", help=f"lengths, with commas (default: {','.join(map(str, PROMPTS))})")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/disk_prefix_<model>.json")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    args = parser.parse_args()
    model = load_model(args.model, args.bits, threads=2)
    name = Path(args.model).name
    wanted = tuple(map(int, args.prompts.split(","))) if args.prompts else PROMPTS
    lengths = [tokens for tokens in wanted if tokens < model.config.max_position_embeddings]
    report = machine() | {
        "model": name, "bits": int(args.bits), "threads": 2, "repeats": args.repeats, "note": args.note,
        "unit": "ms to the first token", "page_tokens": EngineConfig.page_tokens,
        "bytes_per_token": cache_bytes_per_token(model.config, model.compute_dtype.itemsize),
        "rows": [measure(model, tokens, args.repeats, args.patience) for tokens in lengths],
    }  # fmt: skip
    write(report, args.out or ROOT / "benchmarks" / "results" / f"disk_prefix_{name}.json")


if __name__ == "__main__":
    main()
