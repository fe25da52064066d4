"""On CPU in training: a GEMM per expert or torch's grouped_mm? Three calls or torch's fused attention?

    python benchmarks/training_ops.py [--repeats 15] [--out benchmarks/results/training_ops.json]

Forward and backward, bfloat16, shapes of fathom-nano; the two are timed in turns on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import machine
from torch import Tensor

from fathom.ops import reference

HIDDEN, INNER, EXPERTS, HEADS = 256, 112, 16, 4


def grouped(x: Tensor, offsets: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The experts of rows sorted by expert, by torch's grouped_mm."""
    gate, up = F.grouped_mm(x, gate_up.flatten(1, 2).mT, offs=offsets).split(INNER, dim=-1)
    return F.grouped_mm(F.silu(gate) * up, down.mT, offs=offsets)


def looped(x: Tensor, sizes: list[int], gate_up: Tensor, down: Tensor) -> Tensor:
    """The same by a GEMM per expert, as in ops/reference.py."""
    out = []
    for rows, w_in, w_out in zip(x.split(sizes), gate_up.unbind(), down.unbind(), strict=True):
        gate, up = F.linear(rows, w_in.flatten(0, 1)).split(INNER, dim=-1)
        out.append(F.linear(F.silu(gate) * up, w_out))
    return torch.cat(out)


def seconds(call: Callable[[], Tensor], gradient: Tensor) -> float:
    """One forward and backward [s]."""
    began = time.perf_counter()
    call().backward(gradient)
    return time.perf_counter() - began


def compare(what: str, ours: Callable[[], Tensor], torchs: Callable[[], Tensor], repeats: int) -> dict[str, object]:
    """Quartiles [ms] of both, and of torch's time over ours."""
    gradient = torch.randn_like(ours())
    pairs = [(seconds(ours, gradient), seconds(torchs, gradient)) for _ in range(repeats + 2)][2:]
    rows = {"ours_ms": [1e3 * a for a, _ in pairs], "torch_ms": [1e3 * b for _, b in pairs]}
    rows["torch_over_ours"] = [b / a for a, b in pairs]
    return {"what": what} | {name: [round(q, 2) for q in statistics.quantiles(v, n=4)] for name, v in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="what else ran on the machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    like = {"dtype": torch.bfloat16, "requires_grad": True}
    stacks = torch.randn(EXPERTS, 2, INNER, HIDDEN, **like), torch.randn(EXPERTS, HIDDEN, INNER, **like)
    for each in (6, 64, 512, 1024):
        x, offsets = torch.randn(EXPERTS * each, HIDDEN, **like), torch.arange(1, EXPERTS + 1, dtype=torch.int32) * each
        rows.append(
            compare(
                f"experts, {each} rows each",
                lambda x=x, n=each: looped(x, [n] * EXPERTS, *stacks),
                lambda x=x, o=offsets: grouped(x, o, *stacks),
                options.repeats,
            )
        )
        print(json.dumps(rows[-1]), flush=True)
    for documents, tokens in ((32, 128), (16, 256)):
        q, k = (torch.randn(documents, HEADS, tokens, 48, **like) for _ in range(2))
        v = torch.randn(documents, HEADS, tokens, 32, **like)
        rows.append(
            compare(
                f"attention, {documents} documents of {tokens}",
                lambda q=q, k=k, v=v: reference._causal(q, k, v, 0.14),
                lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.14),
                options.repeats,
            )
        )
        print(json.dumps(rows[-1]), flush=True)
    facts = machine() | {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if options.out:
        options.out.write_text(json.dumps(facts | {"note": options.note, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
