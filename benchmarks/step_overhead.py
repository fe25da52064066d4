"""What does a step cost beside the model: scheduler, tensors, sampler, guesses?

    python benchmarks/step_overhead.py [--steps 1000] [--out benchmarks/results/step_overhead.json]

The model is two constants, so that what is left is ours. One thread; a step is timed on its own, so that the median
and the tenth percentile tell a busy machine from a slow step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.batching.request import Request, SamplingParams
from fathom.config import preset
from fathom.engine import Engine, EngineConfig
from fathom.model.answer import Answer

ROOT = Path(__file__).resolve().parent.parent
CASES = [
    (1, "off", 0.0), (1, 1, 0.0), (1, 2, 0.0), (1, "auto", 0.0), (1, "off", 0.7), (16, "off", 0.0), (16, 2, 0.0),
    (16, "off", 0.7),
]  # fmt: skip
VOCABULARY, PROMPT = 8192, 100


class Nothing(nn.Module):
    """Answers at once, always with the same token; so does its MTP module, whose guesses are therefore right."""

    mtp_modules, compute_dtype, device, numerics = 1, torch.float32, torch.device("cpu"), "nothing"

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(preset("nano"), vocab_size=VOCABULARY, max_position_embeddings=8192)
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.hidden, self.logits = torch.zeros(2048, 8), torch.randn(256, VOCABULARY)
        self.logits[:, 5] = 100.0

    def forward(self, tokens: Tensor, batch: object, cache: object) -> Tensor:
        return self.hidden[: len(tokens)]

    def answer(self, tokens: Tensor, batch: object, cache: object, rows: array[int]) -> Answer:
        count = len(rows)
        return self.hidden[: len(tokens)], self.logits[:count], ([5] * count, [100.0] * count)

    def predict_ahead(self, hidden: Tensor, *rest: object) -> Tensor:
        return hidden

    def answer_ahead(
        self, hidden: Tensor, tokens: Tensor, batch: object, cache: object, depth: int, rows: array[int]
    ) -> Answer:
        return self.answer(tokens, batch, cache, rows)


def measure(sequences: int, spec: str | int, temperature: float, steps: int) -> dict[str, object]:
    """Microseconds of a step with so many sequences, all decoding."""
    engine = Engine(Nothing(), config=EngineConfig(num_pages=8192, spec=spec))  # type: ignore[arg-type]
    for i in range(sequences):
        params = SamplingParams(max_tokens=8000, temperature=temperature, seed=i, ignore_eos=True)
        engine.add(Request(str(i), tuple(range(PROMPT)), params))
    times_us, tokens = [], 0
    for step in range(steps + 20):
        began = time.perf_counter()
        outputs = engine.step()
        if step >= 20:
            times_us.append(1e6 * (time.perf_counter() - began))
            tokens += sum(len(output.token_ids) for output in outputs)
    return {
        "sequences": sequences, "spec": spec, "temperature": temperature, "tokens_per_step": round(tokens / steps, 2),
        "us_median": round(statistics.median(times_us), 1), "us_p10": round(statistics.quantiles(times_us, n=10)[0], 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(*case, steps=args.steps if case[0] == 1 else args.steps // 5))
        print(json.dumps(rows[-1]), flush=True)
    if args.out is not None:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        facts = {
            "command": " ".join(sys.argv), "commit": commit.stdout.strip(), "machine": platform.machine(),
            "cpus": os.cpu_count(), "load": os.getloadavg()[0], "torch": torch.__version__, "rows": rows,
        }  # fmt: skip
        args.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
