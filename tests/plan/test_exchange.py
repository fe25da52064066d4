"""Collectives against DeepEP's tables and against what links can carry."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.exchange import (
    all_gather,
    all_reduce,
    all_to_all,
    combine_row_bytes,
    crossing,
    decode_bound,
    dispatch_row_bytes,
    ranks_met,
    send,
)
from fathom.plan.hardware import Catalogue, Device

H800 = Catalogue.read()["h800_sxm"]
NVL72 = Catalogue.read()["gb200_nvl72"]


@pytest.mark.parametrize(
    ("ranks", "out_us", "back_us"), [(8, 77, 114), (32, 155, 273), (64, 173, 314), (256, 194, 360)]
)
def test_low_latency_exchange_takes_what_deepep_measured(ranks: int, out_us: float, back_us: float) -> None:
    out = all_to_all(H800, ranks, 128, dispatch_row_bytes(7168), low_latency=True)
    back = all_to_all(H800, ranks, 128, combine_row_bytes(7168), low_latency=True)
    assert (out * 1e6, back * 1e6) == (pytest.approx(out_us, rel=0.1), pytest.approx(back_us, rel=0.1))


@pytest.mark.parametrize(("ranks", "rate"), [(16, 43), (32, 58), (64, 51)])
def test_normal_exchange_reaches_deepeps_rate(ranks: int, rate: float) -> None:
    """DeepEP counts a row for each node a token visits, its own too."""
    seconds = all_to_all(H800, ranks, 4096, dispatch_row_bytes(7168))
    assert 4096 * min(4, ranks // 8) * dispatch_row_bytes(7168) / seconds == pytest.approx(rate * 1e9, rel=0.05)


def test_rows_cross_as_counted_by_hand() -> None:
    assert crossing(H800, 64, 8, 4, low_latency=True) == (7.0, 1.0)  # 7 of 8 experts are on other nodes
    assert crossing(H800, 64, 8, 4, low_latency=False)[0] == 3.5  # of 4 nodes, one's own is one half of the time
    assert crossing(NVL72, 64, 8, 4, low_latency=True) == (0.0, 8.0)
    assert ranks_met(8, 1) == pytest.approx(1.0)


def test_sums_carry_twice_what_gathers_do() -> None:
    size = 1e9
    assert all_reduce(H800, 8, size) / all_gather(H800, 8, size) == pytest.approx(2, rel=0.01)
    assert all_reduce(H800, 8, size) > 2 * size * 7 / 8 / (H800.link_gbs or 0) / 1e9
    assert all_reduce(H800, 1, size) == 0 == all_to_all(H800, 1, 128, 1000)
    assert send(H800, size) > send(H800, size, remote=False)


def test_bad_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="at least 0 bytes and 1 rank"):
        all_reduce(H800, 0, 1)
    with pytest.raises(ConfigError, match="network_gbs"):
        all_to_all(Catalogue.read()["rtx4090"], 64, 128, 1000)


# --- properties -----------------------------------------------------------------------------------------------------


def exchanges(device: Device, ranks: int, tokens: float, hidden: int, chosen: int) -> dict[str, float]:
    size = combine_row_bytes(hidden)
    found = {
        "direct": all_to_all(device, ranks, tokens, size, chosen=chosen, low_latency=True),
        "pipelined": all_to_all(device, ranks, tokens, size, chosen=chosen),
        "beside": all_to_all(device, ranks, tokens, size, chosen=chosen, overlapped=True),
        "anywhere": all_to_all(device, ranks, tokens, size, chosen=chosen, nodes=0),
        "sum": all_reduce(device, ranks, tokens * size),
        "gather": all_gather(device, ranks, tokens * size),
    }
    return found | {f"send {remote}": send(device, tokens * size, remote=remote) for remote in (True, False)}


linked = st.sampled_from([name for name, device in Catalogue.read().items() if device.network_gbs and device.link_gbs])
groups = st.sampled_from([2, 4, 8, 16, 32, 64, 72, 128, 144, 256, 320])


@given(
    linked, groups, st.floats(0, 16384), st.integers(1, 16384), st.integers(1, 16), st.floats(1, 16), st.floats(1, 16)
)
def test_faster_links_are_never_slower_and_more_tokens_never_cheaper(
    name: str, ranks: int, tokens: float, hidden: int, chosen: int, factor: float, further: float
) -> None:
    device = Catalogue.read()[name]
    times = exchanges(device, ranks, tokens, hidden, chosen)
    assert all(0 < seconds < math.inf for seconds in times.values())
    quick = exchanges(
        replace(device, link_gbs=(device.link_gbs or 0) * factor, network_gbs=(device.network_gbs or 0) * further),
        ranks, tokens, hidden, chosen,
    )  # fmt: skip
    assert all(quick[name] <= times[name] for name in times)
    larger = exchanges(device, ranks, tokens * factor, int(hidden * further), chosen + 1)
    assert all(larger[name] >= times[name] * (1 - 1e-12) for name in times)


def test_the_bound_of_a_step_is_its_bytes_by_hand() -> None:
    # 2 micro-batches x 3 layers x 3 bytes x 10 tokens x 2 rows x 100 values over 1e6 B/s
    assert decode_bound(3, 10, 100, 1e6, rows=2) == pytest.approx(2 * 3 * 3 * 10 * 2 * 100 / 1e6)
