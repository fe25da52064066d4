"""What collectives take: tokens to experts and back, sums over tensor-parallel ranks, and a message to a neighbour.

Bytes are exact; each link has a start and a rate. Links of the scale-up domain and the network work at the same time,
so an exchange lasts as long as the slower of the two.
"""

from __future__ import annotations

from fathom.errors import ConfigError
from fathom.plan.hardware import Device
from fathom.plan.kernels import Reach, shipped


def dispatch_row_bytes(hidden: int, *, low_latency: bool = False) -> int:
    """A token's row in FP8, with an FP32 scale for each 128 values; low-latency kernels put 16 bytes before it [B]."""
    return hidden + -(-hidden // 128) * 4 + (16 if low_latency else 0)


def combine_row_bytes(hidden: int) -> int:
    """A token's row in BF16 [B]."""
    return 2 * hidden


def ranks_met(ranks: float, chosen: float) -> float:
    """Ranks that hold at least one of `chosen` experts, if these are drawn evenly and independently."""
    return ranks * (1.0 - (1.0 - 1.0 / ranks) ** chosen) if ranks > 1 else 1.0


def crossing(device: Device, ranks: int, chosen: float, nodes: float, *, low_latency: bool) -> tuple[float, float]:
    """Rows that a token sends (over the network, over scale-up links).

    Low-latency: a row for each chosen expert, straight to its rank. Otherwise a row for each node that it visits (at
    most `nodes` of them, its own as likely as any other), and there one for each rank.
    """
    inside = min(ranks, device.link_world)
    domains = ranks / inside
    if low_latency:
        outside = 1.0 - inside / ranks
        return chosen * outside, chosen * (1.0 - outside)
    visited = min(nodes, domains) if nodes else ranks_met(domains, chosen)
    remote = visited * (1.0 - 1.0 / domains)
    per_node = ranks_met(inside, chosen / visited)
    return remote, per_node * visited


def all_to_all(
    device: Device, ranks: int, tokens: float, row_bytes: float, *, chosen: float = 8, nodes: float = 4,
    low_latency: bool = False, overlapped: bool = False, reach: Reach | None = None,
) -> float:  # fmt: skip
    """Seconds of one direction, dispatch or combine, in one layer.

    Args: ranks: of the expert-parallel group. tokens: of each rank. row_bytes: of a token, see dispatch_row_bytes and
          combine_row_bytes. chosen: experts of a token. nodes: that it may visit at most; 0: as many as it likes.
          overlapped: a few cores carry it while the others compute.
    """
    _check(ranks, tokens * row_bytes)
    if ranks == 1:
        return 0.0
    reach = reach or shipped()
    remote, local = crossing(device, ranks, chosen, nodes, low_latency=low_latency)
    size = tokens * row_bytes
    reached = reach.overlapped_share if overlapped else reach.network_share
    network = size * remote / (network_bytes_per_s(device) * reached) if remote else 0.0
    share = reach.direct_link_share if low_latency else reach.link_share
    link = size * local / (link_bytes_per_s(device) * share)
    return (reach.direct_us if low_latency else reach.pipelined_us) * 1e-6 + max(network, link)


def decode_bound(
    layers: int, tokens: float, hidden: int, bytes_per_s: float, *, rows: float, batches: int = 2
) -> float:
    """Least seconds of a decode step whose exchanges alone take time, however fast a device computes.

    A token sends `rows` rows out in FP8 and gets as many back in BF16, in each layer, of `batches` micro-batches that
    take turns: "Insights into DeepSeek-V3", arXiv:2505.09343, section 2.3.2.

    Args: tokens: of a micro-batch on one device. bytes_per_s: of its link [B/s].
    """
    _check(1, tokens)
    return layers * batches * (1 + 2) * tokens * rows * hidden / bytes_per_s


def all_reduce(device: Device, ranks: int, size: float, reach: Reach | None = None) -> float:
    """Seconds to sum `size` bytes over all ranks, each of which has as many."""
    return _collective(device, ranks, size, 2.0, reach)


def all_gather(device: Device, ranks: int, size: float, reach: Reach | None = None) -> float:
    """Seconds until each rank has all of `size` bytes, of which it had its part; a reduce-scatter takes as long."""
    return _collective(device, ranks, size, 1.0, reach)


def _collective(device: Device, ranks: int, size: float, passes: float, reach: Reach | None) -> float:
    """Inside a scale-up domain straight to all while small, around a ring when large; beyond, each rank its part."""
    _check(ranks, size)
    if ranks == 1:
        return 0.0
    reach = reach or shipped()
    inside = min(ranks, device.link_world)
    domains = -(-ranks // inside)
    seconds = 0.0
    if inside > 1:
        link = link_bytes_per_s(device)
        carried = passes * size * (inside - 1) / inside
        straight = reach.sum_us * 1e-6 + carried / min(link * reach.sum_share, reach.sum_gbs * 1e9)
        ring = (reach.ring_us + reach.ring_hop_us * inside) * 1e-6 + carried / (link * reach.link_share)
        seconds = min(straight, ring)
    if domains > 1:
        part = passes * size / inside * (domains - 1) / domains
        seconds += reach.sum_network_us * 1e-6 + part / (network_bytes_per_s(device) * reach.network_share)
    return seconds


def send(device: Device, size: float, *, remote: bool = True, reach: Reach | None = None) -> float:
    """Seconds to hand `size` bytes to another rank: activations to the next stage, latents to a decoder."""
    _check(2, size)
    reach = reach or shipped()
    if remote:
        return reach.sum_network_us * 1e-6 + size / (network_bytes_per_s(device) * reach.network_share)
    return reach.sum_us * 1e-6 + size / (link_bytes_per_s(device) * reach.link_share)


def link_bytes_per_s(device: Device) -> float:
    """One direction of the scale-up links; of the bus where there are none [B/s]."""
    rate = device.link_gbs or device.pcie_gbs
    if rate is None:
        raise ConfigError(f"device {device.name} says neither link_gbs nor pcie_gbs; give one to plan several devices.")
    return rate * 1e9


def network_bytes_per_s(device: Device) -> float:
    """One direction beyond the scale-up domain [B/s]."""
    if device.network_gbs is None:
        raise ConfigError(
            f"device {device.name} says no network_gbs; give it to plan beyond {device.link_world} of them."
        )
    return device.network_gbs * 1e9


def _check(ranks: int, size: float) -> None:
    if ranks < 1 or not size >= 0:
        raise ConfigError(f"an exchange of {size:g} bytes among {ranks} ranks; use at least 0 bytes and 1 rank.")
