"""What the planner says of a measured training run, in the metric of its row."""

from __future__ import annotations

import re
from collections.abc import Callable

from fathom.errors import ConfigError
from fathom.plan.quantity import Quantity
from fathom.plan.rows import Refusal
from fathom.plan.training.bill import POST_HOURS, extension_hours, quantity, rate
from fathom.plan.training.job import Job
from fathom.plan.training.knobs import Knobs, Ratio, Share, shipped
from fathom.plan.training.memory import memory
from fathom.plan.training.rows import Row, job_of, number
from fathom.plan.training.step import step

HFU = ("bloom", "alexatm")  # their published utilisation counts recompute: a forward more
#: metric -> (1 for a speed, -1 for a time; the knob that it tells of)
FITTED = {
    "train_tokens_per_s_per_gpu": (1, "step"), "mfu": (1, "step"), "mfu_or_hfu": (1, "run"),
    "training_gpu_hours": (-1, "run"), "accelerator_hours": (-1, "run"), "gpu_hours_per_T_tokens": (-1, "run"),
}  # fmt: skip
NONCAUSAL = ("foundry", "nanochat", "verl")  # their MFU counts every pair of tokens


def predict_training(row: Row, knobs: Knobs | None = None) -> Quantity | Refusal:
    """The metric of a row, or why it is not predicted; see `predicted`."""
    try:
        return predicted(row, knobs)
    except ConfigError as error:
        return Refusal(str(error))


def predicted(row: Row, knobs: Knobs | None = None) -> Quantity:
    """The metric of a row of kind "training", or of a "peak_train_memory", from its description.

    Args:   knobs: the fitted shares; those that are shipped unless given.
    Raises: ConfigError: the row says too little, with what is missing.
    """
    knobs = knobs or shipped()
    if row["metric"] == "peak_train_memory":
        job = job_of(row)
        return _sized(sum(memory(job).values()) / 2**30)
    said = METRICS.get(row["metric"])
    if said is None:
        raise ConfigError(f"metric {row['metric']!r} of a training run is not predicted; use {', '.join(METRICS)}.")
    return said(row, knobs)


def computed(row: Row) -> tuple[str, Ratio] | None:
    """(which knob, measured over computed speed) of a row, to fit a knob; None: the row tells of neither."""
    bare = Share(1.0, 1.0, 1.0, 0, 0)
    power, name = FITTED.get(row["metric"], (0, ""))
    if not power:
        return None
    ratio = float(row["value"]) / predicted(row, Knobs(bare, bare)).value
    return name, Ratio(row["group"], ratio**power, job_of(row).shape.moe is not None)


