"""Time of a layer on one rank and one micro-batch: forward, gradients of inputs, gradients of weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from fathom.plan.shape import Block, Matrix
from fathom.plan.training import reach
from fathom.plan.training.job import Job, attention_pairs_flops

#: Windows and learned sinks come as a mask: every pair is computed, by older kernels. Inferred from what the figures
#: of Megatron-Bridge for gpt-oss lack, the same 20 to 26 us a token on B200 and B300, in BF16 and FP8.
MASKED = ("gpt_oss",)
Parts = defaultdict[str, float]  # seconds by what they are for


def parts(known: Mapping[str, float] | None = None) -> Parts:
    """Seconds by part, 0 where none are known."""
    return defaultdict(float, known or {})


@dataclass(frozen=True)
class Times:
    """Seconds by part: forward, backward for inputs, backward for weights."""

    forward: Parts = field(default_factory=parts)
    inputs: Parts = field(default_factory=parts)
    weights: Parts = field(default_factory=parts)

    def plus(self, other: Times, count: float = 1.0) -> Times:
        """These and `count` times the others."""
        return Times(*(added(mine, theirs, count) for mine, theirs in zip(self.all, other.all, strict=True)))

    @property
    def all(self) -> tuple[Parts, Parts, Parts]:
        """The three, in order."""
        return self.forward, self.inputs, self.weights

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Forward, inputs, weights [s]."""
        return tuple(sum(one.values()) for one in self.all)  # type: ignore[return-value]


def added(one: Parts, other: Parts, count: float = 1.0) -> Parts:
    """One and `count` times the other, by part."""
    return parts({part: one.get(part, 0.0) + count * other.get(part, 0.0) for part in sorted({*one, *other})})


@lru_cache(maxsize=64)
def layer(job: Job, block: Block) -> Times:
    """One layer of a block."""
    forward, inputs, weights = parts(), parts(), parts()
    for matrix in block.matrices:
        ahead, back = _products(job, block, matrix)
        share = job.software.compute_share if job.layout.ep > 1 else 1.0
        forward["matrix products"] += ahead / share
        inputs["matrix products"] += ahead / share
        weights["matrix products"] += back / share / job.software.weight_share
    ahead, back = _attention(job, block)
    forward["attention"], inputs["attention"] = ahead, back
    ahead, back = _elementwise(job, block)
    forward["elementwise"], inputs["elementwise"] = ahead, back
    host = _launches(job, block)
    for times, share in ((forward, 1 / 3), (inputs, 1 / 3), (weights, 1 / 3)):
        times["launches"] = max(0.0, host * share - _experts_share(job, block, times))
    _communicate(job, block, forward, inputs)
    return _recomputed(job, Times(forward, inputs, weights))


def head(job: Job) -> Times:
    """Output head and loss, in BF16."""
    shape, tokens, tp = job.shape, job.rank_tokens, job.layout.tp
    product = reach.product(job.device, tokens, shape.vocab / tp, shape.hidden, "bf16")
    passes = 8 if job.software.name in ("eager", "plain") else 5  # logits in FP32, soft maximum, gradient
    softmax = tokens * shape.vocab / tp * 2 * passes / reach.memory_rate(job.device)
    return Times(
        parts({"matrix products": product, "elementwise": softmax / 2}),
        parts({"matrix products": product, "elementwise": softmax / 2}),
        parts({"matrix products": product}),
    )


def _products(job: Job, block: Block, matrix: Matrix) -> tuple[float, float]:
    """(a forward or a gradient of inputs, a gradient of weights) of a matrix [s]."""
    kind = "bf16" if not matrix.quantised else job.precision
    tokens, tp = job.rank_tokens, job.layout.tp
    if matrix.part != "experts":
        rows, columns = matrix.rows / tp, matrix.columns
        return (
            reach.product(job.device, tokens, rows, columns, kind),
            reach.product(job.device, rows, columns, tokens, kind) + _accumulate(job, matrix.rows * columns / tp),
        )
    local = matrix.copies / job.layout.ep
    each = tokens / tp * matrix.met / local
    return (
        reach.product(job.device, each, matrix.rows, matrix.columns, kind, local),
        reach.product(job.device, matrix.rows, matrix.columns, each, kind, local)
        + _accumulate(job, local * matrix.rows * matrix.columns),
    )


def _accumulate(job: Job, weights: float) -> float:
    """Gradients are added to what earlier micro-batches left [s]."""
    return weights * 2 * job.software.grad_bytes / reach.memory_rate(job.device) if job.micro_batches > 1 else 0.0


def _attention(job: Job, block: Block) -> tuple[float, float]:
    attention = block.attention
    masked = job.shape.family in MASKED
    pairs = attention.heads * 2.0 * (attention.qk_dim + attention.v_dim) * job.seq
    if not masked:
        pairs = attention_pairs_flops(block, (job.seq + 1) / 2, job.seq, True)
    flops = pairs * job.rank_tokens / job.layout.tp
    width = attention.qk_dim + attention.v_dim
    again = (3 * attention.qk_dim + 2 * attention.v_dim) / width  # scores once more; dq, dk, dv, dp
    generation = 1 if masked else job.software.flash
    flops *= 1 + job.software.ring if job.cp > 1 else 1
    return (
        flops / reach.attention_rate(job.device, generation, False, attention.qk_dim),
        flops * again / reach.attention_rate(job.device, generation, True, attention.qk_dim),
    )


