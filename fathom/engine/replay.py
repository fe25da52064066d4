"""A step log lived again: the same Plans on the same model give the same tokens, to the last bit, or the step is named.

It also says how well the steps had been predicted (fathom/batching/steptime.py).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Sampled
from fathom.config import ModelConfig
from fathom.engine.machine import kind
from fathom.engine.record import LogHeader, StepRecord, read_header, read_steps
from fathom.engine.runner import Runner
from fathom.engine.spill import SpillFile
from fathom.errors import InputError
from fathom.model import Batch, LatentCache, Model, PackedTransformer

PROBED = 16  # tokens whose logits stand for weights and arithmetic


@dataclass(frozen=True)
class Difference:
    """The first answer of a replay that is not the recorded one. place: among those that sample in its step."""

    step: int
    request_id: str
    place: int
    recorded: Sampled
    replayed: Sampled


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Fields: same_model: weights and arithmetic are those of the log, to the bit. predicted: steps that had a prediction;
            error: the median of |predicted - measured| / measured over them. slowdown: median of replayed / recorded.
    """

    header: LogHeader
    steps: int
    tokens: int
    same_model: bool
    difference: Difference | None
    recorded_s: float
    replayed_s: float
    slowdown: float | None
    predicted: int
    error: float | None


def describe_engine(model: Model, cache: LatentCache, limits: SchedulerConfig) -> LogHeader:
    """The header of the step log of an engine."""
    return LogHeader(
        config=config_digest(model.config),
        probe=probe(model),
        kind=kind(model),
        numerics=limits.numerics,
        page_tokens=limits.page_tokens,
        num_pages=limits.num_pages,
        mtp=len(cache.latent) > model.config.num_hidden_layers,
        spill_slots=limits.spill_slots,
    )


def config_digest(config: ModelConfig) -> str:
    """Tells one architecture from another."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@torch.inference_mode()
def probe(model: Model) -> str:
    """Tells one set of weights and one arithmetic from another: a digest of the logits of a few tokens."""
    config = model.config
    count = min(PROBED, config.max_position_embeddings)
    tokens = torch.tensor([(1 + i) * 40503 % config.vocab_size for i in range(count)], device=model.device)
    packed = model if isinstance(model, PackedTransformer) else None  # perhaps only a rank's part
    cache = packed and packed.new_cache(1, count, mtp=False)
    cache = cache or LatentCache(config, 1, count, dtype=model.compute_dtype, device=model.device)
    batch = Batch.paged([count], [0], [(0,)], count, device=model.device)
    if packed is not None and not packed.shard.has_head:
        model(tokens, batch, cache)
        return ""  # a later stage of the pipeline knows
    _, logits, _ = model.answer(tokens, batch, cache, array("q", range(count)))
    return hashlib.sha256(logits.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def replay(records: Iterable[StepRecord], runner: Runner) -> Iterator[tuple[StepRecord, tuple[Sampled, ...], float]]:
    """Execute recorded Plans again, from the first one on: each record, what came out now, and after how long [s]."""
    for record in records:
        started = perf_counter()
        sampled = tuple(runner.execute(record.plan))
        yield record, sampled, perf_counter() - started


def replay_log(path: str | Path, model: Model) -> Replay:
    """Live a log again on a fresh cache, up to the first difference.

    Raises: InputError: it is no step log, or of a model of another shape.
    """
    header = read_header(path)
    if header.config != config_digest(model.config):
        raise InputError(f"{path} was written with another model than this one; name that model with --model.")
    steps, tokens, difference = 0, 0, None
    times: list[tuple[float, float]] = []
    errors: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for record, sampled, seconds in replay(read_steps(path), _runner(header, model, Path(folder) / "spill")):
            steps, tokens = steps + 1, tokens + record.plan.num_tokens
            times.append((record.step_s, seconds))
            if record.error is not None:
                errors.append(record.error)
            difference = _first_difference(record, sampled)
            if difference is not None:
                break
    return Replay(
        header=header,
        steps=steps,
        tokens=tokens,
        same_model=header.probe == probe(model),
        difference=difference,
        recorded_s=sum(before for before, _ in times),
        replayed_s=sum(now for _, now in times),
        slowdown=median(now / before for before, now in times) if times else None,
        predicted=len(errors),
        error=median(errors) if errors else None,
    )


def _runner(header: LogHeader, model: Model, spill_path: Path) -> Runner:
    cache = LatentCache(
        model.config, header.num_pages, header.page_tokens, dtype=model.compute_dtype, device=model.device,
        mtp=header.mtp,
    )  # fmt: skip
    spill = SpillFile(spill_path, header.spill_slots * cache.page_bytes, cache) if header.spill_slots else None
    return Runner(model, cache, spill)


def _first_difference(record: StepRecord, sampled: tuple[Sampled, ...]) -> Difference | None:
    names = [row.request_id for row in record.plan.sampling_rows]
    for place, (name, before, now) in enumerate(zip(names, record.sampled, sampled, strict=True)):
        if before != now:
            return Difference(record.plan.step, name, place, before, now)
    return None