def _rate(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    return quantity(rate(job), "tok/s/GPU", knobs.of(job), "tokens of a step over its time", step(job).bound)


def _tokens_per_day(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    return quantity(rate(job) * job.gpus * 86400, "tokens/day", knobs.of(job), "without restarts", step(job).bound)


def _step_time(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    return quantity(step(job).seconds, "s", knobs.of(job), "one optimizer step", step(job).bound, -1)


def _mfu(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    causal = row["metric"] != "mfu_noncausal_vs_bf16_peak" and not any(
        one in row["system"].lower() for one in NONCAUSAL
    )
    recompute = 4 / 3 if any(row["model"].lower().startswith(one) for one in HFU) else 1.0
    value = rate(job) * job.flops_per_token(causal=causal) * recompute / (job.device.bf16_tflops * 1e12)
    meaning = f"model FLOPs ({'causal' if causal else 'all pairs'}) over the BF16 peak, of a step"
    return quantity(value, "ratio", knobs.of(job), meaning, step(job).bound)


def _run_mfu(row: Row, knobs: Knobs) -> Quantity:
    """Of a whole run, from its FLOPs and hours, as tables of models give it."""
    return _mfu(row, Knobs(knobs.run, knobs.run))


def _hours(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    return quantity(tokens_of(row, job) / rate(job) / 3600, "GPU-h", knobs.run, "with restarts", step(job).bound, -1)


def _pretrain(row: Row, knobs: Knobs) -> Quantity:
    """Steps only: DeepSeek reports no restarts of V3."""
    job = job_of(row)
    return quantity(tokens_of(row, job) / rate(job) / 3600, "GPU-h", knobs.of(job), "steps only", step(job).bound, -1)


def _hours_per_trillion(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    share = knobs.of(job) if job.software.name == "hai" else knobs.run
    return quantity(1e12 / rate(job) / 3600, "GPU-h/T", share, "per 1e12 tokens", step(job).bound, -1)


def _extension(row: Row, knobs: Knobs) -> Quantity:
    return quantity(extension_hours(job_of(row)), "GPU-h", knobs.of(job_of(row)), "two phases of 1,000 steps", "", -1)


def _whole(row: Row, knobs: Knobs) -> Quantity:
    """Pre-training, context extension and post-training of V3, in the unit of the row."""
    job = job_of(row)
    tokens = number(r"([\d.]+)T tokens", row["conditions"]) or 14.8
    hours = tokens * 1e12 / rate(job) / 3600 + extension_hours(job)
    per_hour = {"GPU-h": 1.0, "USD": number(r"\$([\d.]+)", row["conditions"]) or 2.0, "days": 1 / job.gpus / 24}
    factor = per_hour[row["unit"]]
    said = quantity(
        hours * factor, row["unit"], knobs.of(job), "pre-training, context extension and post-training", "", -1
    )
    post = POST_HOURS * factor
    return Quantity(
        said.value + post, said.unit, said.meaning, (said.low or 0) + post, (said.high or 0) + post, "", "computed",
        "post-training as given",
    )  # fmt: skip


def _train_time(row: Row, knobs: Knobs) -> Quantity:
    job = job_of(row)
    steps = number(r"(\d+) steps", row["conditions"])
    size = number(r"x ([\d.]+)M tok", row["conditions"])
    if steps is None or size is None:
        raise ConfigError("train_time: the row says no number of steps and tokens; say '16704 steps x 0.5M tok'.")
    tokens = steps * size * 2**20
    return quantity(tokens / rate(job) / job.gpus, "s", knobs.of(job), "all steps", step(job).bound, -1)


def _rl_step(row: Row, knobs: Knobs) -> Quantity:
    """A step of RL needs the number of its answers, which no row says."""
    raise ConfigError("rl_step_time: the row says no number of answers in a step; say it, and their length.")


def tokens_of(row: Row, job: Job) -> float:
    """Tokens of the whole run: from its FLOPs, six per active parameter, or as the row says them."""
    flops = number(r"FLOP (\d[\d.e+]*)", row["conditions"])
    if flops is not None:
        active = number(r"params (\d[\d.e+]*)", row["conditions"]) or job.shape.activated
        return flops / (6 * active)
    trillions = re.search(r"~?([\d.]+)T", row["conditions"])
    if trillions is None:
        raise ConfigError(f"{row['metric']}: the row says neither tokens nor FLOPs; say '14.8T tokens' or 'FLOP 3e24'.")
    return float(trillions[1]) * 1e12


def _sized(gib: float) -> Quantity:
    """Memory errs by a sixth at most in the measured runs; a rank that is said to fit has that much room."""
    return Quantity(gib, "GiB", "reserved by the fullest rank", gib * 0.92, gib * 1.2, "memory", "computed")


METRICS: dict[str, Callable[[Row, Knobs], Quantity]] = {
    "train_tokens_per_s_per_gpu": _rate, "tokens_per_day": _tokens_per_day, "step_time": _step_time, "mfu": _mfu,
    "mfu_or_hfu": _run_mfu, "mfu_causal_vs_bf16_peak": _mfu, "mfu_noncausal_vs_bf16_peak": _mfu,
    "training_gpu_hours": _hours, "accelerator_hours": _hours, "pretrain_gpu_hours": _pretrain,
    "gpu_hours_per_T_tokens": _hours_per_trillion, "context_extension_gpu_hours": _extension,
    "total_gpu_hours": _whole, "total_cost": _whole, "wall_days_total": _whole, "train_time": _train_time,
    "rl_step_time": _rl_step,
}  # fmt: skip
