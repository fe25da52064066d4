"""A training run as the planner sees it: model, machines, layout, schedule, precision, and the framework."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fathom.config import nearest
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.pipeline import check as check_schedule
from fathom.plan.hardware import Device
from fathom.plan.shape import Block, Shape

RECOMPUTE = ("none", "norms", "selective", "full")
PRECISIONS = ("bf16", "fp8")


@dataclass(frozen=True)
class Software:
    """What a framework does with the time between matrix products: properties that its documentation states.

    Fields: passes over values of two bytes, in one forward of a layer: hidden (norms, residuals), mixed (queries, keys
            and values: rotation, copies), gated (the inner values of an MLP), routed (rows of tokens sent to experts).
            quantise: passes over every GEMM input that FP8 adds, forward and backward. flash: generation of its
            attention kernels. ring: what a context shared by ranks adds to its time. compute_share: of the cores, the
            rest sends. weight_share: rate of products for gradients of weights, over that of others. launches: kernels
            of one expert, forward and backward; launch_s: host time of each, 0: replayed from graphs [s]. hide_*: share
            of the communication of a kind that compute can cover. dispatch_bytes: of a value sent to an expert [B].
            once_per_node: a token's row crosses to a node once. grad_bytes, moment_bytes: gradient and both moments of
            a parameter [B]. logit_bytes: of one, to its loss and back: 14 in BF16, FP32 and twice more, 6 where the
            loss is one kernel. store_fp8: activations kept in FP8.
    """

    name: str
    hidden: float
    mixed: float
    gated: float
    routed: float
    quantise: float = 4.0
    flash: int = 3
    ring: float = 0.1
    compute_share: float = 1.0
    launches: int = 50
    launch_s: float = 8e-6
    hide_tp: float = 0.0
    hide_ep: float = 0.0
    hide_dp: float = 0.9
    weight_share: float = 1.0
    dispatch_bytes: float = 2.0
    once_per_node: bool = True
    grad_bytes: float = 4.0
    logit_bytes: float = 6.0
    moment_bytes: float = 8.0
    store_fp8: bool = False


#: passes: counted from the kernels each one runs. eager: an RMSNorm in FP32 by its parts is 14 passes, a rotation 10, a
#: SwiGLU 5; plain: LayerNorm and GELU as one kernel each; compiled, megatron, hai: norms with residuals, rotations and
#: activations fused; fused, graphs: casts in grouped products too, and no host between kernels
#: (Megatron-Bridge 0.5, release notes). hai: 20 of 132 cores send, and products for weights run at 583 TFLOPS where
#: others run at 916 (kernel sums of deepseek-ai/profile-data, train.json).
SOFTWARE = {
    one.name: one
    for one in (
        Software("eager", hidden=34, mixed=10, gated=2.5, routed=8, flash=2, ring=0.4, hide_dp=0.5, logit_bytes=14),
        Software("plain", hidden=14, mixed=3, gated=2.0, routed=8, flash=1, ring=0.4, hide_dp=0.5, logit_bytes=14),
        Software(
            "compiled", hidden=10, mixed=2, gated=1.5, routed=4, flash=2, quantise=3, ring=0.4, hide_dp=0.5,
            logit_bytes=14,
        ),
        Software("megatron", hidden=10, mixed=2, gated=1.5, routed=4, hide_tp=0.7),
        Software("fused", hidden=10, mixed=2, gated=1.0, routed=3, quantise=2, hide_tp=0.7),
        Software(
            "graphs", hidden=10, mixed=2, gated=1.0, routed=3, quantise=2, hide_tp=0.7, hide_ep=0.5, launch_s=1e-6,
        ),
        Software(
            "hai", hidden=10, mixed=2, gated=1.5, routed=4, launch_s=0.0, hide_tp=0.7, hide_ep=0.96,
            compute_share=112 / 132, weight_share=583 / 916, dispatch_bytes=1 + 4 / 128, moment_bytes=4, store_fp8=True,
        ),
    )
}  # fmt: skip


def software(name: str) -> Software:
    """The software called `name`."""
    if name not in SOFTWARE:
        raise ConfigError(f"software {name!r} is not known{nearest(name, SOFTWARE)}; use {', '.join(SOFTWARE)}.")
    return SOFTWARE[name]


@dataclass(frozen=True)
class Job:
    """Fields: layout: its dp counts ranks with other tokens. cp: so many of them share one sequence. chunks: of a rank,
    where interleaved. seq [tokens]. batch: sequences of a step. micro: sequences of a micro-batch.
    zero: what data-parallel ranks divide: 0 nothing, 1 optimizer states, 2 and gradients, 3 and weights (FSDP).
    """

    shape: Shape
    device: Device
    layout: Layout = Layout()
    cp: int = 1
    schedule: str = "1f1b"
    chunks: int = 1
    precision: str = "bf16"
    seq: int = 4096
    batch: int = 1024
    micro: int = 1
    zero: int = 1
    recompute: str = "none"
    mtp: bool = True
    software: Software = SOFTWARE["megatron"]

    def __post_init__(self) -> None:
        for name in ("cp", "chunks", "seq", "batch", "micro"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; training is planned in {' or '.join(PRECISIONS)}.")
        if self.recompute not in RECOMPUTE:
            raise ConfigError(f"recompute is {self.recompute!r}; use {', '.join(RECOMPUTE)}.")
        if self.zero not in range(4):
            raise ConfigError(f"zero is {self.zero}; it must be 0, 1, 2 or 3.")
        if self.stages > self.shape.layers:
            raise ConfigError(
                f"pp {self.layout.pp} x {self.chunks} chunks are more than {self.shape.layers} layers; use fewer."
            )
        moe = self.shape.moe
        if self.layout.dp % self.cp:
            raise ConfigError(f"cp is {self.cp}, which does not divide dp {self.layout.dp}; use a divisor.")
        if moe and moe.experts % self.layout.ep:
            raise ConfigError(f"ep is {self.layout.ep}, which does not divide {moe.experts} experts.")
        unit = self.replicas * self.micro
        if self.batch % unit:
            raise ConfigError(
                f"batch is {self.batch} sequences, not a multiple of {unit} (dp {self.replicas} x micro-batches of "
                f"{self.micro}); use {max(1, round(self.batch / unit)) * unit}."
            )
        if self.layout.pp > 1:
            check_schedule(self.schedule, self.layout.pp, self.micro_batches, self.chunks)

    @property
    def gpus(self) -> int:
        """Devices."""
        return self.layout.world_size

    @property
    def replicas(self) -> int:
        """Groups of ranks that take different sequences."""
        return self.layout.dp // self.cp

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a rank works on in a step."""
        return self.batch // (self.replicas * self.micro)

    @property
    def stages(self) -> int:
        """Runs of consecutive layers that the model is cut into."""
        return self.layout.pp * (2 if self.schedule == "dualpipev" else self.chunks)

    @property
    def copies(self) -> int:
        """Copies of its share of the model that a rank holds."""
        return 2 if self.schedule == "dualpipe" and self.layout.pp > 1 else 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.seq

    @property
    def rank_tokens(self) -> float:
        """Tokens of a micro-batch on one rank; with TP, on all ranks that share them."""
        return self.micro * self.seq / self.cp

    def flops_per_token(self, *, causal: bool = True) -> float:
        """Model FLOPs of one token, forward and backward, without MTP and recompute [FLOP]."""
        shape = self.shape
        pairs = (self.seq + 1) / 2 if causal else self.seq
        attention = sum(block.count * attention_pairs_flops(block, pairs, self.seq, causal) for block in shape.blocks)
        return 3.0 * (2.0 * shape.activated + attention)


def attention_pairs_flops(block: Block, pairs: float, seq: int, causal: bool) -> float:
    """FLOPs of the attention of one layer for one token, forward [FLOP]; a window covers seq tokens at its ramp."""
    attention = block.attention
    window = attention.window
    if attention.kind == "linear" or window is None or window >= seq:
        return float(attention.flops(pairs))
    ramp = window * (1 - window / (2 * seq)) if causal else float(window)
    return float(attention.flops(ramp))


def divisors(number: int) -> list[int]:
    """Divisors in rising order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
