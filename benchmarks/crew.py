"""What it costs to divide a model among processes of one machine, and whether the cost model foresees it.

    python benchmarks/crew.py DIR [--bits 8] [--repeats 7] [--out benchmarks/results/crew_small_8.json]

One process with two threads against crews of two ranks with one thread each, in turns: TP2 with the experts divided
(tp=2, ep=2), and EP2 with a lane of its own for each rank (dp=2, ep=2). The same requests for all. A crew's time with
peers is measured by the leader, waiting for a later peer included; the prediction is (questions x time of an empty one)
+ (bytes / bandwidth), both measured on two ranks just before, by questions of no and of many bytes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measure import machine, write

from fathom.batching.request import Request, SamplingParams
from fathom.cost.exchanges import exchanges
from fathom.engine import Engine, EngineConfig, load_model
from fathom.engine.crew import Crew
from fathom.engine.crewconfig import CrewConfig
from fathom.layout import Layout

LAYOUTS = {"tp2": Layout(tp=2, ep=2), "ep2": Layout(dp=2, ep=2)}
CASES = {"decode_1": (1, 16, 48), "decode_16": (16, 128, 32), "prefill_512": (1, 512, 1)}  # sequences, prompt, output
LARGE = 4 << 20  # bytes of a question whose time is the bandwidth's


def requests(vocabulary: int, sequences: int, prompt: int, output: int, turn: int) -> list[Request]:
    draw = torch.Generator().manual_seed(turn)
    params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
    prompts = torch.randint(5, vocabulary, (sequences, prompt), generator=draw).tolist()
    return [Request(f"{turn}-{i}", tuple(ids), params, streamed=False) for i, ids in enumerate(prompts)]


def measured(engine: Engine, case: str, turn: int) -> dict[str, float]:
    """Seconds of a typical step of a case, and the part of it with peers."""
    sequences, prompt, output = CASES[case]
    for request in requests(engine.model.config.vocab_size, sequences, prompt, output, turn):
        engine.add(request)
    steps: list[tuple[float, float]] = []
    kernels = engine.model.kernels
    while engine.has_work:
        before = kernels.peers_s
        outputs = engine.step()
        kept = output == 1 or (len(outputs) == sequences and all(o.token_ids for o in outputs))
        if kept:
            steps.append((engine.step_s, kernels.peers_s - before))
    steps = steps[1:] if len(steps) > 1 else steps
    return {"step_s": statistics.median(s for s, _ in steps), "peers_s": statistics.median(p for _, p in steps)}


def question_s(crew: Crew) -> tuple[float, float]:
    """(time of a question of next to no bytes [s], bytes per second of a large one), from steps of the crew itself."""
    engine_config = EngineConfig(num_pages=64, spec="off", max_batch_tokens=256)
    engine = Engine(crew.model, config=engine_config, crew=crew)
    small, large = [], []
    for turn in range(7):
        for prompt, times in ((1, small), (256, large)):
            engine.add(requests(crew.model.config.vocab_size, 1, prompt, 1, 1000 + turn)[0])
            before = crew.model.kernels.peers_s
            while engine.has_work:
                engine.step()
            times.append(crew.model.kernels.peers_s - before)
    layout, config = crew.layout, crew.model.config
    few, many = ([(one.count, one.count * one.bytes) for one in exchanges(config, layout, n, 1)] for n in (1, 256))
    count = sum(c for c, _ in few)
    more_bytes = sum(b for _, b in many) - sum(b for _, b in few)
    small_s, large_s = min(small), min(large)
    each_s = small_s / count
    return each_s, more_bytes / max(large_s - small_s, 1e-9)


def predicted_s(crew: Crew, case: str, each_s: float, per_s: float) -> float:
    sequences, prompt, output = CASES[case]
    tokens = prompt if output == 1 else sequences
    lane_tokens = max(1, tokens // crew.lanes)
    asked = 1 if output == 1 else lane_tokens
    return sum(
        one.count * (each_s + one.bytes / per_s)
        for one in exchanges(crew.model.config, crew.layout, lane_tokens, asked)
    )


@contextmanager
def crew_of(model: Path, bits: str, layout: Layout) -> Iterator[Crew]:
    crew = Crew.start(CrewConfig(model, layout, bits=bits, mtp=False, threads=1))
    try:
        yield crew
    finally:
        crew.close()


def compared(alone: Engine, crew: Crew, case: str, repeats: int, link: tuple[float, float]) -> dict[str, Any]:
    """A case on one process and on a crew, in turns."""
    together = Engine(crew.model, config=alone.config, crew=crew)
    pairs = []
    for turn in range(repeats + 1):
        order = (alone, together) if turn % 2 else (together, alone)
        found = {id(engine): measured(engine, case, turn) for engine in order}
        if turn:  # the first one warms up
            pairs.append((found[id(alone)], found[id(together)]))
    foreseen, peers = predicted_s(crew, case, *link), [b["peers_s"] for _, b in pairs]
    return {
        "one_process_step_s": summary([a["step_s"] for a, _ in pairs]),
        "crew_step_s": summary([b["step_s"] for _, b in pairs]),
        "ratio": summary([b["step_s"] / a["step_s"] for a, b in pairs]),
        "peers_s": summary(peers),
        "peers_share": summary([b["peers_s"] / b["step_s"] for _, b in pairs]),
        "predicted_peers_s": foreseen,
        "predicted_over_measured": foreseen / statistics.median(peers),
    }


def summary(samples: list[float]) -> dict[str, float]:
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = machine() | {"bits": args.bits, "repeats": args.repeats, "layouts": {}}
    config = EngineConfig(bits=args.bits, spec="off", num_pages=400, max_batch_tokens=1024, max_sequences=16)
    alone = Engine(load_model(args.model, args.bits, threads=2), config=config)
    for name, layout in LAYOUTS.items():
        with crew_of(args.model, args.bits, layout) as crew:
            link = question_s(crew)
            row: dict[str, Any] = {"question_us": round(1e6 * link[0], 1), "mb_per_s": round(link[1] / 1e6)}
            for case in CASES:
                row[case] = compared(alone, crew, case, args.repeats, link)
                ratio, share = row[case]["ratio"]["median"], row[case]["peers_share"]["median"]
                print(f"{name} {case}: {ratio:.2f} x the time of one process, {share:.0%} of it with peers", flush=True)
            report["layouts"][name] = row
    write(report, args.out)


if __name__ == "__main__":
    main()
