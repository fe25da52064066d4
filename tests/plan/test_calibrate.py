"""A profile foresees a machine that is known exactly, survives its file, and refuses what is none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import preset
from fathom.errors import ConfigError, InputError
from fathom.plan.calibrate import (
    PAGE_TOKENS,
    POINTS,
    ROOM,
    STRETCHES,
    breakdown,
    candidates,
    choose_points,
    decode,
    predict,
    prefill,
    preparing_s,
    read_profile,
    swing,
    unseen_points,
    write_profile,
)  # fmt: skip
from fathom.plan.ownstep import Group
from tests.plan.machine import CONFIG, KERNELS, points, profile, seconds


def test_unseen_steps_are_foreseen_and_lie_in_their_intervals() -> None:
    errors, inside = [], []
    for seed in range(12):
        known = profile(0.06, seed)
        groups = unseen_points(CONFIG, "i8", KERNELS, [g for p in known.points for g in p.step], count=20, seed=seed)
        for point in points(groups, 0.06, 100 + seed):
            found = predict(known, point.step)
            errors.append(abs(math.log(found.value / point.seconds)))
            inside.append(found.low < point.seconds < found.high)
    assert np.median(errors) < 0.06 and 0.74 < np.mean(inside) < 0.86


def test_an_exact_machine_is_foreseen_exactly() -> None:
    known = profile(noise=0.0)
    for step in ((Group(5, 1, 300),), (Group(1, 100, 48),), (Group(8, 1, 99), Group(1, 60, 16))):
        assert predict(known, step).value == pytest.approx(seconds(step), rel=0.03)


def test_a_prediction_says_what_it_is() -> None:
    found = decode(profile(), 8, 512)
    assert (found.unit, found.source) == ("s", "fitted") and found.low < found.value < found.high
    assert "nano on a processor, 1 threads, 2026-01-02" in found.note
    assert decode(profile(), 32, 1900).bound == "attention" and prefill(profile(), 256).bound == "products with weights"
    shares = breakdown(profile(), (Group(8, 1, 512),))
    assert sum(shares.values()) == pytest.approx(1.0) and max(shares, key=shares.__getitem__) == found.bound


@settings(max_examples=25)
@given(st.integers(1, 40), st.floats(0, 2e4), st.integers(1, 600))
def test_no_larger_step_is_ever_foreseen_shorter(batch: int, context: float, tokens: int) -> None:
    known = profile()
    assert decode(known, batch, context).value <= decode(known, batch + 1, context).value
    assert decode(known, batch, context).value <= decode(known, batch, context + 16).value
    assert prefill(known, tokens, context).value <= prefill(known, tokens + 1, context).value


@pytest.mark.parametrize("bad", [(0, 5.0), (3, -1.0), (1, math.inf), (2, math.nan)])
def test_a_step_that_cannot_be_is_refused(bad: tuple[int, float]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        decode(profile(), *bad)
    with pytest.raises(ConfigError, match="at least one"):
        predict(profile(), ())


def test_a_machine_that_slows_down_meanwhile_is_seen() -> None:
    """All points a tenth slower in the last of five stretches; what befalls one point alone does not count."""
    known = points([Group(n, 1, 64) for n in (1, 2, 4, 8)], 0.0, 0)
    turns = [1.0] * 8 + [math.exp(0.1)] * 2
    moved = [replace(p, samples=tuple(p.seconds * t for t in turns)) for p in known]
    assert swing(moved) == pytest.approx(0.1 / math.sqrt(5))  # of (0, 0, 0, 0, 0.1)
    alone = [replace(p, samples=tuple(p.seconds * (9.0 if p is known[0] else 1.0) for _ in turns)) for p in known]
    assert swing(alone) == 0.0 and swing([replace(p, samples=p.samples[: STRETCHES - 1]) for p in moved]) == 0.0


# ---- the file ------------------------------------------------------------------------------------------------------


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    known, file = profile(), tmp_path / "profile.json"
    write_profile(known, file)
    assert read_profile(file) == known
    assert [each.name for each in tmp_path.iterdir()] == ["profile.json"]  # nothing is left beside it


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "profile.json.new").mkdir()  # in the way
    (tmp_path / "profile.json").write_text("old")
    with pytest.raises(InputError, match="cannot be written"):
        write_profile(profile(), tmp_path / "profile.json")
    assert (tmp_path / "profile.json").read_text() == "old"


def damaged(change: dict[str, object], file: Path) -> Path:
    write_profile(profile(), file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "is not a device profile"),
        ({"version": 99}, "version 99"),
        ({"kernels": []}, "no measured kernel"),
        ({"parts": ["step"]}, "Calibrate again"),
        ({"config": {"vocab_size": 3}}, "model_type"),
        ({"whole": {"mean": [0.0], "covariance": [[1.0]], "spread": 0.1, "dof": 3.0}}, "Calibrate again"),
        ({"whole": {"mean": [0.0], "covariance": [], "spread": 0.1, "dof": 3.0}}, "covariance"),
        ({"kind": "i3"}, "must be one of"),
        ({"points": "none"}, "points"),
        ({"speed": 3}, "unknown key"),
    ],
)
def test_a_damaged_profile_says_what_is_wrong(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_profile(damaged(change, tmp_path / "profile.json"))
    assert "\n" not in str(raised.value)


def test_torn_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_profile(profile(), tmp_path / "profile.json")
    torn = tmp_path / "torn.json"
    torn.write_text((tmp_path / "profile.json").read_text()[:300])
    for file in (torn, tmp_path / "missing.json"):
        with pytest.raises((ConfigError, InputError), match=file.name):
            read_profile(file)


# ---- where to measure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, preset("deepseek-v3")], ids=["nano", "deepseek-v3"])
def test_every_candidate_can_be_measured(config) -> None:
    found = candidates(config)
    assert len(found) == len(set(found)) > 40
    for group in found:
        assert group.context + group.tokens + ROOM <= config.max_position_embeddings + 1
        assert group.tokens == 1 or (group.sequences == 1 and group.context % PAGE_TOKENS == 0)


def test_chosen_points_span_batch_and_length() -> None:
    found = choose_points(CONFIG, "i8", KERNELS)
    assert len(found) == len(set(found)) == POINTS
    decodes, chunks = [g for g in found if g.tokens == 1], [g for g in found if g.tokens > 1]
    assert min(len(decodes), len(chunks)) >= 3
    assert {1, 32} <= {g.sequences for g in decodes} and max(g.context for g in decodes) > 1900
    assert {16, 512} <= {g.tokens for g in chunks}


def test_points_that_take_too_long_to_prepare_are_left_out() -> None:
    limit = 0.5
    found = choose_points(CONFIG, "i8", KERNELS, seconds=limit)
    assert max(preparing_s(CONFIG, "i8", KERNELS, found)) <= limit
    assert max(preparing_s(CONFIG, "i8", KERNELS, candidates(CONFIG))) > limit


def test_preparing_reads_every_context() -> None:
    one, four = preparing_s(CONFIG, "i8", KERNELS, [Group(1, 1, 1024), Group(4, 1, 1024)])
    assert four == pytest.approx(4 * one) and one > 1.6e-2 * 2  # two forwards of 512 rows, and attention


def test_unseen_points_are_unseen_and_seeded() -> None:
    seen = choose_points(CONFIG, "i8", KERNELS)
    one, same, other = (unseen_points(CONFIG, "i8", KERNELS, seen, count=20, seed=s) for s in (0, 0, 1))
    assert one == same != other and not set(one) & set(seen) and len(set(one)) == 20
    assert sum(g.tokens > 1 for g in one) == 6
    with pytest.raises(ConfigError, match="more minutes"):
        unseen_points(CONFIG, "i8", KERNELS, [], count=20, seed=0, seconds=0.0)
