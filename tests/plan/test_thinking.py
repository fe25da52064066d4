"""What longer thought costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.curves import Cell
from fathom.plan.thinking import Rates, advise, doubling_context, from_table, knee, lengths, priced, read_rates

V3 = read_rates()


def rates(*overrides: str) -> Rates:
    return read_rates(None, overrides)


def test_published_costs_of_a_v3_class_model() -> None:
    """0.060 USD per million tokens read and 0.30 generated at 2 USD an hour; an answer of 3,750 tokens (the mean of R1
    in MLPerf) is generated for 0.0011 USD, one of 300 for 0.0001."""
    no_prompt = {one.tokens: one for one in lengths(rates("answers.prompt=0"), (300, 3750, 1_000_000))}
    assert no_prompt[1_000_000].flat.value == pytest.approx(0.300, abs=0.001)
    assert round(no_prompt[3750].flat.value, 4) == 0.0011 and round(no_prompt[300].flat.value, 4) == 0.0001
    assert V3.money(V3.read_seconds(1e6)) == pytest.approx(0.060, abs=0.0005)


def test_at_the_context_it_was_measured_at_both_prices_agree() -> None:
    """A prompt and half the answer of 4,989 tokens together are the mean context of DeepSeek's day."""
    at = V3["fleet.context"]
    assert V3.write_seconds(at - 500, 1000) == pytest.approx(V3.write_seconds(at - 500, 1000, flat=True))


def test_the_cost_of_an_answer_is_the_sum_over_its_tokens() -> None:
    by_token = sum(V3.write_seconds(700.0 + i, 1.0) for i in range(2000))
    assert V3.write_seconds(700.0, 2000.0) == pytest.approx(by_token, rel=1e-9)


def test_longer_answers_lower_the_rate_as_was_measured() -> None:
    """TensorRT-LLM, R1 on H200: 1,620 tok/s with 1K of output, 438 with 32K: 3.7 times less; B200 4.4 times."""
    found = doubling_context()
    assert found.low is not None and found.high is not None

    def rate(output: float, doubling: float) -> float:
        return 1 / (1 + (1024 + output / 2) / doubling)

    ratios = [rate(1024, d) / rate(32768, d) for d in (found.low, found.high)]
    assert min(ratios) == pytest.approx(1620 / 438, rel=0.03) and max(ratios) == pytest.approx(6430 / 1451, rel=0.12)
    b200 = [(1024 + out / 2, speed) for out, speed in ((1024, 6430), (8192, 3862), (32768, 1451))]
    offset = b200[0][1] * (1 + b200[0][0] / found.value)
    for context, speed in b200:
        assert offset / (1 + context / found.value) == pytest.approx(speed, rel=0.15)


def test_a_fleet_answers_all_at_its_peak() -> None:
    seconds = V3.seconds(1000.0)
    assert V3.fleet(seconds) == pytest.approx(1e6 * seconds / 86_400 * 1.23)


@given(st.floats(0, 1e5), st.floats(1, 10), st.integers(1, 64))
@settings(max_examples=100)
def test_more_thought_and_more_samples_are_never_cheaper(tokens: float, factor: float, samples: int) -> None:
    assert V3.seconds(tokens * factor, samples) >= V3.seconds(tokens, samples) * (1 - 1e-12)
    assert V3.seconds(tokens, samples + 1) >= V3.seconds(tokens, samples)
    assert V3.seconds(tokens, samples) >= V3.read_seconds(V3["answers.prompt"])


def test_the_knee_is_where_a_known_curve_bends() -> None:
    """Accuracy that rises by 20 points a doubling up to the fifth point and by 2 after it."""
    costs = [2.0**i for i in range(9)]
    accuracies = [0.1 + 0.2 * i if i < 5 else 0.9 + 0.02 * (i - 4) for i in range(9)]
    assert knee(costs, accuracies) == 4
    assert knee([1.0, 2.0], [0.3, 0.5]) == 1 and knee([1.0], [0.3]) == 0


def cells(*rows: tuple[float, float, int]) -> list[Cell]:
    return [Cell("all", f"{t:g}", a, t, n=200, samples=s, choice="majority") for t, a, s in rows]


def test_ways_are_priced_and_the_beaten_ones_marked() -> None:
    ways = priced(cells((300, 0.4, 1), (1000, 0.62, 1), (3750, 0.78, 1), (1000, 0.70, 8), (32000, 0.82, 1)), V3)
    assert [one.cost.value for one in ways] == sorted(one.cost.value for one in ways)
    assert [one.cell.label for one in ways if not one.frontier] == ["1000, majority of 8"]
    assert all(one.accuracy.low is not None and one.accuracy.low < one.cell.accuracy for one in ways)
    advice = advise(ways, V3)
    assert advice.knee.cell.mode == "3750" and advice.cheapest is not None and advice.cheapest.cell.mode == "300"
    assert advice.best is None and advice.sure is not None and 0.3 < advice.sure <= 1.0


def test_what_a_right_answer_is_worth_decides() -> None:
    ways = priced(cells((300, 0.4, 1), (3750, 0.78, 1), (32000, 0.82, 1)), V3)
    for value, mode in ((1e-6, "300"), (0.01, "3750"), (100.0, "32000")):
        best = advise(ways, rates(f"answers.value={value}")).best
        assert best is not None and best.cell.mode == mode


def test_resampling_the_same_problems_for_all_modes_is_surer_than_apart() -> None:
    """Where the longer mode is right wherever the shorter is, noise of the problems is common to both."""
    n = 60
    nested = [tuple(float(i < k) for i in range(n)) for k in (10, 26, 30)]
    together = [
        Cell("all", str(i), sum(r) / n, 10.0 * 8**i, n=n, right=r, used=(1.0,) * n) for i, r in enumerate(nested)
    ]
    apart = [Cell("all", c.mode, c.accuracy, c.thinking, n=n) for c in together]
    sure = [advise(priced(part, V3), V3, 4000).sure or 0.0 for part in (together, apart)]
    assert sure[0] > sure[1] > 0.5


def test_without_problems_known_nothing_is_resampled() -> None:
    ways = priced([Cell("all", "a", 0.2, 10.0), Cell("all", "b", 0.5, 99.0)], V3)
    assert advise(ways, V3).sure is None and ways[0].accuracy.low is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fleet.decode=0"], "fleet.decode is 0"),
        (["answers.prompt=-1"], "answers.prompt is -1"),
        (["answers.promt=1"], "unknown input 'answers.promt'"),
        (["colour=1"], "unknown key 'colour'"),
        (["title=1"], "title is 1; it must be a text"),
    ],
)
def test_bad_rates_get_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rates(*overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_rates_are_named() -> None:
    with pytest.raises(ConfigError, match="fleet.decode, fleet.context, money.gpu_hour must be given"):
        from_table({"answers": {"prompt": 1, "per_day": 1}, "fleet": {"prefill": 1}})


def test_flat_and_growing_costs_are_finite(tmp_path: object) -> None:
    found = lengths(V3, (0, 1, 10**9))
    assert all(np.isfinite(q.value) for one in found for q in (one.flat, one.cost, one.accelerators))
