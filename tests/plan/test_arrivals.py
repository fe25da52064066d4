"""Arrivals come at their rate and as irregularly as they should; a trace is read or refused by its line."""

import json
import random
from itertools import islice
from statistics import mean, pstdev

import pytest

from fathom.errors import InputError
from fathom.plan.arrivals import PARTS, Arrival, level, mean_rate, means, poisson, read_trace, thinned


def gaps(found):
    times = [0.0, *(one.at_s for one in found)]
    return [b - a for a, b in zip(times, times[1:], strict=False)]


def test_gaps_of_random_arrivals_vary_as_much_as_they_last() -> None:
    found = gaps(islice(poisson(4.0, 100, 10, random.Random(1)), 4000))
    assert mean(found) == pytest.approx(0.25, rel=0.05)
    assert pstdev(found) / mean(found) == pytest.approx(1.0, rel=0.05)  # exponential


def test_every_ninth_of_random_arrivals_varies_a_third_as_much() -> None:
    found = gaps(islice(poisson(4.0, 100, 10, random.Random(1), turns=9.0), 4000))
    assert mean(found) == pytest.approx(0.25, rel=0.05)
    assert pstdev(found) / mean(found) == pytest.approx(1 / 3, rel=0.05)  # Erlang of nine stages


def test_lengths_keep_their_mean_and_spread() -> None:
    found = [one.input for one in islice(poisson(1.0, 1000, 500, random.Random(2), spread=0.5), 4000)]
    assert mean(found) == pytest.approx(1000, rel=0.03) and pstdev(found) == pytest.approx(500, rel=0.1)
    assert {one.output for one in islice(poisson(1.0, 9, 7, random.Random(2), spread=0.0), 50)} == {7}


@pytest.mark.parametrize("peak", [1.0, 1.23, 1.45, 1.9])
def test_a_day_has_its_peak_and_its_mean(peak) -> None:
    assert level(0.0, peak) == pytest.approx(peak)
    hours = [level(h / 10, peak) for h in range(240)]
    assert mean(hours) == pytest.approx(1.0) and max(hours) == pytest.approx(peak)
    assert sum(quarters for _, quarters in PARTS) == 4
    assert sum(level(hours, peak) * quarters for hours, quarters in PARTS) / 4 == pytest.approx(1.0)


def test_a_trace_is_read_in_order_and_thinned_by_turns(tmp_path) -> None:
    file = tmp_path / "t.jsonl"
    rows = [{"arrival_s": at, "in": 10 + at, "out": 5} for at in (3, 1, 2, 0)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    trace = read_trace(file)
    assert trace[0] == Arrival(0.0, 10, 5) and [one.at_s for one in trace] == [0, 1, 2, 3]
    assert [one.at_s for one in thinned(trace, 0.5)] == [1, 3]
    assert list(thinned(trace, 1.0)) == list(trace)
    assert mean_rate(trace) == 1.0 and means(trace) == (11.5, 5.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2 is no JSON"),
        ("[1]", ":2 is no object"),
        ('{"arrival_s": -1, "in": 2, "out": 3}', ":2: arrival_s is -1"),
        ('{"arrival_s": 1, "in": 0, "out": 3}', ":2: in is 0"),
        ('{"arrival_s": 1, "in": 2}', ":2: out is None"),
        ('{"arrival_s": NaN, "in": 2, "out": 3}', ":2: arrival_s is nan"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"arrival_s": 0, "in": 2, "out": 3}\n' + line)
    with pytest.raises(InputError, match=said):
        read_trace(file)


def test_a_trace_that_is_not_there_or_too_short_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "none")
    (tmp_path / "one").write_text('{"arrival_s": 0, "in": 2, "out": 3}')
    with pytest.raises(InputError, match="holds 1 requests"):
        read_trace(tmp_path / "one")