def _elementwise(job: Job, block: Block) -> tuple[float, float]:
    """Norms, residuals, rotations, activations, copies to and from experts, casts to FP8 [s]."""
    how, tp, hidden = job.software, job.layout.tp, job.shape.hidden
    mixed = sum(m.rows for m in block.matrices if m.part == "attention" and m.name not in ("o_proj", "out_proj"))
    inner = [m for m in block.matrices if m.name in ("gate_proj", "up_proj")]
    gated = sum(m.rows * m.met for m in inner if m.part != "experts")
    routed = sum(m.rows * m.met for m in inner if m.part == "experts")
    chosen = block.moe.chosen if block.moe else 0
    values = how.hidden * hidden + how.mixed * mixed + how.gated * (gated + routed) + how.routed * chosen * hidden
    if job.precision == "fp8":
        quantised = sum(m.columns * m.met for m in block.matrices if m.quantised)
        values += how.quantise / 2 * quantised
    forward = values / tp * 2 * job.rank_tokens / reach.memory_rate(job.device)
    return forward, 2 * forward


def _launches(job: Job, block: Block) -> float:
    """Host time of the kernels of a rank's experts, forward and backward [s]."""
    if block.moe is None:
        return 0.0
    return block.moe.experts / job.layout.ep * job.software.launches * job.software.launch_s


def _experts_share(job: Job, block: Block, times: Parts) -> float:
    """What the device does meanwhile: the experts' part of products and of what stands between them [s]."""
    whole = sum(m.activated for m in block.matrices)
    experts = sum(m.activated for m in block.matrices if m.part == "experts")
    return (times["matrix products"] + times["elementwise"]) * experts / whole


def _communicate(job: Job, block: Block, forward: Parts, inputs: Parts) -> None:
    """What of a layer's communication no compute covers."""
    how, hidden, tokens = job.software, job.shape.hidden, job.rank_tokens
    tp, cp = job.layout.tp, job.cp
    if tp > 1:
        once = tokens * hidden * 2 * (tp - 1) / tp / reach.ring_rate(job.device, tp, 1)
        forward["tensor parallel"] = 4 * once * (1 - how.hide_tp)
        inputs["tensor parallel"] = 6 * once * (1 - how.hide_tp)  # inputs are gathered again for the weights
    if cp > 1:
        attention = block.attention
        keys = attention.kv_heads * (attention.qk_dim + attention.v_dim) / tp
        once = tokens * (cp - 1) * keys * 2 / reach.ring_rate(job.device, cp, tp)
        forward["context parallel"] = max(0.0, once - 0.8 * forward["attention"])
        inputs["context parallel"] = max(0.0, 2 * once - 0.8 * inputs["attention"])
    if block.moe and job.layout.ep > 1:
        dispatch, combine = exchange(job, block)
        pairs = job.layout.pp == 1 or job.schedule != "1f1b"  # another micro-batch computes meanwhile
        seen = (dispatch + combine) * (1 - how.hide_ep if pairs else 1)
        forward["experts' exchange"] = inputs["experts' exchange"] = seen


def exchange(job: Job, block: Block) -> tuple[float, float]:
    """(dispatch, combine) of a layer's experts [s]: what a rank sends to others, by links and by the network."""
    moe = block.moe
    assert moe is not None, "only layers with experts exchange rows"
    how, device, ep = job.software, job.device, job.layout.ep
    tokens, hidden = job.rank_tokens / job.layout.tp, job.shape.hidden
    inside = min(ep, device.link_world)
    nodes = -(-ep // inside)
    chosen = moe.chosen
    ranks = ep * (1 - (1 - 1 / ep) ** chosen)  # ranks that a token visits, once each
    if nodes == 1:
        rows = ranks * (ep - 1) / ep
        seconds = tokens * rows * hidden / reach.link_rate(device)
        return seconds * how.dispatch_bytes, seconds * 2
    limit = min(nodes, moe.chosen_groups if moe.groups > 1 else nodes)
    visited = min(limit, nodes * (1 - (1 - 1 / nodes) ** chosen))
    crossing = visited * (nodes - 1) / nodes if how.once_per_node else chosen * (nodes - 1) / nodes
    seconds = max(
        tokens * crossing * hidden / reach.network_rate(device), tokens * ranks * hidden / reach.link_rate(device)
    )
    return seconds * how.dispatch_bytes, seconds * 2


def _recomputed(job: Job, times: Times) -> Times:
    """Backward with what is computed again for it."""
    again = parts()
    if job.recompute == "full":
        again = times.forward
    elif job.recompute == "selective":
        again = parts(
            {"matrix products": times.forward["matrix products"] / 2, "elementwise": times.forward["elementwise"]}
        )
    elif job.recompute == "norms":
        again = parts({"elementwise": times.forward["elementwise"] / 2})
    return Times(times.forward, added(times.inputs, again), times.weights)


def summed(all_times: Iterable[tuple[float, Times]]) -> Times:
    """Layers so and so often."""
    found = Times()
    for count, times in all_times:
        found = found.plus(times, count)
    return found
