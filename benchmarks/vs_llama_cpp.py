"""Fathom against llama.cpp on the same weights, two threads each, turn by turn.

    python benchmarks/vs_llama_cpp.py small --bits 8 [--repeats 7] [--models DIR] [--cases decode_short,clients_16]

Makes the random model, its GGUF file (llama.cpp's own llama-quantize: Q8_0 for 8 bits, Q4_0 for 4) and llama.cpp itself
where they are missing. Writes benchmarks/results/vs_llama_cpp_<shape>_<bits>.json: tokens per second of each, ratios.

    decode_short   one sequence, 128 tokens after an empty context
    decode_1024    one sequence, 64 tokens after 1,024 of context
    prefill_512    a prompt of 512 tokens
    batch_16       16 sequences decoding at once, 64 tokens each after 128 of context
    clients_16     16 HTTP clients at once, a prompt of 128 tokens and 64 generated, each server with room for 16
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clients import Load, serving
from measure import ROOT, compared, machine, turns, write
from peers import LlamaCpp, ensure

from fathom.config import SHAPES, cache_dir

THREADS = 2
QUANTISED = {16: "BF16", 8: "Q8_0", 4: "Q4_0"}
LOAD = Load(clients=16, prompt_tokens=128, max_tokens=64)
Side = Callable[[], float]


def call(*command: str | Path) -> str:
    """The standard output of a command; ends the program with its complaint if it fails."""
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def fathom(*arguments: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "fathom", *map(str, arguments))


@dataclass(frozen=True)
class Ours:
    """Fathom, through its command line."""

    model: Path
    bits: int

    def bench(self, mode: str, **options: int) -> float:
        """Tokens per second of one `fathom bench`."""
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        common = ("--model", self.model, "--bits", self.bits, "--threads", THREADS, "--repeats", 1, "--json")
        return float(json.loads(call(*fathom("bench", mode, *common, *flags)))["tokens_per_s"]["median"])

    def cases(self, vocabulary: int) -> dict[str, Side]:
        serve = fathom(
            "serve", "--model", self.model, "--bits", self.bits, "--threads", THREADS, "--max-sequences", LOAD.clients,
            "--no-browser", "--port", "{port}",
        )  # fmt: skip
        return {
            "decode_short": partial(self.bench, "decode", context=0, tokens=128),
            "decode_1024": partial(self.bench, "decode", context=1024, tokens=64),
            "prefill_512": partial(self.bench, "prefill", context=512),
            "batch_16": partial(self.bench, "batch", batch=16, context=128, tokens=64),
            "clients_16": partial(serving, serve, LOAD, vocabulary),
        }


@dataclass(frozen=True)
class Theirs:
    """llama.cpp, through its own benchmarks and its server."""

    peer: LlamaCpp
    file: Path

    def bench(self, *options: str) -> float:
        threads = ("-t", str(THREADS), "-r", "1", "-o", "jsonl")
        line = call(self.peer.tool("llama-bench"), "-m", self.file, *threads, *options)
        return float(json.loads(line.splitlines()[-1])["avg_ts"])

    def batch(self) -> float:
        lengths = ("-npp", "128", "-ntg", "64", "-npl", "16", "-c", str(16 * 192), "--output-format", "jsonl")
        threads = ("-t", str(THREADS), "-tb", str(THREADS))
        lines = call(self.peer.tool("llama-batched-bench"), "-m", self.file, *threads, *lengths).splitlines()
        return float(json.loads(next(line for line in lines if line.startswith("{")))["speed_tg"])

    def cases(self, vocabulary: int) -> dict[str, Side]:
        room = LOAD.clients * (LOAD.prompt_tokens + LOAD.max_tokens + 16)
        serve = (
            self.peer.tool("llama-server"), "-m", str(self.file), "-t", str(THREADS), "-tb", str(THREADS),
            "-np", str(LOAD.clients), "-c", str(room), "--port", "{port}",
        )  # fmt: skip
        return {
            "decode_short": partial(self.bench, "-p", "0", "-n", "128"),
            "decode_1024": partial(self.bench, "-p", "0", "-n", "64", "-d", "1024"),
            "prefill_512": partial(self.bench, "-p", "512", "-n", "0"),
            "batch_16": self.batch,
            "clients_16": partial(serving, serve, LOAD, vocabulary),
        }


def prepared(shape: str, bits: int, folder: Path, peer: LlamaCpp) -> tuple[Path, Path]:
    """The model's directory and its GGUF file, made where they are missing."""
    model, plain, file = folder / shape, folder / f"{shape}-bf16.gguf", folder / f"{shape}-{QUANTISED[bits]}.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    if not model.is_dir():
        call(*fathom("init", shape, model, "--random", "--seed", 0))
    if not file.is_file() and not plain.is_file():
        call(*fathom("convert", model, "--gguf", plain))
    if bits == 16:
        return model, plain
    if not file.is_file():
        call(peer.tool("llama-quantize"), plain, file, QUANTISED[bits], THREADS)
    return model, file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--bits", type=int, choices=QUANTISED, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", type=Path, default=cache_dir() / "peers" / "models", help="where models are kept")
    parser.add_argument("--cases", help="some of the cases, with commas (default: all)")
    parser.add_argument("--peer-only", action="store_true", help="measure llama.cpp alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    args = parser.parse_args()
    peer = ensure()
    model, file = prepared(args.shape, args.bits, args.models, peer)
    vocabulary = SHAPES[args.shape].vocab_size
    sides = {} if args.peer_only else {"ours": Ours(model, args.bits).cases(vocabulary)}
    sides["llama_cpp"] = Theirs(peer, file).cases(vocabulary)
    report = machine() | {
        "shape": args.shape, "bits": args.bits, "peer": peer.release, "gguf_bytes": file.stat().st_size,
        "threads": THREADS, "repeats": args.repeats, "unit": "tokens per second", "note": args.note, "cases": {},
    }  # fmt: skip
    for case in args.cases.split(",") if args.cases else sides["llama_cpp"]:
        taken = turns({name: cases[case] for name, cases in sides.items()}, args.repeats)
        report["cases"][case] = compared(taken)
        print(case, {name: spread["median"] for name, spread in report["cases"][case].items()}, file=sys.stderr)
    name = f"vs_llama_cpp_{args.shape}_{args.bits}{'_peer_only' if args.peer_only else ''}.json"
    write(report, args.out or ROOT / "benchmarks" / "results" / name)


if __name__ == "__main__":
    main()
