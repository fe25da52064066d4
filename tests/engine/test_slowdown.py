"""The slowdown is measured where it can be, kept for when it cannot, and never passed off as another machine's.

To renew ELSEWHERE on a calm machine: `python -c "from fathom.engine.slowdown import _measured; print(_measured())"`.
"""

import json

import pytest

from fathom import ops
from fathom.engine import slowdown as room
from fathom.engine.slowdown import ELSEWHERE, Slowdown, served
from tests.ops.conftest import library, native  # noqa: F401


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Measurements that take no time: 2 ms with kernels, 30 ms without; kept in a folder of the test's own."""
    calls = []

    def token_s():
        calls.append(ops.describe()[-1]["answers"])
        return 0.030 if calls[-1] == "reference" else 0.002

    monkeypatch.setattr(room, "_token_s", token_s)
    monkeypatch.setattr(room, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(room, "MOST_SHARE", 2.0)
    return calls


def test_with_kernels_both_are_measured_once(native, clock):  # noqa: F811
    with ops.use("auto"):
        found = [served(), served()]
    assert clock == ["reference", native.name]
    assert found[0] == found[1] and found[0].slowdown.times == pytest.approx(15)
    assert (found[0].answers, found[0].token_s, found[0].where) == (native.name, 0.002, "this machine")


def test_without_kernels_what_was_kept_counts(native, clock):  # noqa: F811
    with ops.use("auto"):
        served()
    with ops.use("reference"):
        found = served()
    assert (found.answers, found.why, found.token_s) == ("reference", "reference was asked for", 0.030)
    assert found.here and found.slowdown.times == pytest.approx(15)


def test_a_machine_that_never_had_kernels_names_another(clock):
    with ops.use("reference"):
        found = served()
    assert clock == ["reference"] and found.slowdown == ELSEWHERE
    assert found.to_dict() == {
        "answers": "reference", "why": "reference was asked for", "token_ms": 30.0,
        "times_slower": pytest.approx(ELSEWHERE.times, abs=0.1), "measured_on": f"another ({ELSEWHERE.processor})",
    }  # fmt: skip


def test_what_is_damaged_or_of_another_processor_does_not_count(clock, tmp_path):
    other = Slowdown("another processor", "avx9", 0.001, 0.002)
    for text in ("{", "[]", "3", json.dumps({"kernels": 3}), json.dumps(vars(other))):
        (tmp_path / "slowdown.json").write_text(text)
        with ops.use("reference"):
            assert not served().here


def test_new_kernels_are_measured_again(native, clock, monkeypatch):  # noqa: F811
    with ops.use("auto"):
        served()
        monkeypatch.setattr(room, "native_name", lambda: "avx9 new")
        assert served().slowdown.kernels == "avx9 new"
    assert len(clock) == 4


def test_what_a_busy_machine_shows_is_not_kept(native, clock, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(room, "MOST_SHARE", -1.0)
    with ops.use("auto"):
        assert served().slowdown.times == pytest.approx(15)
    assert not (tmp_path / "slowdown.json").exists()


def test_a_token_of_the_shipped_model_is_what_is_timed(monkeypatch):
    monkeypatch.setattr(room, "TOKENS", 2)
    monkeypatch.setattr(room, "REPEATS", 1)
    with ops.use("reference"):
        assert 0 < room._token_s() < 10
