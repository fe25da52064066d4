"""How long a step of a replica takes: a decode step of so many sequences, or a step that reads prompts.

    seconds = layers x (time of a layer)  +  weights and cache read / (bandwidth x share)  +  prompts / (peak x share)
              the three fitted shares: knobs.py
    and by the laws of kernels.py and exchange.py: compute of products where it exceeds reading, attention over the
    cache, and rows sent to experts on other ranks.

`decode_step` is a step in which every sequence gets its next tokens, `prefill_step` one on a replica that only reads
prompts. Both mixed, as most engines do it: rates.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import exchange, kernels
from fathom.plan.hardware import Device
from fathom.plan.knobs import Knobs, shipped, years
from fathom.plan.precision import PRECISIONS, Peak, Precision, precision
from fathom.plan.shape import Block, Shape

CACHE_BYTES = {"bf16": 2.0, "fp8": 1.0}
#: MLA in FP8: 512 values of a byte, four FP32 scales, 64 rotary values in BF16 (FlashMLA); shares of a value.
LATENT_FP8 = 656 / 576
COMPUTE_SHARE = 0.7  # of what the best large product reaches, for products of a few hundred rows
BLEND = 2.5  # exponent of the smooth maximum of compute and reading
#: What exchange takes of the cores that compute beside it, while prompts are read: 20 of 132 (DeepSeek-V3, 3.2.2).
SHARED_CORES = 20 / 132
WAIT = 0.07  # standard deviation of the time of a rank's step, relative: sequences, lengths and experts differ
#: Read and written between products, in a layer: for each value of a token's width (two norms with their residuals and
#: quantised copies, query, keys, output), of a row that goes to an expert (gathered in FP8, added up in BF16), and of
#: the gate and up products of an expert (BF16, activated, quantised).
PASS_BYTES, ROW_BYTES, GATE_BYTES = 24, 6, 10
SENT = ("dispatch", "combine")  # rows to experts, and back
AMONG = ("experts", "rows")  # parts between the two
ROPE_BYTES = 4  # of a query that is turned and put together, and of an expanded key as well


@dataclass(frozen=True)
class Setup:
    """One replica: a model on devices in a layout.

    Fields: precision: of the weights; "" as the checkpoint has them. engine: whose measurements tell of it, "" for the
            mean of all; date: of its version, such as 2026-02, "" for the middle of those measured. mtp: tokens drafted
            per step, each accepted with `acceptance`. overlap: two micro-batches, one computes while the other
            exchanges. redundant: copies of busy experts per layer. balancedness: mean load of the ranks over that of
            the busiest; None: what `balanced` takes.
    """

    shape: Shape
    device: Device
    layout: Layout = Layout()
    precision: str = ""
    cache: str = "bf16"
    engine: str = ""
    mtp: int = 0
    acceptance: float = 0.8
    overlap: bool = False
    redundant: int = 0
    balancedness: float | None = None
    date: str = ""

    def __post_init__(self) -> None:
        if self.cache not in CACHE_BYTES:
            raise ConfigError(f"cache is {self.cache!r}; it must be one of {', '.join(CACHE_BYTES)}.")
        if self.precision and self.precision not in PRECISIONS:
            precision(self.precision)
        if not 0 <= self.acceptance <= 1:
            raise ConfigError(f"acceptance is {self.acceptance:g}; it must be between 0 and 1.")
        if self.mtp < 0 or self.redundant < 0:
            raise ConfigError(f"mtp is {self.mtp} and redundant {self.redundant}; neither may be below 0.")
        if self.balancedness is not None and not 0 < self.balancedness <= 1:
            raise ConfigError(f"balancedness is {self.balancedness:g}; it must be above 0, and at most 1.")
        years(self.date)

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return self.layout.world_size

    @property
    def weights(self) -> Precision:
        """How the weights are stored."""
        return precision(self.precision or self.shape.precision)

    @property
    def runs_at(self) -> Peak:
        """The peak of its products: a device without FP4 widens such weights to BF16 first."""
        narrow = self.weights.peak == "fp4" and self.device.fp4_tflops is None
        return "bf16" if narrow else self.weights.peak

    @property
    def keys(self) -> tuple[str, ...]:
        """What its knobs are named by."""
        return (
            f"family {self.shape.family}", f"engine {self.engine}", f"device {self.device.name}",
            f"precision {self.weights.name}",
        )  # fmt: skip

    @property
    def accepted(self) -> float:
        """Tokens that a decode step gives a sequence: itself, and drafts up to the first that is refused."""
        return sum(self.acceptance**n for n in range(self.mtp + 1))

    @property
    def balanced(self) -> float:
        """Mean load of the ranks that hold experts over that of the busiest.

        With copies of busy experts 0.85 (SGLang's EPLB in service), without 0.7; 1 where each rank has a part of all.
        """
        if self.balancedness is not None:
            return self.balancedness
        if self.layout.ep == 1 or self.shape.moe is None:
            return 1.0
        return 0.85 if self.redundant else 0.7 if self.layout.dp > 1 else 0.9


@dataclass(frozen=True)
class Part:
    """What a step spends on one thing. bound: the resource that sets it. hidden: behind another part's time."""

    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0
    bound: str = ""
    hidden: float = 0.0


@dataclass(frozen=True)
class Step:
    """A step of a replica: its parts, and how sure its time is. sd: relative, of one prediction."""

    seconds: float
    parts: tuple[Part, ...]
    sd: float

    @property
    def bound(self) -> str:
        """The resource of the largest part."""
        return max(self.parts, key=lambda part: part.seconds - part.hidden).bound


@dataclass(frozen=True)
class Work:
    """What one rank multiplies and reads in a step, over all its layers: FLOPs and bytes of weights."""

    flops: float
    bytes: float


def decode_step(setup: Setup, sequences: float, context: float, knobs: Knobs | None = None) -> Step:
    """A step in which each of `sequences` (of the replica) at `context` tokens gets its next ones.

    Raises: ConfigError: a number is not above 0.
    """
    if not (sequences > 0 and context > 0):
        raise ConfigError(f"{sequences:g} sequences at {context:g} tokens; both must be above 0.")
    knob = (knobs or shipped()).of(setup.keys, setup.date)
    layout, shape, device = setup.layout, setup.shape, setup.device
    tokens = sequences * (1 + setup.mtp)
    dense, experts = weights_work(setup, tokens)
    if setup.overlap:  # each micro-batch reads the weights anew
        dense, experts = (Work(work.flops, 2 * work.bytes) for work in (dense, experts))
    lane = sequences / layout.dp
    peak = device.peak(setup.runs_at) * kernels.matmul_share(device) * COMPUTE_SHARE
    read = device.memory_bytes_per_s * knob.memory
    parts = [
        Part("layers", shape.layers * knob.layer_s, bound="launches"),
        _product("dense products", dense, peak, read),
        _product("experts", experts, peak, read),
        attention(setup, lane, context, knob.memory),
        *_passes(setup, tokens / layout.dp),
        Part("host", knob.host_s * lane, bound="host"),
        *exchanges(setup, tokens),
    ]
    if setup.mtp and shape.mtp:
        parts.append(_draft(setup, sequences, context, knob.layer_s, read))
    return _joined(setup, parts, knob.sd)


def prefill_step(
    setup: Setup, tokens: float, cached: float = 0.0, prompt: float = 4096, knobs: Knobs | None = None
) -> Step:
    """A step that reads `tokens` of prompts, on a replica that does nothing else.

    Args: tokens: of the whole replica. prompt: tokens of each prompt. cached: before them, already in the cache.
    """
    if not (tokens > 0 and prompt > 0 and cached >= 0):
        raise ConfigError(
            f"{tokens:g} tokens in prompts of {prompt:g} after {cached:g}; the first two must be above 0."
        )
    knob = (knobs or shipped()).of(setup.keys, setup.date)
    layout, shape, device = setup.layout, setup.shape, setup.device
    prompts = max(1e-9, tokens / layout.dp / prompt)
    seconds = sum(
        block.count
        * kernels.attention_prefill(device, block.attention, prompt, cached, sequences=prompts, tp=layout.tp)
        for block in shape.blocks
    )
    flops = sum(b.count * tokens * b.attention.flops(cached + prompt / 2) for b in shape.blocks) / setup.devices
    parts = [
        Part("layers", shape.layers * knob.layer_s, bound="launches"),
        *products(setup, tokens / (2 if setup.overlap else 1), 2 if setup.overlap else 1),
        Part("attention", seconds, flops=flops, bound="compute"),
        *_passes(setup, tokens / layout.dp),
        *exchanges(setup, tokens, prompts_only=True),
    ]  # fmt: skip
    return _joined(setup, parts, knob.sd, shared=SHARED_CORES)


def products(setup: Setup, tokens: float, times: int) -> Iterable[Part]:
    """Products of a step that reads prompts, on the busiest rank, by the laws of kernels.py. Args: times: each."""
    dense = routed = flops = more = 0.0
    kind, layout = setup.weights, setup.layout
    experts = kind.name if setup.runs_at == kind.peak else "int4"
    rest = kind.rest if kind.experts_only and setup.shape.moe else kind.name
    lane, ranks = tokens / layout.dp, layout.dp * layout.tp
    for block in setup.shape.blocks:
        for m in block.matrices:
            if m.part == "experts" and block.moe:
                held = (m.copies + setup.redundant) / layout.ep
                met = max(1e-9, min(held, block.moe.met_by(tokens) / layout.ep))
                rows = tokens * m.met / layout.ep / setup.balanced
                wide = max(1.0, m.rows * layout.ep / ranks)
                routed += block.count * kernels.grouped_gemm(setup.device, met, rows, wide, m.columns, experts)
                more += block.count * 2.0 * rows * wide * m.columns
                continue
            name = rest if m.quantised else "bf16"
            took = block.count * kernels.gemm(setup.device, lane, max(1.0, m.rows / layout.tp), m.columns, name)
            work = block.count * 2.0 * lane * m.rows * m.columns / layout.tp
            if m.part == "shared_experts":
                routed, more = routed + took, more + work
            else:
                dense, flops = dense + took, flops + work
    yield Part("dense products", dense * times, flops * times, bound="compute")
    yield Part("experts", routed * times, more * times, bound="compute")


def weights_work(setup: Setup, tokens: float) -> tuple[Work, Work]:
    """(all but experts, experts): what the busiest rank does for `tokens` tokens of the replica, over its layers."""
    dense = [_dense(setup, block, tokens) for block in setup.shape.blocks]
    head = setup.shape.vocab * setup.shape.hidden / setup.layout.tp
    flops = sum(work.flops for work in dense) + 2.0 * head * tokens / setup.layout.dp
    routed = [_experts(setup, block, tokens) for block in setup.shape.blocks if block.moe]
    return (
        Work(flops, sum(work.bytes for work in dense) + head * 2.0),
        Work(sum(work.flops for work in routed), sum(work.bytes for work in routed)),
    )


def _dense(setup: Setup, block: Block, tokens: float) -> Work:
    elements, size = _plain(block, setup.weights.name, setup.shape.moe is not None)
    share = 1.0 / setup.layout.tp
    return Work(2.0 * elements * share * tokens / setup.layout.dp * block.count, size * share * block.count)


@lru_cache(maxsize=4096)
def _plain(block: Block, name: str, sparse: bool) -> tuple[float, float]:
    """(elements that a token meets, their bytes) of one layer, routed experts aside."""
    kind = precision(name)
    rest = precision(kind.rest) if kind.experts_only and sparse else kind
    found = [m for m in block.matrices if m.part != "experts"]
    size = sum(m.activated * (rest.weight_bytes if m.quantised else 2.0) for m in found)
    return float(sum(m.activated for m in found)), size


def _experts(setup: Setup, block: Block, tokens: float) -> Work:
    """Experts of the ranks that share them out: what the busiest does and reads."""
    moe = block.moe
    assert moe is not None, "a block without routed experts has no such work"
    one = sum(m.rows * m.columns for m in block.matrices if m.part == "experts")
    ranks = setup.layout.dp * setup.layout.tp
    held = (moe.experts + setup.redundant) / setup.layout.ep
    met = min(held, moe.met_by(tokens) / setup.layout.ep / setup.balanced)
    cut = setup.layout.ep / ranks  # each expert over so many ranks
    flops = 2.0 * one * moe.chosen * tokens / ranks / setup.balanced
    return Work(flops * block.count, met * cut * one * setup.weights.weight_bytes * block.count)


def attention(setup: Setup, sequences: float, context: float, share: float) -> Part:
    """Attention over the cache of `sequences` of one dp rank, on one of its tp ranks, over all layers."""
    seconds = flops = read = 0.0
    for block in setup.shape.blocks:
        one, width = block.attention, LATENT_FP8 if setup.cache == "fp8" else 2.0
        if one.kind != "latent":
            width = CACHE_BYTES[setup.cache]
        cut = 1 if one.kind == "latent" else min(setup.layout.tp, one.kv_heads)
        values = one.cache_values * one.seen(context) + one.state_values * 2
        size = sequences * values * width / cut * block.count
        work = sequences * (1 + setup.mtp) * one.flops(context, absorbed=True) / setup.layout.tp * block.count
        narrow = setup.cache == "fp8" and one.kind == "latent" and setup.device.fp4_tflops is not None
        peak = setup.device.peak("fp8" if narrow else "bf16") * kernels.shipped().decode_share
        seconds += kernels.blend(work / peak, size / (setup.device.memory_bytes_per_s * share), BLEND)
        flops, read = flops + work, read + size
    bound = (
        "compute" if flops / setup.device.peak("bf16") > read / setup.device.memory_bytes_per_s else "memory bandwidth"
    )
    return Part("attention", seconds, flops, read, bound)


def exchanges(setup: Setup, tokens: float, *, prompts_only: bool = False) -> Iterable[Part]:
    """Rows sent to experts on other ranks and back, where attention is data-parallel; sums of tp ranks, in prompts."""
    layout, shape, device = setup.layout, setup.shape, setup.device
    if layout.ep > 1 and layout.dp > 1 and shape.moe:
        moe, each = shape.moe, tokens / layout.dp / layout.tp
        nodes = moe.chosen_groups if moe.groups > 1 else 0
        busiest = 1.0 / setup.balanced if prompts_only else 1.0
        rows = (exchange.dispatch_row_bytes(shape.hidden), exchange.combine_row_bytes(shape.hidden))
        for name, row in zip(SENT, rows, strict=True):
            seconds = exchange.all_to_all(
                device, layout.ep, each, row, chosen=moe.chosen, nodes=nodes, low_latency=not prompts_only,
                overlapped=prompts_only and setup.overlap,
            )  # fmt: skip
            size = each * row * moe.chosen * shape.moe_layers
            yield Part(name, seconds * shape.moe_layers * busiest, bytes=size, bound="network")
    if layout.ep == 1 and layout.dp > 1 and shape.moe:  # each rank has a slice of every expert, so it sees all tokens
        size = tokens * shape.hidden
        each = exchange.all_gather(device, layout.dp * layout.tp, size) + exchange.all_gather(
            device, layout.dp * layout.tp, 2.0 * size
        )
        yield Part("gather", shape.moe_layers * each, bytes=3 * size * shape.moe_layers, bound="network")
    if layout.tp > 1:
        size = tokens / layout.dp * shape.hidden * 2.0
        each = exchange.all_reduce(device, layout.tp, size)
        yield Part("all-reduce", 2 * shape.layers * each, bytes=2 * shape.layers * size, bound="links")


def _passes(setup: Setup, tokens: float) -> Iterable[Part]:
    """Norms, activations, quantisation, rotary embedding and residuals of a dp rank's tokens; rows of experts that are
    gathered, activated and added up. Launches not counted."""
    shape, read = setup.shape, setup.device.memory_bytes_per_s * kernels.shipped().elementwise_share
    width = rows = 0.0
    for block in shape.blocks:
        turned = ROPE_BYTES * (2 if block.attention.kind == "latent" else 1) * block.attention.heads
        width += block.count * (PASS_BYTES * shape.hidden + turned * block.attention.qk_dim)
        if block.moe:
            rows += block.count * block.moe.chosen * (ROW_BYTES * shape.hidden + GATE_BYTES * block.moe.width)
    for name, each in (("passes", width), ("rows", rows)):
        size = each * tokens / setup.layout.tp
        yield Part(name, size / read, bytes=size, bound="memory bandwidth")


def _product(name: str, work: Work, peak: float, read: float) -> Part:
    compute, memory = work.flops / peak, work.bytes / read
    bound = "compute" if compute > memory else "memory bandwidth"
    return Part(name, kernels.blend(compute, memory, BLEND), work.flops, work.bytes, bound)


def _draft(setup: Setup, sequences: float, context: float, layer_s: float, read: float) -> Part:
    """The MTP module, once for each drafted token: a layer and the head."""
    module = setup.shape.mtp
    assert module is not None, "only a model with an MTP module drafts with it"
    plain = _plain(module, setup.weights.name, sparse=True)[1] / setup.layout.tp
    size = plain + (_experts(setup, module, sequences).bytes if module.moe else 0.0)
    size += setup.shape.vocab * setup.shape.hidden * 2.0 / setup.layout.tp
    size += sequences / setup.layout.dp * context * module.attention.cache_values * 2.0
    return Part("drafts", setup.mtp * (2 * layer_s + size / read), bytes=setup.mtp * size, bound="memory bandwidth")


def _joined(setup: Setup, parts: list[Part], sd: float, shared: float = 0.0) -> Step:
    """The parts one after the other, or exchanges behind the rest where two micro-batches take turns.

    A step waits for its slowest rank: WAIT is the spread of their times. Args: shared: of the cores, that exchange
    takes while prompts are read; that of a decode step takes none (DeepEP, low latency).
    """
    sent = sum(part.seconds for part in parts if part.name in SENT)
    ranks = setup.layout.dp
    if ranks > 1 and setup.balanced < 1:
        lost = WAIT * math.sqrt(2 * math.log(ranks)) * (sum(p.seconds for p in parts) - sent)
        parts.append(Part("waiting", lost, bound="balance of ranks"))
    total = sum(part.seconds for part in parts)
    if setup.overlap and sent:
        hidden = _hidden(parts) * (1 - shared) if shared else min(sent, total - sent)
        parts = [replace(p, hidden=hidden * p.seconds / sent if p.name in SENT else 0.0) for p in parts]
        total -= hidden
    if setup.layout.pp > 1:  # a token goes through all stages, one after the other
        hop = exchange.send(setup.device, setup.shape.hidden * 2.0) * (setup.layout.pp - 1)
        parts.append(Part("stages", hop, bound="network"))
        total += hop
    return Step(total, tuple(parts), sd)


def _hidden(parts: list[Part]) -> float:
    """What two micro-batches of prompts hide of each other.

    Four times a layer one computes, its experts or the rest, while the other sends or gets back; the longer of both
    counts. In decode steps attention is divided further (DeepSeek's five stages), so only the sums matter.
    """
    among = sum(p.seconds for p in parts if p.name in AMONG)
    before = sum(p.seconds for p in parts if p.name not in SENT) - among
    sent = [sum(p.seconds for p in parts if p.name == name) for name in SENT]
    return sum(min(one, other) for one in (before, among) for other in sent) / 2
