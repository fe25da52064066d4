"""What balancing experts brings: ranks' loads before, as predicted, and after; throughput with emulated ranks.

    python benchmarks/eplb.py [--out benchmarks/results/eplb.json]

zipf: 256 experts in 58 layers, 8 of them per token, drawn without replacement from popularities 1 / n ** exponent that
are shuffled in each layer; at the sizes of DeepSeek's deployments (of EP320, all 64 GPUs left over hold copies).
nano: the experts that fathom-nano chooses for worked problems, token by token, and what ranks that share them take.

A placement is made from the first half of a trace (the past) and judged on the second (the future). Ranks are
emulated: in every layer each takes its rows times the time of a row, measured here with the kernels, and all wait for
the slowest; what is not experts divides evenly. "slept" ranks are threads that sleep ten times as long as their rows
take and meet at a barrier.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Barrier, Thread
from typing import Any

import numpy as np
import torch
from measure import ROOT, machine, write

from fathom import tasks
from fathom.checkpoint import load_packed
from fathom.config import ModelConfig, find_model, preset
from fathom.layout.load import LoadWindow, Rebalance, imbalance, predicted_gain
from fathom.layout.placement import Placement, balance, plan_moves, settle
from fathom.model import Batch, LatentCache, PackedTransformer
from fathom.tokenizer import Tokenizer, encode_chat

Placements = dict[int, Placement]
Load = Mapping[int, Sequence[int]]

# ---- Zipf ---------------------------------------------------------------------------------------------------------

LAYERS, EXPERTS, CHOSEN, GROUPS, TOKENS = 58, 256, 8, 8, 4096
PUBLISHED = {"prefill EP32": (32, 4, 32), "decode EP144": (144, 18, 32), "decode EP320": (320, 40, 64)}


def drawn(popularity: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Rows of each expert, of TOKENS tokens, half a window, with CHOSEN different experts each (Gumbel's trick)."""
    keys = np.log(popularity) + rng.gumbel(size=(TOKENS, EXPERTS))
    return np.bincount(np.argpartition(-keys, CHOSEN)[:, :CHOSEN].ravel(), minlength=EXPERTS).tolist()


