"""A layout that fits and is fast, where none is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.pipeline import NAMES
from fathom.plan.hardware import Device
from fathom.plan.shape import Shape
from fathom.plan.training.job import RECOMPUTE, Job, Software, divisors, software
from fathom.plan.training.memory import fits, memory
from fathom.plan.training.step import step

TOKENS = 4 * 2**20  # of a step, unless the user says: Llama 2 and 3, BLOOM, GPT-3 (2 to 16 million)


def deepseek(shape: Shape, device: Device, gpus: int = 2048, seq: int = 4096, batch: int = 15360, cp: int = 1) -> Job:
    """How DeepSeek trained V3: PP16, EP64, ZeRO-1, DualPipe, one sequence a micro-batch (arXiv:2412.19437, 3.1-3.2)."""
    layout = Layout(pp=16, dp=gpus // 16, ep=64)
    return Job(
        shape, device, layout, cp, "dualpipe", 1, "fp8", seq, batch, 1, 1, "norms", True, software("hai"),
    )  # fmt: skip


def published(shape: Shape, device: Device, gpus: int) -> Job | None:
    """The layout that a model's makers published, where it is known and divides the devices."""
    moe = shape.moe
    same = shape.family == "deepseek" and shape.layers == 61 and moe is not None and moe.experts == 256
    if not same or device.fp8_tflops is None or gpus % 1024:
        return None
    return deepseek(shape, device, gpus)


