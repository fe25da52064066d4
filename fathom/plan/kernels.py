"""What kernels reach on a device: seconds of products, attention and passes over memory, by small laws.

    gemm, grouped_gemm                 tiles in waves over cores, joined with the bytes by a smooth maximum
    mla_decode, attention_decode       a smooth maximum of compute and memory, after a fixed start
    attention_prefill, elementwise     a share of the peak, after a fixed start

Collectives: exchange.py. The constants stand in data/kernels.toml, fitted to measured kernels of H800 and H20; other
devices come by their peaks, cores and what a large product reaches there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from fathom.config import build, read_toml
from fathom.errors import ConfigError
from fathom.plan.hardware import Device
from fathom.plan.precision import Peak, precision
from fathom.plan.shape import Attention

FILE = Path(__file__).parent / "data" / "kernels.toml"
Cache = Literal["bf16", "fp8"]

TILE = 128  # columns and rows of a large tile, and bytes along the inner dimension in one of its steps
WIDTHS = (32, 64, 96, 128)  # of tiles, of which a kernel takes the best
FITTED_ON = ("h800_sxm", "h20")
COMMON_CORES = 132  # of a device that does not say
COMMON_MATMUL = 0.74  # matmul_share, median of the devices that were measured (MAMF)
BLACKWELL_MATMUL = 0.729  # and the least of those whose attention was measured (GB200)
#: FlashMLA stores 512 FP8 values, 4 FP32 scales and 64 BF16 values of a token.
FP8_CACHE_VALUE_BYTES = 656 / 576


@dataclass(frozen=True)
class Reach:
    """The constants of the laws; data/kernels.toml says what each is. spread: half of an 80 % interval, relative."""

    launch_us: float
    step_ns: float
    tile_us: float
    product_share: float
    wide_share: float
    memory_share: float
    product_blend: float
    wide_blend: float
    wave_loss: float
    split: float
    decode_launch_us: float
    decode_share: float
    decode_memory_share: float
    decode_blend: float
    heads_launch_us: float
    heads_memory_share: float
    heads_tile_us: float
    heads_blend: float
    prefill_launch_us: float
    prefill_share: float
    backward_share: float
    elementwise_launch_us: float
    elementwise_share: float
    network_share: float
    overlapped_share: float
    link_share: float
    direct_us: float
    direct_link_share: float
    pipelined_us: float
    sum_us: float
    sum_share: float
    sum_gbs: float
    ring_us: float
    ring_hop_us: float
    sum_network_us: float
    spread: dict[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.launch_us, self.product_share, self.wide_share))


@lru_cache(maxsize=1)
def shipped() -> Reach:
    """The constants that come with the package."""
    return build(Reach, read_toml(FILE), str(FILE))


def spread(law: str, device: Device, reach: Reach | None = None) -> float:
    """Half of an 80 % interval of what a law says, in logarithm: times from 1 / e^spread to e^spread of it."""
    known = (reach or shipped()).spread
    if law not in known:
        raise ConfigError(f"no law {law!r}; use {', '.join(known)}.")
    return known[law] if device.name in FITTED_ON else math.hypot(known[law], known["transfer"])


@lru_cache(maxsize=256)
def matmul_share(device: Device, kind: Peak = "bf16") -> float:
    """What the best large product reaches, as a share of the peak of its kind; of another kind if only that is known.

    Tensor cores of Hopper reach less of their peak in FP8 than in BF16; those of Blackwell do not.
    """
    wide = device.matmul_bf16_tflops / device.bf16_tflops if device.matmul_bf16_tflops else None
    narrow = device.matmul_fp8_tflops / device.fp8_tflops if device.matmul_fp8_tflops and device.fp8_tflops else None
    own, other = (wide, narrow) if kind == "bf16" else (narrow, wide)
    return min(1.0, own or other or COMMON_MATMUL)


@lru_cache(maxsize=1024)
def _rate(device: Device, name: str, reach: Reach) -> tuple[float, float, float]:
    """(FLOP/s of the inner loop of one core, bytes of a weight, bytes of an activation) at a precision."""
    stored = precision(name)
    share = reach.wide_share if stored.peak == "bf16" else reach.product_share
    reached = min(0.98, share * matmul_share(device, stored.peak))
    activation = {"bf16": 2.0, "fp4": 0.5 + 1 / 16}.get(stored.peak, 1.0)
    return device.peak(stored.peak) * reached / (device.cores or COMMON_CORES), stored.weight_bytes, activation


def blend(compute: float, memory: float, exponent: float) -> float:
    """A smooth maximum of two times [s]."""
    high, low = (compute, memory) if compute > memory else (memory, compute)
    return high * (1.0 + (low / high) ** exponent) ** (1.0 / exponent) if high > 0 else 0.0


def gemm(device: Device, m: float, n: float, k: float, precision: str = "fp8", reach: Reach | None = None) -> float:
    """Seconds of a product of m x k activations with n x k weights.

    Args: precision: of the weights, a name of precision.py.
    """
    if not (m > 0 and n > 0 and k > 0):
        raise ConfigError(f"a product of {m:g} x {k:g} with {n:g} x {k:g}; each must be above 0.")
    return _tiles(device, 1.0, m, n, k, precision, True, reach)


def grouped_gemm(
    device: Device, experts: float, rows: float, n: float, k: float, precision: str = "fp8", *, even: bool = False,
    reach: Reach | None = None,
) -> float:  # fmt: skip
    """Seconds of the products of `experts` experts that get `rows` rows in all, on one device.

    Args: experts: that get any; what they weigh is read once. even: each gets as many; otherwise the last tile of an
          expert is half empty on average.
    """
    if not (experts > 0 and rows > 0 and n > 0 and k > 0):
        raise ConfigError(f"{rows:g} rows for {experts:g} experts of {n:g} x {k:g}; each must be above 0.")
    return _tiles(device, experts, max(1.0, rows / experts), n, k, precision, even, reach)


def _tiles(
    device: Device, copies: float, m: float, n: float, k: float, name: str, even: bool, reach: Reach | None
) -> float:
    """Seconds of `copies` products of m rows each: waves of tiles over the cores, and the bytes.

    A tile takes steps of TILE bytes along k; in each, its core computes, and waits for memory if that is longer. A wave
    that does not fill all cores takes as long as a full one (`wave_loss` of the time). Libraries for BF16 drain a tile
    while they fill the next, and divide k among idle cores, up to `split` ways.
    """
    reach = reach or shipped()
    rate, weight, activation = _rate(device, name, reach)
    cores = device.cores or COMMON_CORES
    wide = activation == 2.0
    waiting = reach.step_ns * 1e-9 * k * activation / TILE
    height = TILE if m > TILE / 2 else TILE / 2
    high: float = math.ceil(m / height)
    if not even:  # half a tile of TILE rows is empty, on average
        height = min(TILE, m + TILE / 2)
        high = max(1.0, m / TILE + 0.5)
    best = math.inf
    for width in WIDTHS:
        count = copies * high * math.ceil(n / width)
        split = max(1.0, min(reach.split, cores / count)) if wide else 1.0
        waves = max(1.0, count * split / cores)
        waves += reach.wave_loss * (math.ceil(waves - 1e-9) - waves)
        drained = 1.0 if wide else waves
        computing = 2.0 * height * width * k / rate
        best = min(best, waves * max(waiting, computing) / split + drained * reach.tile_us * 1e-6)
    read = copies * (n * k * weight + m * k * activation + 2.0 * m * n)
    memory = read / (device.memory_bytes_per_s * reach.memory_share)
    return reach.launch_us * 1e-6 + blend(best, memory, reach.wide_blend if wide else reach.product_blend)


def mla_decode(
    device: Device, sequences: float, context: float, *, heads: int = 128, latent: int = 512, rope: int = 64,
    queries: float = 1, cache: Cache = "bf16", reach: Reach | None = None,
) -> float:  # fmt: skip
    """Seconds of the absorbed form over a latent cache, one layer.

    Args: context: tokens of a sequence. heads: on this device. queries: per sequence, 1 + draft tokens.
    """
    flops = 2.0 * sequences * queries * context * heads * (2 * latent + rope)
    value = 2.0 if cache == "bf16" else FP8_CACHE_VALUE_BYTES
    other = 2.0 * sequences * queries * heads * (2 * latent + rope)
    read = sequences * context * (latent + rope) * value + other
    reach = reach or shipped()
    compute = flops / _attention_rate(device, reach.decode_share)
    memory = read / (device.memory_bytes_per_s * reach.decode_memory_share)
    return reach.decode_launch_us * 1e-6 + blend(compute, memory, reach.decode_blend)


def attention_decode(
    device: Device, attention: Attention, sequences: float, context: float, *, queries: float = 1,
    cache: Cache = "bf16", tp: int = 1, reach: Reach | None = None,
) -> float:  # fmt: skip
    """Seconds of attention over a cache, one layer: MLA absorbed, GQA, or a linear state.

    Args: tp: ranks that share the heads; a latent is read by each, keys and values of heads are divided.
    """
    heads = -(-attention.heads // tp)
    seen = attention.seen(context)
    if attention.kind == "latent":
        return mla_decode(device, sequences, seen, heads=heads, latent=attention.latent, rope=attention.rope,
                          queries=queries, cache=cache, reach=reach)  # fmt: skip
    value = 2.0 if cache == "bf16" else 1.0
    other = 2.0 * sequences * queries * heads * (attention.qk_dim + attention.v_dim)
    if attention.kind == "linear":
        flops = sequences * queries * attention.flops(context) / tp
        return _heads(
            device, flops, 2 * 4.0 * sequences * attention.state_values / tp + other, sequences * heads, reach
        )
    kept = -(-attention.kv_heads // tp)
    flops = sequences * queries * attention.flops(context) * heads / attention.heads
    read = sequences * seen * kept * (attention.qk_dim + attention.v_dim) * value
    return _heads(device, flops, read + other, sequences * kept, reach)


def _heads(device: Device, flops: float, read: float, tiles: float, reach: Reach | None) -> float:
    """Keys and values of heads: each head of each sequence is a tile of its own, however short its context."""
    reach = reach or shipped()
    waves = tiles / (device.cores or COMMON_CORES)
    compute = flops / _attention_rate(device, reach.decode_share)
    memory = read / (device.memory_bytes_per_s * reach.heads_memory_share)
    return reach.heads_launch_us * 1e-6 + blend(max(compute, waves * reach.heads_tile_us * 1e-6), memory,
                                                reach.heads_blend)  # fmt: skip


def attention_prefill(
    device: Device, attention: Attention, tokens: float, cached: float = 0, *, sequences: float = 1, tp: int = 1,
    backward: bool = False, reach: Reach | None = None,
) -> float:  # fmt: skip
    """Seconds of causal attention of `tokens` new tokens of each sequence over them and `cached` older ones, one layer.

    MLA on expanded keys and values; making those from latents is a product, and not counted here.

    Args: backward: the gradients instead, which recompute the scores: 5 products for 2.
    """
    reach = reach or shipped()
    seen = cached + (tokens + 1) / 2
    flops = sequences * tokens * attention.flops(seen) * -(-attention.heads // tp) / attention.heads
    share = reach.prefill_share
    if backward:
        widths = 3 * attention.qk_dim + 2 * attention.v_dim
        flops *= widths / (attention.qk_dim + attention.v_dim)
        share = reach.backward_share
    return reach.prefill_launch_us * 1e-6 + flops / _attention_rate(device, share)


@lru_cache(maxsize=1024)
def _attention_rate(device: Device, share: float) -> float:
    """FLOP/s: the same share of the BF16 peak on Hopper and Blackwell, less where large products reach less."""
    return device.peak("bf16") * share * min(1.0, matmul_share(device) / BLACKWELL_MATMUL)


def elementwise(device: Device, read: float, reach: Reach | None = None) -> float:
    """Seconds of a pass over `read` bytes, in and out: norms, activations, quantisation."""
    reach = reach or shipped()
    return reach.elementwise_launch_us * 1e-6 + read / (device.memory_bytes_per_s * reach.elementwise_share)