def zipf(exponent: float, seed: int) -> list[dict[str, Any]]:
    """One row per deployment. Before: the copies that even loads would ask for, which know nothing of the load.

    again: what `Rebalance` makes of the future afterwards, though nothing but the draw has changed, judged on a third
    draw. window: the gain on the very load it was made from; foreseen: what `Proposal.gain` says.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, EXPERTS + 1) ** exponent
    each = [rng.permutation(popularity) for _ in range(LAYERS)]
    halves = [{layer: drawn(each[layer], rng) for layer in range(LAYERS)} for _ in range(6)]
    windows = [LoadWindow(range(LAYERS), EXPERTS, steps=2) for _ in range(3)]
    for number, half in enumerate(halves):
        windows[number // 2].add(half)
    past, future, third = (window.load() for window in windows)
    rows = []
    for name, (ranks, nodes, copies) in PUBLISHED.items():
        sizes = {"slots": EXPERTS + copies, "groups": GROUPS, "nodes": nodes, "ranks": ranks}
        start = dict.fromkeys(range(LAYERS), balance([1] * EXPERTS, **sizes))
        began = time.perf_counter()
        new = near(start, past, sizes)
        moves, took = plan_moves(start, new), time.perf_counter() - began
        row = {"exponent": exponent, "deployment": name, **judged(past, future, start, new)}
        if EXPERTS % ranks == 0:
            row["contiguous"] = round(imbalance(future, dict.fromkeys(start, Placement.contiguous(EXPERTS, ranks))), 3)
        row |= {"moves": len(moves), "slots": LAYERS * sizes["slots"], "planned_s": round(took, 2)}
        again = Rebalance("manual").propose(windows[1], new, 0, groups=GROUPS, nodes=nodes, asked=True)
        assert again is not None, "drawn loads always leave something to move"
        row["again"] = {
            "window": round(predicted_gain(future, new, again.placements), 3), "foreseen": round(again.gain, 3),
            "gain": round(predicted_gain(third, new, again.placements), 3), "moves": len(again.moves),
        }  # fmt: skip
        rows.append(row)
    return rows


def near(old: Placements, load: Load, sizes: dict[str, int]) -> Placements:
    """What the load asks for, with little to move."""
    nodes = 1 if GROUPS % sizes["nodes"] else sizes["nodes"]
    return {layer: settle(old[layer], balance(load[layer], **sizes), nodes=nodes) for layer in old}


def judged(past: Load, future: Load, old: Placements, new: Placements) -> dict[str, float]:
    """Max / mean rank load, and the gain if experts were all there is."""
    return {
        "before": round(imbalance(future, old), 3), "predicted": round(imbalance(past, new), 3),
        "after": round(imbalance(future, new), 3), "gain_predicted": round(predicted_gain(past, old, new), 3),
        "gain": round(predicted_gain(future, old, new), 3),
    }  # fmt: skip


# ---- nano ---------------------------------------------------------------------------------------------------------

EPS = {2: (0, 4), 4: (0, 4), 8: (0, 8)}  # ranks -> copies tried
STEPS = {"prefill, 512 tokens": 512, "decode, 64 tokens": 64}
SLOWER = 10  # so that waking threads up matters little
Step = dict[int, list[list[int]]]  # layer -> the experts of each token


def problems(families: Sequence[str], tokenizer: Tokenizer, tokens: int, rng: Random) -> Iterator[list[int]]:
    """Token ids of worked problems, family after family in turn, until there are so many."""
    held = 0
    while held < tokens:
        for family in families:
            levels = tasks.FAMILIES[family].levels
            problem = tasks.draw(family, rng.choice(levels), "test", rng)
            ids = encode_chat(tokenizer, [{"role": "user", "content": problem.prompt}], thinking=True)
            ids = [*ids, *tokenizer.encode(problem.trace), tokenizer.end_think_id, *tokenizer.encode(problem.reply)]
            held += len(ids)
            yield ids


def recorded(model: PackedTransformer, ids: list[int]) -> torch.Tensor:
    """The experts that each MoE layer chooses for each token of a sequence, int64 [tokens, MoE layers, chosen]."""
    config, count = model.config, len(ids)
    chosen = torch.zeros(config.num_hidden_layers, count, config.num_experts_per_tok, dtype=torch.int64)
    cache = LatentCache(config, 1, count, dtype=model.compute_dtype)
    table = torch.zeros(1, 1, dtype=torch.int32)
    places = torch.arange(count)
    model.kernels.forward(torch.tensor(ids), places, (count,), table, cache.latent, cache.rope, chosen=chosen)
    return chosen[[layer for layer in range(config.num_hidden_layers) if config.is_moe(layer)]].transpose(0, 1)


def steps_of(traces: Sequence[torch.Tensor], tokens: int, decode: bool) -> list[Step]:
    """The tokens of sequences in steps: one after the other, or one of each of `tokens` sequences at a time."""
    if decode:
        waiting, running, rows = list(traces)[::-1], [], []
        while waiting or running:
            running += [iter(waiting.pop()) for _ in range(min(tokens - len(running), len(waiting)))]
            found = [(trace, next(trace, None)) for trace in running]
            running = [trace for trace, row in found if row is not None]
            rows += [row for _, row in found if row is not None]
    else:
        rows = [row for trace in traces for row in trace]
    every = torch.stack(rows)
    parts = [every[at : at + tokens] for at in range(0, len(every) - tokens + 1, tokens)]
    return [dict(enumerate(part.transpose(0, 1).tolist())) for part in parts]


def load_of(steps: Sequence[Step], experts: int) -> Load:
    """Rows of each expert, per layer."""
    counts = {layer: Counter(e for step in steps for token in step[layer] for e in token) for layer in steps[0]}
    return {layer: [count[expert] for expert in range(experts)] for layer, count in counts.items()}


def rank_rows(step: Step, placements: Placements) -> list[list[int]]:
    """Rows that each rank receives, per layer. Tokens are shared out evenly; `replica_for` picks the copy."""
    found = []
    for layer, chosen in step.items():
        placement, rows = placements[layer], [0] * placements[layer].ranks
        sent: Counter[tuple[int, int]] = Counter()
        for token, experts in enumerate(chosen):
            source = token * placement.ranks // len(chosen)
            for expert in experts:
                rows[placement.rank_of(placement.replica_for(expert, source, sent[source, expert]))] += 1
                sent[source, expert] += 1
        found.append(rows)
    return found


@dataclass(frozen=True)
class Cost:
    """Seconds that the kernels take: for a row of one expert, and for the rest of a token, all layers together."""

    row_s: float
    rest_s: float


def measured(directory: Path, config: ModelConfig, tokens: int = 512, repeats: int = 9) -> Cost:
    """From forwards that choose two experts per token and four, in turns, on one thread; the fastest of each counts."""
    weights = load_packed(directory, config, kind="auto", mtp=False)
    models = {k: PackedTransformer.open(replace(config, num_experts_per_tok=k), weights, 1) for k in (2, 4)}
    ids, batch = torch.arange(tokens) % config.vocab_size, Batch.packed([tokens])
    took: dict[int, list[float]] = {k: [] for k in models}
    for _ in range(repeats):
        for k, model in models.items():
            assert model is not None, "this benchmark needs the kernels"
            began = time.perf_counter()
            model(ids, batch)
            took[k].append(time.perf_counter() - began)
    layers = sum(map(config.is_moe, range(config.num_hidden_layers)))
    two, four = min(took[2]), min(took[4])
    row_s = (four - two) / (2 * layers * tokens)
    return Cost(row_s, two / tokens - 2 * layers * row_s)


def calculated_s(rows: list[list[list[int]]], rest_s: float, row_s: float) -> float:
    """Time of steps whose ranks receive `rows` [steps, layers, ranks]; rest_s: of a step, on each rank."""
    return sum(rest_s + row_s * sum(map(max, layers)) for layers in rows)


def slept_s(rows: list[list[list[int]]], row_s: float) -> float:
    """The same without the rest, lived through: a thread per rank, a barrier after each layer."""
    barrier = Barrier(len(rows[0][0]) + 1)

    def rank(index: int) -> None:
        barrier.wait()
        for layers in rows:
            for layer in layers:
                time.sleep(layer[index] * row_s)
                barrier.wait()

    threads = [Thread(target=rank, args=(index,)) for index in range(len(rows[0][0]))]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for _ in range(len(rows) * len(rows[0])):
        barrier.wait()
    took = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return took


def replayed(past: list[Step], future: list[Step], config: ModelConfig, cost: Cost) -> Iterator[dict[str, Any]]:
    """One row for each number of ranks and copies; throughput is compared with contiguous experts."""
    before, later = (load_of(steps, config.n_routed_experts) for steps in (past, future))
    tokens = len(future[0][0])
    for ranks, copies_tried in EPS.items():
        plain = dict.fromkeys(before, Placement.contiguous(config.n_routed_experts, ranks))
        rest_s = cost.rest_s * tokens / ranks
        old = [rank_rows(step, plain) for step in future]
        old_slept = slept_s(old, SLOWER * cost.row_s)
        for copies in copies_tried:
            slots = config.n_routed_experts + copies
            new = {layer: balance(load, slots=slots, ranks=ranks) for layer, load in before.items()}
            rows = [rank_rows(step, new) for step in future]
            experts, whole = (
                calculated_s(old, rest, cost.row_s) / calculated_s(rows, rest, cost.row_s) for rest in (0.0, rest_s)
            )
            yield {
                "ranks": ranks, "copies": copies, **judged(before, later, plain, new),
                "before_in_a_step": round(in_a_step(old), 3), "after_in_a_step": round(in_a_step(rows), 3),
                "throughput": {
                    "experts_alone": round(experts, 3), "whole_step": round(whole, 3),
                    "experts_alone_slept": round(old_slept / slept_s(rows, SLOWER * cost.row_s), 3),
                },
            }  # fmt: skip


def in_a_step(rows: list[list[list[int]]]) -> float:
    """Max / mean rank load of a layer in a step, on average: chance adds to it what no placement can foresee."""
    return statistics.fmean(max(layer) * len(layer) / sum(layer) for step in rows for layer in step)


def nano(tokens: int, seed: int) -> dict[str, Any]:
    """Four streams: all families in turn, two of them alone, and one of them followed by the other."""
    directory, config = find_model("nano"), replace(preset("nano"), num_nextn_predict_layers=0)
    tokenizer, rng = Tokenizer.load(directory), Random(seed)
    model = PackedTransformer.open(config, load_packed(directory, config, kind="auto", mtp=False), 1)
    assert model is not None, "this benchmark needs the kernels"
    cost = measured(directory, config)
    names = list(tasks.FAMILIES)
    halves = {
        "all families": (names, names), "arithmetic": (["arithmetic"], ["arithmetic"]),
        "sorting": (["sorting"], ["sorting"]), "arithmetic, then sorting": (["arithmetic"], ["sorting"]),
    }  # fmt: skip
    rows = []
    for stream, families in halves.items():
        traces = [[recorded(model, ids) for ids in problems(each, tokenizer, tokens, rng)] for each in families]
        for kind, size in STEPS.items():
            past, future = (steps_of(half, size, kind.startswith("decode")) for half in traces)
            for row in replayed(past, future, config, cost):
                rows.append({"stream": stream, "steps": kind, "steps_past": len(past), "steps_future": len(future)})
                rows[-1] |= row
                print(rows[-1], file=sys.stderr)
    return {"row_us": round(cost.row_s * 1e6, 3), "rest_us": round(cost.rest_s * 1e6, 2), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000, help="of nano, in each half of a trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "eplb.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = machine() | {"seed": args.seed, "tokens": args.tokens}
    report["zipf"] = [row for exponent in (0.5, 1.0) for row in zipf(exponent, args.seed)]
    write(report | {"nano": nano(args.tokens, args.seed)}, args.out)


if __name__ == "__main__":
    main()
