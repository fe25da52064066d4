"""What bounds each phase of a model on this machine: the least time it can take, the time it takes, what is between.

Three things can be the larger part of a step: reading weights, multiplying, attention; what is left is either inside
the model (kernels below their limit) or between its calls (Python: scheduler, sampler, tensors).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fathom.engine.bench import Bench
from fathom.engine.limits import Floor, Limits, Step, floor
from fathom.model import Model

Bound = Literal["reading weights", "arithmetic", "attention", "kernels", "between kernels"]
SHORT, LONG, BATCH, BATCH_CONTEXT, PREFILL = 16, 1024, 16, 128, 512
DECODED, MARGIN = 32, 33  # tokens decoded in a measurement, and the room they need


@dataclass(frozen=True)
class Phase:
    """One phase, explained. step_s: measured, median. model_s: the part of it inside the model."""

    name: str
    step: Step
    floor: Floor
    step_s: float
    model_s: float
    bound: Bound
    sentence: str

    @property
    def tokens_per_s(self) -> float:
        return self.step.sequences * self.step.tokens / self.step_s


def explain(model: Model, machine: Limits, *, repeats: int = 3, seed: int = 0) -> Iterator[Phase]:
    """Each phase, as soon as it is measured."""
    longest = model.config.max_position_embeddings - MARGIN
    for name, step in phases(longest).items():
        bench = Bench(model, step.sequences, step.context or step.tokens, DECODED, seed)
        speed = bench.prefill(repeats) if step.tokens > 1 else bench.decode(repeats)
        least = floor(model.config, step, machine, cache_value_bytes=model.compute_dtype.itemsize)
        yield judge(name, step, least, speed.ms_per_step.median / 1e3, speed.ms_in_model.median / 1e3)


def phases(longest: int) -> dict[str, Step]:
    """The steps that stand for a model's life, as far as its context goes."""
    found = {"decode, 1 sequence": Step(1, 1, min(SHORT, longest))}
    if longest > SHORT:
        found["decode, long context"] = Step(1, 1, min(LONG, longest))
    found[f"decode, {BATCH} sequences"] = Step(BATCH, 1, min(BATCH_CONTEXT, longest))
    found["prefill"] = Step(1, min(PREFILL, longest), 0)
    return found


def judge(name: str, step: Step, least: Floor, step_s: float, model_s: float) -> Phase:
    """Which part is the largest, and the sentence that says so."""
    inside_s, between_s = model_s - least.seconds, step_s - model_s
    first: Bound = "reading weights" if least.reading_s >= least.arithmetic_s else "arithmetic"
    parts: dict[Bound, float] = {
        first: max(least.reading_s, least.arithmetic_s), "attention": least.attention_s,
        "kernels": inside_s, "between kernels": between_s,
    }  # fmt: skip
    bound = max(parts, key=lambda part: parts[part])
    what = f"{name} {_shape(step)}: {_work(least)}"
    if least.attention_s >= 0.01 * least.seconds:
        what += f", attention {_ms(least.attention_s)}"
    rate = step.sequences * step.tokens / step_s
    rest = f"of the rest, kernels below their limit take {_ms(inside_s)}" if inside_s > 0 else "the kernels are at it"
    sentence = (
        f"{what}; measured {_ms(step_s)} ({rate:,.0f} tokens/s, {least.seconds / step_s:.0%} of the limit); "
        f"{rest}, Python between them {_ms(between_s)}. Bound by {bound}."
    )
    return Phase(name, step, least, step_s, model_s, bound, sentence)


def _shape(step: Step) -> str:
    return f"of {step.tokens} tokens" if step.tokens > 1 else f"after {step.context} tokens"


def _work(least: Floor) -> str:
    if least.reading_s >= least.arithmetic_s:
        rate = least.weight_bytes / least.reading_s / 1e9
        return f"reading {least.weight_bytes / 1e6:,.1f} MB of weights at {rate:,.1f} GB/s takes {_ms(least.reading_s)}"
    rate = least.flops / least.arithmetic_s / 1e9
    return f"multiplying, {least.flops / 1e9:,.2f} GFLOP at {rate:,.0f} GFLOP/s, takes {_ms(least.arithmetic_s)}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms" if abs(seconds) < 0.1 else f"{1e3 * seconds:,.0f} ms"
