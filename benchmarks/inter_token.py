"""How long do streams wait while a long prompt is read? Gaps between tokens, with and without the limit on steps.

    python benchmarks/inter_token.py DIR --bits 8 --streams 16 --prompt 4096

Both ways in turns, each in an engine of its own: so many streams decode, then one prompt is admitted until it gives its
first token. A gap is one step, as every stream gets its token in each.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

from calm import undisturbed
from measure import machine

from fathom.batching.limits import SchedulerConfig
from fathom.batching.request import Request, SamplingParams
from fathom.engine import Engine, EngineConfig, load_model

WARM, ALONE = 40, 150  # steps: before anything is measured; of the streams alone


def gaps(engine: Engine, args: argparse.Namespace, seed: int) -> tuple[list[float], list[float]]:
    """Durations of steps [s]: of the streams alone, and while the prompt is read."""
    random, vocabulary = Random(seed), range(engine.model.config.vocab_size)
    for name in range(args.streams):
        params = SamplingParams(max_tokens=3000, seed=name, ignore_eos=True)
        engine.add(Request(f"stream {name}", tuple(random.choices(vocabulary, k=128)), params))
    while any(sequence.remaining > 1 for sequence in engine.scheduler.live.values()):
        engine.step()
    alone = [_step(engine) for _ in range(WARM + ALONE)][WARM:]
    engine.add(Request("long", tuple(random.choices(vocabulary, k=args.prompt)), SamplingParams(max_tokens=1)))
    reading = []
    while "long" in engine.scheduler.live:
        reading.append(_step(engine))
    return alone, reading


def _step(engine: Engine) -> float:
    began = perf_counter()
    engine.step()
    return perf_counter() - began


def summary(alone: list[float], reading: list[float]) -> dict[str, float]:
    """In milliseconds, and the prompt's time to its first token in seconds."""
    both = alone + reading
    return {
        "alone_median_ms": _ms(median(alone)), "reading_median_ms": _ms(median(reading)),
        "reading_p99_ms": _ms(_quantile(reading, 0.99)), "longest_ms": _ms(max(reading)),
        "p99_over_median": round(_quantile(both, 0.99) / median(both), 2),
        "reading_p99_over_alone_median": round(_quantile(reading, 0.99) / median(alone), 2),
        "first_token_s": round(sum(reading), 3),
    }  # fmt: skip


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", default="auto")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for a calm machine, per run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = load_model(args.model, bits=args.bits, threads=2)
    pages = (args.prompt + args.streams * 3200) // 16 + args.streams
    runs: dict[str, list[dict[str, Any]]] = {"limited": [], "unlimited": []}
    for seed in range(args.repeats):
        for name, stretch in (("limited", SchedulerConfig.max_stretch), ("unlimited", math.inf)):
            config = EngineConfig(num_pages=pages, max_sequences=args.streams + 1, max_stretch=stretch, spec="off")
            found: list[dict[str, float]] = []

            def sample(config: EngineConfig = config, seed: int = seed, found: list[Any] = found) -> float:
                found.append(summary(*gaps(Engine(model, config=config), args, seed)))
                return found[-1]["p99_over_median"]

            others = undisturbed(sample, args.patience)[1]
            runs[name].append(found[-1] | {"others_share": round(others, 3)})
            print(name, runs[name][-1])
    medians = {name: {key: median(run[key] for run in kept) for key in kept[0]} for name, kept in runs.items()}
    facts = {"model": args.model.name, "bits": args.bits, "streams": args.streams, "prompt": args.prompt}
    text = json.dumps(machine() | facts | {"median": medians, "runs": runs}, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
