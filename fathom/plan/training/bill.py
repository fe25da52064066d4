"""Hours, days and dollars of a training run, and what a headline leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity
from fathom.plan.training.inference import rates
from fathom.plan.training.job import Job
from fathom.plan.training.knobs import Knobs, Share, shipped
from fathom.plan.training.search import deepseek
from fathom.plan.training.step import step

POST_HOURS = 5000.0  # supervised fine-tuning and RL of V3 [GPU-h]: arXiv:2412.19437, table 1
#: R1-Zero 512 devices x 198 h, data 5K, R1 512 x 80 h [GPU-h]: the R1 paper, Nature version, supplementary table
REASONER_HOURS = 147_000.0
V3_ACTIVE, V3_PEAK = 36_625_618_432, 989.0  # parameters of a token with the head; TFLOPS of an H800
REASONER_SAMPLES, REASONER_TOKENS = 804_745, 5_355.3  # kept for supervised fine-tuning, and their mean length: same
SAMPLES_A_KEPT = 4.0  # generated for one that is kept; nothing is published
#: Tokens a second and H800 that DeepSeek's service writes, and reads beside cache hits: open-infra-index, day 6
SERVED = (14_800 / 8, 73_700 / 8 * (1 - 0.563))
#: Ablations whose sizes the V3 report gives: (active parameters, tokens, runs); tables 4 and 5, section 3.3, app. B
ABLATIONS = ((2.45e9, 1.33e12, 6), (20.9e9, 0.54e12, 2), (20.9e9, 0.578e12, 2), (20.9e9, 0.9e12, 2))
RESEARCH_LINE = "research around it"
_Line = Callable[[str, Quantity, bool, str], "Line"]
_Given = Callable[[float, str], Quantity]
RESEARCH = 10.0  # all compute of a laboratory's year over that of its final runs (Epoch AI, OpenAI in 2024)


@dataclass(frozen=True)
class Line:
    """A line of a bill. counted: in the headline. note: where it is from."""

    what: str
    hours: Quantity
    usd: Quantity
    counted: bool
    note: str


@dataclass(frozen=True)
class Extras:
    """What a headline leaves out, as the user says it.

    Fields: price: of a device [USD/h]. extension: two phases of longer context, as V3 had. post_hours [GPU-h];
            None: as V3's.
            ablations: compute over that of the run; None: as V3's report. failed: share of the run done again.
            synthetic: tokens generated for training, cleaned: tokens read by a model that filters [tokens]; None: R1.
            write_rate, read_rate: of a device [tok/s]; None: as served. reasoner_hours: RL of a reasoner
            [GPU-h]; None: as R1's.
    """

    price: float | None = None
    extension: bool = True
    post_hours: float | None = None
    ablations: float | None = None
    failed: float = 0.0
    synthetic: float | None = None
    cleaned: float = 0.0
    write_rate: float | None = None
    read_rate: float | None = None
    reasoner_hours: float | None = None

    def __post_init__(self) -> None:
        for name in ("post_hours", "ablations", "failed", "synthetic", "cleaned", "reasoner_hours"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}; it must be 0 or more.")
        for name in ("price", "write_rate", "read_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0.")


def rate(job: Job) -> float:
    """Tokens per second and device that the parts alone add up to [tok/s]."""
    return job.tokens / step(job).seconds / job.gpus


def quantity(value: float, unit: str, share: Share, meaning: str, bound: str = "", power: int = 1) -> Quantity:
    """A speed (power 1) or a time or cost (power -1) times a share, with its interval."""
    ends = [value * (share.value * ratio) ** power for ratio in (share.low, share.high)]
    return Quantity(value * share.value**power, unit, meaning, min(ends), max(ends), bound, "computed")


def extension_hours(job: Job) -> float:
    """Two phases of 1,000 steps of 63M tokens, at 32K and 128K (arXiv:2412.19437, section 4.3) [GPU-h]."""
    found = 0.0
    for seq, batch, cp in ((32768, 1920, 8), (131072, 480, 32)):
        phase = deepseek(job.shape, job.device, job.gpus, seq, batch, cp)
        found += 1000 * phase.tokens / rate(phase) / 3600
    return found


def hours(job: Job, tokens: float, knobs: Knobs | None = None) -> Quantity:
    """Device hours of so many tokens, steps only [GPU-h]."""
    if not tokens > 0:
        raise ConfigError(f"tokens is {tokens:g}; it must be above 0, such as 14.8T.")
    knobs = knobs or shipped()
    return quantity(tokens / rate(job) / 3600, "GPU-h", knobs.of(job), "steps, without restarts", step(job).bound, -1)


def bill(job: Job, tokens: float, extras: Extras, knobs: Knobs | None = None) -> list[Line]:
    """The lines of a run: first those of the headline, then what it leaves out."""
    knobs = knobs or shipped()
    price = extras.price or job.device.usd_per_hour
    if price is None:
        raise ConfigError(f"no price of {job.device.title} is known; give --price in USD per device and hour.")
    run = hours(job, tokens, knobs)

    def line(what: str, time: Quantity, counted: bool, note: str) -> Line:
        usd = time.times(price, "USD")
        return Line(what, time, usd, counted, note)

    def given(value: float, note: str) -> Quantity:
        return Quantity(value, "GPU-h", source="given", note=note)

    lines = [line("pre-training", run, True, f"{tokens / 1e12:g}T tokens")]
    if extras.extension and job.software.name == "hai":
        extended = quantity(extension_hours(job), "GPU-h", knobs.of(job), "two phases of 1,000 steps", "", -1)
        lines.append(line("context extension", extended, True, "to 32K and 128K, as V3"))
    time, note = _as_v3(job, extras.post_hours, POST_HOURS)
    lines.append(line("post-training", given(time, note), True, note))
    return lines + _left_out(job, run, extras, line, given)


def _as_v3(job: Job, said: float | None, published: float) -> tuple[float, str]:
    """Hours as given, or V3's by active parameters and peak, and where they are from [GPU-h]."""
    if said is not None:
        return said, "given"
    if job.software.name == "hai":
        return published, f"published: {published / 1e3:,.0f}K H800-hours"
    scale = job.shape.activated / V3_ACTIVE * V3_PEAK / job.device.bf16_tflops
    return published * scale, f"inferred: {published / 1e3:,.0f}K H800-hours, by active parameters and peak"


