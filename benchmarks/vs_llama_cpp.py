"""Fathom against llama.cpp on the same weights, two threads each, turn by turn.

    python benchmarks/vs_llama_cpp.py small --bits 8 [--repeats 7] [--models DIR] [--cases decode_short,clients_16]

Makes the random model, its GGUF file with the very same levels (Q8_0 for 8 bits; for 4 Q4_0, and Q8_0 where we keep 8)
and llama.cpp itself where they are missing. Writes benchmarks/results/vs_llama_cpp_<shape>_<bits>.json: tokens per
second of each, ratios.

    decode_short   one sequence, 128 tokens after an empty context
    decode_1024    one sequence, 64 tokens after 1,024 of context
    prefill_512    a prompt of 512 tokens, nothing generated
    batch_16       16 sequences decoding at once, 64 tokens each after 128 of context
    clients_16     16 HTTP clients at once, a prompt of 128 tokens and 64 generated, each server with room for 16
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clients import serving
from measure import compare, options
from ours import LOAD, THREADS, Ours, Side, call, fathom, made
from peers import LlamaCpp, ensure

from fathom.config import SHAPES

FILES = {16: "BF16", 8: "Q8_0", 4: "Q4_0, some matrices Q8_0"}


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


def exported(model: Path) -> Path:
    """The GGUF file of a packed model, made where it is missing."""
    file = model.with_name(f"{model.name}.gguf")
    if not file.is_file():
        call(*fathom("convert", model, "--gguf", file))
    return file


def main() -> None:
    args = options(__doc__).parse_args()
    peer, model, vocabulary = ensure(), made(args.shape, args.models, args.bits), SHAPES[args.shape].vocab_size
    file = exported(model)
    ours, theirs = Ours(model), Theirs(peer, file)
    sides = {"ours": ours.cases(vocabulary), "llama_cpp": theirs.cases(vocabulary)}
    facts = {"peer": peer.release, "gguf": FILES[args.bits], "gguf_bytes": file.stat().st_size}
    compare("vs_llama_cpp", sides, facts, args)


if __name__ == "__main__":
    main()
