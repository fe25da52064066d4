"""Bytes of the fullest rank of a training run, by what they are for."""

from __future__ import annotations

from dataclasses import replace

from fathom.plan.shape import Block
from fathom.plan.training.job import Job
from fathom.plan.training.step import ending, groups, layers_of

RUNTIME = 4.0e9  # driver, libraries, buffers of the communication libraries [B]
MARGIN = 1.15  # measured peaks were up to so much higher than computed ones (torchtitan, with TP and pipelines)
SLACK = 1.06  # what the allocator reserves beyond what is alive (torchtitan: reserved over active)


def memory(job: Job) -> dict[str, float]:
    """Bytes of the fullest rank: of the first, the last or a middle stage of the pipeline [B]."""
    if job.layout.pp == 1:
        return _rank(job, 1.0, 1.0, embedding=True, head=True)
    share = 1 - end_share(job)
    kept = in_flight(job)
    if job.schedule.startswith("dualpipe"):  # both ends of the model lie on one rank
        ranks = [_rank(job, 1.0, kept), _rank(job, share, kept, embedding=True, head=True)]
    else:
        ranks = [_rank(job, 1.0, kept, embedding=True), _rank(job, share, 1.0, head=True)]
    return max(ranks, key=lambda parts: sum(parts.values()))


def end_share(job: Job) -> float:
    """Share of a rank's time that the head and MTP take, so many fewer layers it has."""
    end, layers = ending(job), layers_of(job)
    mean = (sum(end.seconds) + sum(layers.seconds)) / job.layout.pp
    return min(0.75, sum(end.seconds) / mean)


def verdict(job: Job) -> str:
    """Whether the fullest rank has room, and more of it than such estimates err."""
    total, room = sum(memory(job).values()), job.device.memory_bytes
    if total > room:
        return "does not fit"
    return "fits" if total * MARGIN <= room else f"fits by less than estimates err ({MARGIN - 1:.0%})"


def fits(job: Job) -> bool:
    """Whether the fullest rank has room."""
    return sum(memory(job).values()) <= job.device.memory_bytes


def stored(job: Job, block: Block) -> float:
    """Bytes that a token leaves in one layer of a rank for the backward pass, under the recompute policy [B]."""
    how, tp, hidden = job.software, job.layout.tp, job.shape.hidden
    if job.recompute == "full":
        return 2.0 * hidden / tp
    eager = how.name == "eager"
    attention = [m for m in block.matrices if m.part == "attention"]
    width = 1.0 if how.store_fp8 else 2.0  # of an input of a product
    out = sum(m.columns for m in attention if m.name in ("o_proj", "out_proj"))
    latent = sum(m.rows for m in attention if m.name in ("q_a_proj", "kv_a_proj_with_mqa"))
    expanded = sum(m.rows for m in attention if m.name not in ("q_a_proj", "kv_a_proj_with_mqa", "o_proj", "out_proj"))
    mlp = [m for m in block.matrices if m.part in ("dense_mlp", "shared_experts", "experts")]
    gated = sum(m.rows * m.met for m in mlp if m.name != "down_proj")
    inner = sum(m.columns * m.met for m in mlp if m.name == "down_proj")
    chosen = block.moe.chosen if block.moe else 0
    residuals = 2 * 2 * hidden
    normed = 2 * width * hidden
    values = residuals + 2 * latent + (1.5 if how.store_fp8 else 2.0) * out + width * (gated + chosen * hidden)
    if job.recompute == "norms":
        return values / tp
    if job.recompute == "selective":  # every other product, and attention
        return (
            (7 if eager else 4) * hidden + 2 * out + (2 * expanded + 2 * latent + 2 * gated) / 2 + 2 * chosen * hidden
        ) / tp
    values += normed + 2 * expanded + width * inner
    if eager:
        values += 2 * 4 * hidden + 2 * expanded + 2 * gated / 2
    return values / tp


def in_flight(job: Job) -> float:
    """Micro-batches whose activations a rank of the first stage keeps at once, in shares of a rank's layers."""
    pp, count = job.layout.pp, job.micro_batches
    if pp == 1:
        return 1.0
    if job.schedule == "dualpipe":
        return float(min(count, pp + 1))
    if job.schedule == "dualpipev":
        return min(count, (2 * pp + 1) / 2)
    if job.schedule == "interleaved":
        return min(count, (2 * (pp - 1) + (job.chunks - 1) * pp + 1) / job.chunks)
    return float(min(count, pp))


def _rank(job: Job, share: float, kept: float, *, embedding: bool = False, head: bool = False) -> dict[str, float]:
    """A rank with that share of an even part of the layers, and `kept` micro-batches of their activations."""
    shape, layout = job.shape, job.layout
    part = share * job.copies / layout.pp
    blocks = [(part * block.count, block) for block in shape.blocks]
    if head and job.mtp and shape.mtp:
        blocks.append((float(shape.mtp_depth), shape.mtp))
    dense = sum(n * (b.elements() - b.elements("experts")) for n, b in blocks) / layout.tp
    experts = sum(n * b.elements("experts") for n, b in blocks) / layout.ep
    tables = max(embedding + head - (shape.tied and embedding and head), 0)
    dense += tables * shape.embedding / layout.tp
    return {**_states(job, dense, experts), **_activations(job, blocks, kept, head)}


def _states(job: Job, dense: float, experts: float) -> dict[str, float]:
    how = job.software
    found = dict.fromkeys(("weights", "gradients", "optimizer"), 0.0)
    for parameters, ranks in zip((dense, experts), groups(job), strict=True):
        whole = job.zero < 3
        found["weights"] += parameters * 2 / (1 if whole else ranks)
        found["gradients"] += parameters * how.grad_bytes / (ranks if job.zero >= 2 else 1)
        found["optimizer"] += parameters / job.copies * (4 + how.moment_bytes) / (ranks if job.zero >= 1 else 1)
    if job.zero == 3:  # a layer, and the next, gathered
        largest = max(block.elements() - block.elements("experts") for block in job.shape.blocks)
        found["weights"] += 2 * 2 * largest / job.layout.tp
        found["gradients"] += how.grad_bytes * largest / job.layout.tp
    return found


def _activations(job: Job, blocks: list[tuple[float, Block]], kept: float, head: bool) -> dict[str, float]:
    tokens = job.rank_tokens
    layers = sum(count * stored(job, block) for count, block in blocks) * tokens / job.copies
    work = max(stored_whole(job, block) for _, block in blocks) * tokens if job.recompute == "full" else 0.0
    logits = tokens * job.shape.vocab / job.layout.tp * job.software.logit_bytes if head else 0.0
    # with TP, inputs are gathered and outputs not yet divided again, forward and backward
    gathered = 4 * 2 * tokens * job.shape.hidden if job.layout.tp > 1 else 0.0
    alive = layers * kept + max(work, logits) + gathered
    return {"activations": alive, "reserve": RUNTIME + (SLACK - 1) * alive}


def stored_whole(job: Job, block: Block) -> float:
    """Bytes of a token in a layer that is computed again as a whole [B]."""
    return 1.5 * stored(replace(job, recompute="none"), block)
