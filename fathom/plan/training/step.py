"""Time of one training step: stages, schedule, data-parallel communication and optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.layout.pipeline import Durations, bubble
from fathom.plan.shape import Block
from fathom.plan.training import reach
from fathom.plan.training.chunk import Parts, Times, added, head, layer, parts, summed
from fathom.plan.training.job import Job


@dataclass(frozen=True)
class Step:
    """Fields: seconds of a step; parts: of a rank, what they add up to [s]; times: its forward and backwards of one
    micro-batch [s]; idle: the wait of its schedule [s].
    """

    seconds: float
    parts: Parts
    times: Durations
    idle: float

    @property
    def bound(self) -> str:
        """The largest part."""
        return self.ordered[0][0]

    @property
    def ordered(self) -> list[tuple[str, float]]:
        """The parts, the largest first."""
        return sorted(self.parts.items(), key=lambda one: -one[1])


def step(job: Job) -> Step:
    """One step of a job."""
    stage, even = busiest(job)
    forward, inputs, weights = stage.seconds
    durations = Durations(forward, inputs + weights, weights, forward + inputs + weights)
    idle = _idle(job, durations)
    spent = parts()
    for times in stage.all:
        spent = added(spent, times, job.micro_batches * even)
    spent["pipeline bubble"] = idle + job.micro_batches * (1 - even) * sum(stage.seconds)
    spent["between stages"] = _between_stages(job)
    spent["data parallel"] = _data_parallel(job, durations)
    spent["optimizer"] = _optimizer(job)
    spent = parts({part: seconds for part, seconds in spent.items() if seconds > 0})
    return Step(sum(spent.values()), spent, durations, idle)


def busiest(job: Job) -> tuple[Times, float]:
    """(the work of the busiest rank on one micro-batch, the mean rank's share of it)."""
    end = ending(job)
    total = summed([(1.0, layers_of(job)), (1.0, end)])
    mean = sum(total.seconds) / job.layout.pp
    if job.layout.pp == 1:
        return total, 1.0
    plain = [seconds for block in job.shape.blocks for seconds in [sum(layer(job, block).seconds)] * block.count]
    longest = spread(plain, sum(end.seconds), job.stages)
    if job.schedule in ("interleaved", "dualpipev"):  # a rank has the longest chunk once, among others
        worst = mean + longest - mean * job.layout.pp / job.stages
    else:  # or as its only one; under DualPipe for every other micro-batch
        worst = mean + (longest - mean) / job.copies
    worst = max(worst, mean)
    scale = worst / (mean * job.layout.pp)
    return summed([(scale, total)]), mean / worst


def layers_of(job: Job) -> Times:
    """All layers of the main model, on one micro-batch."""
    return summed((float(block.count), layer(job, block)) for block in job.shape.blocks)


def ending(job: Job) -> Times:
    """What follows the last layer: head and loss, and MTP with its own use of the head."""
    end, shape = head(job), job.shape
    if job.mtp and shape.mtp:
        return summed([(1.0 + shape.mtp_depth, end), (float(shape.mtp_depth), layer(job, shape.mtp))])
    return end


def spread(costs: list[float], end: float, stages: int) -> float:
    """The longest stage where layers in order, and the end after the last of them, are cut as evenly as can be."""
    everything = [*costs, end]
    low, high = max(max(everything), sum(everything) / stages), sum(everything)
    for _ in range(30):
        limit = (low + high) / 2
        used, room = 1, limit
        for cost in everything:
            if cost > room:
                used, room = used + 1, limit
            room -= cost
        low, high = (low, limit) if used <= stages else (limit, high)
    return high


def _idle(job: Job, durations: Durations) -> float:
    """The bubble, from times of a rank's whole share [s]."""
    pp = job.layout.pp
    if pp == 1:
        return 0.0
    parts = {"interleaved": job.chunks, "dualpipev": 2}.get(job.schedule, 1)
    each = Durations(
        *(one / parts for one in (durations.forward, durations.backward, durations.weight, durations.both))
    )
    return bubble(job.schedule, pp, each, job.chunks)


def _between_stages(job: Job) -> float:
    """Activations and their gradients to the next stage, where nothing else runs meanwhile [s]."""
    if job.layout.pp == 1 or job.software.hide_ep > 0:
        return 0.0
    sent = job.rank_tokens * job.shape.hidden * 2 / job.layout.tp / reach.network_rate(job.device)
    return 2 * sent * job.micro_batches * job.stages / job.layout.pp * (1 - job.software.hide_tp)


def held(job: Job) -> tuple[float, float]:
    """(dense, expert) parameters on a rank, embeddings and heads spread over the stages."""
    shape, layout = job.shape, job.layout

    def of(block: Block, experts: bool) -> float:
        found = block.elements("experts")
        return found if experts else block.elements() - found

    blocks = [(block.count, block) for block in shape.blocks]
    if job.mtp and shape.mtp:
        blocks.append((shape.mtp_depth, shape.mtp))
    dense = sum(count * of(block, False) for count, block in blocks) + shape.embedding * (1 if shape.tied else 2)
    experts = sum(count * of(block, True) for count, block in blocks)
    return dense / layout.tp / layout.pp * job.copies, experts / layout.ep / layout.pp * job.copies


def groups(job: Job) -> tuple[int, int]:
    """(ranks that share dense parameters, ranks that share experts), copies of one rank counted once."""
    data = job.layout.dp
    return data, max(1, data * job.layout.tp // job.layout.ep)


def _data_parallel(job: Job, durations: Durations) -> float:
    """Gathering of weights and reduction of gradients that compute does not cover, of a step [s]."""
    exposed = 0.0
    per_step = 1 if job.zero < 3 else job.micro_batches
    cover_ahead, cover_back = durations.forward, durations.backward
    gathered = reduced = 0.0
    for parameters, ranks, stride in zip(held(job), groups(job), (job.layout.tp, job.layout.ep), strict=True):
        if ranks == 1:
            continue
        rate = reach.ring_rate(job.device, ranks, stride)
        waited = reach.ring_latency(job.device, ranks, stride) * job.shape.layers / job.layout.pp
        once = parameters / job.copies * (ranks - 1) / ranks / rate
        gathered += once * (1 if job.precision == "fp8" and job.software.quantise == 3 else 2) + waited
        reduced += once * job.software.grad_bytes + waited
    ahead, back = (gathered, gathered + reduced) if job.zero == 3 else (gathered, reduced)
    for wanted, cover in ((ahead, cover_ahead), (back, cover_back)):
        exposed += max(0.0, wanted - cover) + (1 - job.software.hide_dp) * min(wanted, cover)
    return exposed * per_step


def _optimizer(job: Job) -> float:
    """AdamW: reads gradient, master weight and moments, writes weight, master weight and moments [s]."""
    per_parameter = job.software.grad_bytes + 2 * 4 + 2 * job.software.moment_bytes + 2
    shares = [
        parameters / job.copies / (ranks if job.zero else 1)
        for parameters, ranks in zip(held(job), groups(job), strict=True)
    ]
    return sum(shares) * per_parameter / reach.memory_rate(job.device)