def _left_out(job: Job, run: Quantity, extras: Extras, line: _Line, given: _Given) -> list[Line]:
    """Ablations, failed runs, data made and cleaned by models, a reasoner, and the research around it all."""
    share = extras.ablations
    note = "given"
    if share is None:
        share = sum(6 * active * tokens * runs for active, tokens, runs in ABLATIONS) / (250e9 * 14.8e12)
        note = "inferred from V3's report"
    synthetic = extras.synthetic
    made = f"given: {synthetic or 0:.3g} tokens"
    if synthetic is None:
        synthetic = REASONER_SAMPLES * REASONER_TOKENS * SAMPLES_A_KEPT
        made = f"R1: {REASONER_SAMPLES:,} samples x {SAMPLES_A_KEPT:g}"
    reasoner, note_r1 = _as_v3(job, extras.reasoner_hours, REASONER_HOURS)
    writes, reads = SERVED if job.software.name == "hai" else rates(job.shape, job.device)
    writes, reads = extras.write_rate or writes, extras.read_rate or reads
    return [
        line("mixture ablations", run.times(share), False, f"{share:.0%} of the run; {note}"),
        line("failed and repeated runs", run.times(extras.failed), False, f"{extras.failed:.0%} of the run, given"),
        line(
            "synthetic data", given(synthetic / writes / 3600, made), False,
            f"{made}; {writes:,.0f} tok/s/GPU",
        ),
        line(
            "cleaning by a model", given(extras.cleaned / reads / 3600, "given"), False,
            f"given: {extras.cleaned:.3g} tokens; {reads:,.0f} tok/s/GPU",
        ),
        line("a reasoner, as R1", given(reasoner, note_r1), False, note_r1),
        line(RESEARCH_LINE, run.times(RESEARCH - 1), False, f"final runs are 1 / {RESEARCH:g} of it (Epoch AI)"),
    ]  # fmt: skip
