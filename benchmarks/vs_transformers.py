"""Fathom against transformers on the same checkpoint, two threads each, turn by turn.

    python benchmarks/vs_transformers.py small --bits 8 [--dtypes bf16,fp32] [--repeats 7] [--models DIR]

The peer is measured as it is best: each case is tried once in every type of --dtypes with every back-end for experts,
and the fastest of them meets fathom. Its steps are called one by one, without the overhead of `generate`. Writes
benchmarks/results/vs_transformers_<shape>_<bits>.json. The cases are those of vs_llama_cpp.py, without clients.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from measure import compare, options
from ours import THREADS, Ours, made
from peers import pinned

from fathom.config import SHAPES

BACKENDS = ("eager", "batched_mm", "grouped_mm")
CASES = {  # sequences, context, tokens generated
    "decode_short": (1, 1, 128), "decode_1024": (1, 1024, 64), "prefill_512": (1, 512, 0), "batch_16": (16, 128, 64),
}  # fmt: skip


class Theirs:
    """transformers in a process of its own, which holds the model and waits, asleep, for the next case."""

    def __init__(self, model: Path, dtype: str) -> None:
        command = (sys.executable, __file__, "--serve", str(model), dtype)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, case: str, backend: str) -> float:
        """Tokens per second; 0 where the back-end cannot do it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(case, backend, file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            sys.exit("transformers ended; its message is above")
        return float(json.loads(line))

    def stop(self) -> None:
        """End the process."""
        self.process.communicate("")


def best(model: Path, dtypes: list[str], cases: list[str]) -> dict[str, tuple[str, str]]:
    """The fastest type and back-end of each case."""
    found: dict[str, list[tuple[float, str, str]]] = {case: [] for case in cases}
    for dtype in dtypes:
        peer = Theirs(model, dtype)
        for case in cases:
            found[case] += [(peer(case, backend), dtype, backend) for backend in BACKENDS]
            print(case, dtype, found[case][-len(BACKENDS) :], file=sys.stderr)
        peer.stop()
    return {case: max(tried)[1:] for case, tried in found.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--dtypes", default="bf16,fp32", help="what the peer is tried in (default: %(default)s)")
    args = parser.parse_args()
    model, cases = made(args.shape, args.models), args.cases.split(",") if args.cases else list(CASES)
    chosen = best(model, args.dtypes.split(","), cases)
    running = {dtype: Theirs(model, dtype) for dtype, _ in set(chosen.values())}
    theirs = {case: partial(running[dtype], case, backend) for case, (dtype, backend) in chosen.items()}
    ours = Ours(made(args.shape, args.models, args.bits)).cases(SHAPES[args.shape].vocab_size)
    sides = {"ours": ours, "transformers": theirs}
    facts = {"peer": f"transformers {pinned('transformers')}, torch {pinned('torch')}", "chosen": chosen}
    compare("vs_transformers", sides, facts, args)
    for peer in running.values():
        peer.stop()


# --- the peer's process ----------------------------------------------------------------------------------------------


def serve(directory: str, dtype: str) -> None:
    """Read cases from standard input, write their tokens per second."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=kinds[dtype]).eval()
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        for line in sys.stdin:
            case, backend = line.split()
            try:
                model.set_experts_implementation(backend)
                timed(model, 1, 4, 2)
                rate = timed(model, *CASES[case])
            except (RuntimeError, ValueError, NotImplementedError) as error:
                print(f"{case} {backend}: {error}", file=sys.stderr)
                rate = 0.0
            print(json.dumps(rate), flush=True)


def timed(model: Any, sequences: int, context: int, tokens: int) -> float:
    """Tokens per second of reading the context, or where tokens are asked for, of generating those after it."""
    import torch

    ids = torch.randint(20, model.config.vocab_size, (sequences, context))
    began = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    if not tokens:
        return sequences * context / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(tokens):
        ids = out.logits[:, -1:].argmax(-1)
        out = model(ids, past_key_values=out.past_key_values, use_cache=True)
    return sequences * tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