def sequences(gpus: int, seq: int, tokens: int = TOKENS) -> int:
    """Sequences of a step: TOKENS in all, and at least one of each device where it can be."""
    return max(1, tokens // seq, gpus // 4)


@lru_cache(maxsize=256)
def best(
    shape: Shape, device: Device, gpus: int, how: Software, *, seq: int = 4096, batch: int = 0, precision: str = "bf16",
    schedule: str = "",
) -> Job:  # fmt: skip
    """The fastest job of all layouts that fit. Raises: ConfigError: none fits."""
    found: tuple[float, Job] | None = None
    least: tuple[float, Job] | None = None
    for job in candidates(shape, device, gpus, how, seq=seq, batch=batch, precision=precision, schedule=schedule):
        fitted = lightest(job)
        if fitted is None:
            needed = sum(memory(replace(job, recompute="full")).values())
            least = min(least, (needed, job), key=lambda one: one[0]) if least else (needed, job)
            continue
        rate = fitted.tokens / step(fitted).seconds
        if found is None or rate > found[0]:
            found = (rate, fitted)
    if found is not None:
        return found[1]
    if least is None:
        raise ConfigError(
            f"{gpus} devices{f' and a batch of {batch}' if batch else ''} cannot be divided for {shape.name}; use "
            f"multiples of 8, and of twice the stages for dualpipe."
        )
    raise ConfigError(
        f"{shape.name} does not train on {gpus} {device.title}: the smallest layout needs {least[0] / 1e9:,.0f} GB of "
        f"{device.memory_gb:g} GB a device; use {-(-round(gpus * least[0] / device.memory_bytes) // 8) * 8} or more."
    )


def lightest(job: Job) -> Job | None:
    """The job with as little recompute as fits; None: not even full recompute does."""
    for policy in RECOMPUTE:
        one = replace(job, recompute=policy)
        if policy != "selective" and fits(one):
            return one
    return None


def candidates(
    shape: Shape, device: Device, gpus: int, how: Software, *, seq: int, batch: int, precision: str, schedule: str
) -> Iterator[Job]:  # fmt: skip
    """Layouts that divide the model and the devices: TP within a scale-up domain, EP within the ranks of a stage."""
    heads = min(block.attention.heads for block in shape.blocks)
    wanted = batch or sequences(gpus, seq)
    for tp in (1, 2, 4, 8):
        if tp > min(device.link_world, gpus) or heads % tp or gpus % tp:
            continue
        for pp in divisors(gpus // tp):
            if pp > min(32, shape.layers // 2):
                break
            for ep in _experts(shape, gpus // pp):
                yield from _jobs(shape, device, (gpus, tp, pp, ep), how, seq, wanted, precision, schedule, bool(batch))


def _experts(shape: Shape, ranks: int) -> list[int]:
    if shape.moe is None:
        return [1]
    return [ep for ep in divisors(shape.moe.experts) if ranks % ep == 0 and ep <= 64][-4:]


def _jobs(
    shape: Shape, device: Device, cut: tuple[int, int, int, int], how: Software, seq: int, wanted: int, precision: str,
    schedule: str, exact: bool,
) -> Iterator[Job]:  # fmt: skip
    gpus, tp, pp, ep = cut
    dp = gpus // (tp * pp)
    least = dp * pp * (2 if schedule.startswith("dualpipe") else 1)
    batch = wanted if exact else max(least, round(wanted / least) * least)
    for zero, chunks in ((1, 1), (1, 4), (3, 1)):
        kind = schedule or ("interleaved" if chunks > 1 else "1f1b")
        if (pp == 1) != (zero == 3) and (zero == 3 or dp == 1):
            continue
        if chunks > 1 and (pp == 1 or (schedule and schedule != "interleaved")):
            continue
        try:
            yield Job(
                shape, device, Layout(pp=pp, dp=dp, tp=tp, ep=ep), 1, kind if pp > 1 else "1f1b", chunks, precision,
                seq, batch, 1, zero, "none", True, how,
            )  # fmt: skip
        except ConfigError:
            continue


def asked(
    shape: Shape, device: Device, gpus: int, *, cut: dict[str, int] | None = None, schedule: str = "",
    precision: str = "", seq: int = 4096, batch: int = 0, micro: int = 1, software_name: str = "", recompute: str = "",
) -> tuple[Job, str]:  # fmt: skip
    """(the job that was asked for, how its layout was come by): as given, as published, or the fastest that fits.

    Raises: ConfigError: the layout does not divide the model or the devices.
    """
    if batch < 0:
        raise ConfigError(f"batch is {batch} sequences; it must be above 0, or left out.")
    precision = precision or ("fp8" if device.fp8_tflops else "bf16")
    Job(
        shape,
        device,
        seq=seq,
        batch=micro * max(1, batch),
        micro=micro,
        precision=precision,
        recompute=recompute or "none",
    )
    if schedule and schedule not in NAMES:
        raise ConfigError(f"schedule {schedule!r} is not known; use one of {', '.join(NAMES)}.")
    plainly = cut is None and not (schedule or software_name or recompute) and precision == "fp8" and micro == 1
    if plainly and seq == 4096 and (known := published(shape, device, gpus)) is not None:
        try:
            return replace(known, batch=batch or known.batch), "as its makers published it"
        except ConfigError:
            pass  # another batch than theirs does not divide so
    how = software(software_name or ("hai" if schedule.startswith("dualpipe") else "megatron"))
    if cut is None:
        job = best(shape, device, gpus, how, seq=seq, batch=batch, precision=precision, schedule=schedule)
        return (replace(job, recompute=recompute) if recompute else job), "the fastest that fits"
    matrices, pp = cut["tp"], cut["pp"]
    if gpus % (matrices * pp):
        raise ConfigError(
            f"--gpus is {gpus}, which pp{pp} x tp{matrices} = {pp * matrices} does not divide; use a multiple."
        )
    layout = Layout(pp=pp, dp=gpus // (matrices * pp), tp=matrices, ep=cut["ep"])
    least = layout.dp // cut["cp"] * micro * pp * (2 if schedule.startswith("dualpipe") else 1)
    kind = schedule or ("interleaved" if cut["vp"] > 1 else "1f1b")
    size = batch or max(least, round(sequences(gpus, seq) / least) * least)
    job = Job(
        shape, device, layout, cut["cp"], kind, cut["vp"], precision, seq, size, micro,
        1 if pp > 1 or layout.dp == 1 else 3, recompute or "none", True, how,
    )  # fmt: skip
    return (job if recompute else lightest(job) or replace(job, recompute="full")), "as given"
