"""Floors are arithmetic on limits; limits are measured once and kept."""

import json

import pytest

from fathom.cost import cache_bytes_per_token, experts_met, step_flops, step_weight_bytes
from fathom.engine import limits as room
from fathom.engine.limits import Limits, Step, floor, limits, reads
from fathom.ops.speed import LARGE_BYTES
from tests.engine.tiny import CONFIG

MACHINE = Limits("avx9", "i8", 2, 1e9, 1e10, 1e12, 1e11)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Calls of `measure`, which here takes no time; limits are kept in a folder of the test's own."""
    calls = []

    def measure(kind, threads):
        calls.append((kind, threads))
        return Limits("avx9", kind, threads, 1.0 + len(calls), 1.0, 1.0, 1.0)

    monkeypatch.setattr(room, "measure", measure)
    monkeypatch.setattr(room, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(room, "MOST_SHARE", 2.0)
    return calls


def test_a_machine_is_measured_once(measured):
    first = limits("i8", 2)
    assert limits("i8", 2) == first and measured == [("i8", 2)]
    assert limits("i8", 1).threads == 1 and limits("i4", 2).kind == "i4"
    assert measured == [("i8", 2), ("i8", 1), ("i4", 2)]
    assert limits("i8", 2, again=True) != first
    assert limits("i8", 2) != first and len(measured) == 4


def test_a_damaged_file_is_measured_again(measured, tmp_path):
    first = limits("i8", 2)
    file = tmp_path / "limits.json"
    for damaged in ("{", "[]", json.dumps({key: {"kind": 3} for key in json.loads(file.read_text())})):
        file.write_text(damaged)
        assert limits("i8", 2) != first
    assert len(measured) == 4


def test_what_a_busy_machine_allows_is_not_kept(measured, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(room, "MOST_SHARE", -1.0)
    limits("i8", 2)
    assert "not kept" in caplog.text and not (tmp_path / "limits.json").exists()


def test_a_step_reads_what_cost_counts():
    always, expert = step_weight_bytes(CONFIG, "i8")
    one = reads(CONFIG, "i8", 1)
    assert one.step_bytes == always + 2 * expert and one.total_bytes == always + 8 * expert
    assert reads(CONFIG, "i8", 500).step_bytes == one.total_bytes
    assert one.chosen <= round(experts_met(CONFIG, 4)) == reads(CONFIG, "i8", 4).chosen


def test_a_floor_is_the_longer_of_reading_and_multiplying_and_attention(monkeypatch):
    monkeypatch.setattr(room, "LARGE_BYTES", 0)  # nothing is timed: all is read at the machine's rate
    least = floor(CONFIG, Step(3, 1, 99), MACHINE, cache_value_bytes=2)
    flops, attention = step_flops(CONFIG, 3, 1, 99)
    assert least.reading_s == reads(CONFIG, "i8", 3).step_bytes / 1e9
    assert least.arithmetic_s == flops / 2e12
    assert least.cache_bytes == 3 * 100 * cache_bytes_per_token(CONFIG, 2)
    assert least.attention_s == max(least.cache_bytes / 1e10, attention / 2e11)  # so small that the caches hold it
    assert least.seconds == max(least.reading_s, least.arithmetic_s) + least.attention_s


def test_a_small_model_is_timed_reading_as_it_does(monkeypatch):
    asked = []
    monkeypatch.setattr(room, "step_s", lambda kind, pattern, threads: asked.append((kind, pattern, threads)) or 0.5)
    assert floor(CONFIG, Step(1, 1, 0), MACHINE, cache_value_bytes=2).reading_s == 0.5
    assert asked == [("i8", reads(CONFIG, "i8", 1), 2)]
    assert reads(CONFIG, "i8", 1).total_bytes < LARGE_BYTES
