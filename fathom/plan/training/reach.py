"""What products, attention and copies reach in training, where thousands of tokens meet each matrix."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from fathom.plan import kernels
from fathom.plan.hardware import Device

MEMORY = 0.75  # of the bandwidth, by kernels that read and write once
#: of the BF16 peak, forward and backward, heads of 128. 2: FlashAttention-2 (arXiv:2307.08691 on A100; a third of the
#: peak on H100, arXiv:2407.08608); 3: FlashAttention-3 and cuDNN, and in DeepSeek's profile 0.56 and 0.48.
#: 1: FlashAttention before it, 1.4 to 2 times slower (arXiv:2307.08691, figure 4).
ATTENTION = {1: (0.26, 0.22), 2: (0.36, 0.31), 3: (0.56, 0.48)}
ATTENTION_BEFORE = {1: (0.43, 0.39), 2: (0.61, 0.55), 3: (0.61, 0.55)}  # before tensor memory accelerators: A100
LINK = 0.75  # of a link, by large exchanges among neighbours (NCCL, DeepEP: 153 of 200 GB/s)
HOP, FAR_HOP = 2e-6, 10e-6  # a step of a ring among neighbours, and over the network [s]; a few us in NCCL's tests
NETWORK = 0.85  # of a network card (DeepEP: 43 to 58 of 50 GB/s)


def product(device: Device, m: float, n: float, k: float, kind: str, copies: float = 1.0) -> float:
    """Seconds of `copies` products of m x k with k x n at once, in a run of days [s]."""
    if copies == 1.0:
        return kernels.gemm(device, m, n, k, kind, sustained())
    return kernels.grouped_gemm(device, copies, copies * m, n, k, kind, even=True, reach=sustained())


@lru_cache(maxsize=1)
def sustained() -> kernels.Reach:
    """The laws' constants without what short products gain before the clock falls."""
    constants = kernels.shipped()
    return replace(constants, wide_share=min(1.0, constants.wide_share))


def memory_rate(device: Device) -> float:
    """Bytes that kernels move in a second [B/s]."""
    return device.memory_bytes_per_s * MEMORY


def attention_rate(device: Device, generation: int, backward: bool, width: int = 128) -> float:
    """FLOP/s of attention on long sequences, heads of `width` keys."""
    shares = (ATTENTION if device.fp8_tflops else ATTENTION_BEFORE)[generation]
    matmul_share = (device.matmul_bf16_tflops or 0.75 * device.bf16_tflops) / device.bf16_tflops
    narrow = min(1.0, 0.3 + 0.7 * width / 128)  # arXiv:2407.08608, figure 5: heads of 64 reach 0.65 of those of 128
    return narrow * device.bf16_tflops * 1e12 * shares[backward] * min(1.0, matmul_share / 0.75)


def link_rate(device: Device) -> float:
    """Bytes to neighbours of the scale-up domain in a second, one direction [B/s]."""
    return (device.link_gbs or device.pcie_gbs or 16) * 1e9 * LINK


def network_rate(device: Device) -> float:
    """Bytes beyond it in a second, per device [B/s]."""
    return (device.network_gbs or device.link_gbs or 12.5) * 1e9 * NETWORK


def ring_latency(device: Device, members: int, stride: int) -> float:
    """Time of the steps of a ring of `members` ranks, `stride` apart, whatever they carry [s]."""
    inside = max(1, min(members, device.link_world // max(1, stride)))
    domains = -(-members // inside)
    return HOP * (members - domains) + (FAR_HOP * domains if domains > 1 else 0.0)


def ring_rate(device: Device, members: int, stride: int) -> float:
    """Bytes of a gathered tensor that a rank receives in a second [B/s]: `members` ranks, `stride` apart.

    Members of one scale-up domain share its network cards: each byte enters the domain once and is spread by links.
    """
    inside = max(1, min(members, device.link_world // max(1, stride)))
    if inside >= members:
        return link_rate(device)
    return min(link_rate(device), network_rate(device) * inside)
