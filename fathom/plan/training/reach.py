"""What products, attention and copies reach in training, where thousands of tokens meet each matrix."""

from __future__ import annotations

from fathom.plan.hardware import Device

MATMUL = {"bf16": 0.72, "fp8": 0.68}  # of peak, where nothing was measured: the lower end of those that were
EDGE = 64  # half the rows of a tile: a product of m x n loses about EDGE (1/m + 1/n) of its rate
MEMORY = 0.75  # of the bandwidth, by kernels that read and write once
#: of the BF16 peak, forward and backward, heads of 128. 2: FlashAttention-2 (arXiv:2307.08691 on A100; a third of the
#: peak on H100, arXiv:2407.08608); 3: FlashAttention-3 and cuDNN, and in DeepSeek's profile 0.56 and 0.48.
#: 1: FlashAttention before it, 1.4 to 2 times slower (arXiv:2307.08691, figure 4).
ATTENTION = {1: (0.26, 0.22), 2: (0.36, 0.31), 3: (0.56, 0.48)}
ATTENTION_BEFORE = {1: (0.43, 0.39), 2: (0.61, 0.55), 3: (0.61, 0.55)}  # before tensor memory accelerators: A100
LINK = 0.75  # of a link, by large exchanges among neighbours (NCCL, DeepEP: 153 of 200 GB/s)
NETWORK = 0.85  # of a network card (DeepEP: 43 to 58 of 50 GB/s)


def matmul(device: Device, kind: str, m: float, n: float, k: float) -> float:
    """Seconds of an m x n x k product [s]."""
    if min(m, n, k) <= 0:
        return 0.0
    peak = device.peak("fp8" if kind == "fp8" else "bf16")
    if kind == "fp8" and device.fp8_tflops is None:
        kind = "bf16"
    known = device.matmul_fp8_tflops if kind == "fp8" else device.matmul_bf16_tflops
    rate = known * 1e12 if known else peak * MATMUL[kind]
    width = 1.0 if kind == "fp8" else 2.0
    moved = (m * k + n * k) * width + 2 * m * n
    if kind == "fp8" and device.fp4_tflops is None:
        # Before Blackwell's tensor memory, sums are promoted in registers and what is read and written is not hidden:
        # DeepGEMM's figures for the matrices of V3 follow this within 12 %, at 1,543 TFLOPS; the best product of a
        # device (matmul_fp8_tflops) has some of that in it.
        rate = min(1.1 * rate, max(rate, 0.78 * peak)) if rate < 0.8 * peak else rate
        return 2 * m * n * k / rate * (1 + EDGE * (1 / m + 1 / n)) + moved / memory_rate(device)
    return max(2 * m * n * k / rate * (1 + EDGE * (1 / m + 1 / n)), moved / memory_rate(device))


def memory_rate(device: Device) -> float:
    """Bytes that kernels move in a second [B/s]."""
    return device.memory_bytes_per_s * MEMORY


def attention_rate(device: Device, generation: int, backward: bool) -> float:
    """FLOP/s of attention on long sequences."""
    shares = (ATTENTION if device.fp8_tflops else ATTENTION_BEFORE)[generation]
    matmul_share = (device.matmul_bf16_tflops or 0.75 * device.bf16_tflops) / device.bf16_tflops
    return device.bf16_tflops * 1e12 * shares[backward] * min(1.0, matmul_share / 0.75)


def link_rate(device: Device) -> float:
    """Bytes to neighbours of the scale-up domain in a second, one direction [B/s]."""
    return (device.link_gbs or device.pcie_gbs or 16) * 1e9 * LINK


def network_rate(device: Device) -> float:
    """Bytes beyond it in a second, per device [B/s]."""
    return (device.network_gbs or device.link_gbs or 12.5) * 1e9 * NETWORK


def ring_rate(device: Device, members: int, stride: int) -> float:
    """Bytes of a gathered tensor that a rank receives in a second [B/s]: `members` ranks, `stride` apart.

    Members of one scale-up domain share its network cards: each byte enters the domain once and is spread by links.
    """
    inside = max(1, min(members, device.link_world // max(1, stride)))
    if inside >= members:
        return link_rate(device)
    return min(link_rate(device), network_rate(device) * inside)
