"""Published figures, and where an estimate lies among them."""

from __future__ import annotations

import pytest

from fathom.plan.published import capex, clouds, place, systems

H20, H800 = 148e12, 989e12
SHARE = 168 / 776  # DeepSeek's output in all tokens


def test_the_four_clouds_sum_to_what_was_published() -> None:
    four, total = clouds()
    assert {one.who: one.value / 1e9 for one in four} == {
        "Amazon": 96.4, "Microsoft": 89.9, "Alphabet": 62.6, "Meta": 52.3,
    }  # fmt: skip
    assert total.value / 1e9 == pytest.approx(301.2) and total.unit == "USD"
    assert all(one.source for one in capex())


def test_deepseeks_fleet_is_its_tokens_over_its_accelerators() -> None:
    by_name = {one.name: one for one in systems()}
    assert by_name["DeepSeek's fleet, 24 h"].fleet == pytest.approx(776e9 / 86_400 / (226.75 * 8), rel=1e-5)
    assert by_name["DeepSeek's fleet, of its peak servers"].fleet == pytest.approx(776e9 / 86_400 / (278 * 8), rel=1e-4)


def test_the_broker_implies_a_ninth_to_an_eleventh_of_deepseeks_rate() -> None:
    """And per peak BF16 FLOP 1.3 to 1.6 times less."""
    found = place(457.0, SHARE, H20)
    rows = {name: (rate, per) for name, rate, per, _ in found.rows}
    for name, times, per_flop in (("24 h", 10.8, 1.62), ("of its peak servers", 8.8, 1.32)):
        rate, per = rows[f"DeepSeek's fleet, {name}"]
        assert rate / 457 == pytest.approx(times, rel=0.01)
        assert per / (457 / 148) == pytest.approx(per_flop, rel=0.01)
    assert found.below == 1 and found.systems == len(systems())


def test_two_rates_join_in_the_proportion_of_the_tokens() -> None:
    """In a second of a fleet: 0.2 of 100 tokens written at 10, 0.8 read at 100 take 2 + 0.8 s of an accelerator."""
    one = next(s for s in systems() if s.prefill)
    assert one.prefill and one.decode
    assert one.all_tokens(0.0) == pytest.approx(one.prefill) and one.all_tokens(1.0) == pytest.approx(one.decode)
    assert one.all_tokens(0.2) == pytest.approx(100 / (80 / one.prefill + 20 / one.decode))


def test_the_median_and_its_ratio() -> None:
    found = place(1000.0, SHARE, H800)
    rates = sorted(rate for _, rate, _, _ in found.rows)
    assert [rate for _, rate, _, _ in found.rows] == rates
    assert found.median.value == rates[len(rates) // 2] and found.ratio.value == pytest.approx(found.median.value / 1e3)
    assert found.to_dict()["rows"][0]["source"]


def test_longer_contexts_cost_more_per_token_on_every_device() -> None:
    """Cost per output token grows with the mean context, within 15 % of a straight line (TensorRT-LLM)."""
    for device in ("b200_sxm", "gb200_nvl72"):
        rows = sorted(
            (s.mean_context, 1 / s.mixed) for s in systems() if s.device == device and s.mixed and s.input == 1024
        )
        (x0, y0), (x1, y1), (x2, y2) = rows
        straight = y0 + (y2 - y0) * (x1 - x0) / (x2 - x0)
        assert y0 < y1 < y2 and y1 == pytest.approx(straight, rel=0.15)
