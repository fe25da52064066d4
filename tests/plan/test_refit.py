"""The fit finds what made the points, holds what it knows little of near the mean, and leaves groups out honestly."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np

from fathom.plan.knobs import shipped
from fathom.plan.refit import START, Point, Pool, into, toml


def points(noise: float, engines: dict[str, float], groups: int = 6) -> list[Point]:
    """Times of 60 layers at 100 us and prompts at 0.5 of their law, on engines that are slower by a factor."""
    rng, made = Random(0), []
    for engine, slower in engines.items():
        for group in range(groups):
            for concurrency in (4, 16, 64):
                rest, reading = 1e-3 + 1e-4 * concurrency, 2e-4 * concurrency * (1 + group % 3)
                value = (60 * 100e-6 * slower + rest + 0.5 * reading) * math.exp(rng.gauss(0, noise))
                loads = ((0, "layer", 1.0), (1, "prompt", 1.0), (0, f"engine {engine}/layer", 1.0),
                         (1, f"engine {engine}/prompt", 1.0))  # fmt: skip
                name = f"{engine} {group}"
                made.append(Point(f"{name} {concurrency}", name, value, (60.0, reading), loads, rest))
    return made


def pool(found: list[Point]) -> Pool:
    return Pool(found, (0.12, 4.0))


def test_known_knobs_are_found() -> None:
    made = pool(points(0.02, {"a": 1.0, "b": 1.5}))
    found, covariance = made.fit()
    knobs = into(START, made, found)
    a, b = (knobs.of((f"engine {name}",)) for name in "ab")
    assert math.isclose(a.layer_s, 100e-6, rel_tol=0.06) and math.isclose(b.layer_s, 150e-6, rel_tol=0.06)
    assert math.isclose(a.prompt, 0.5, rel_tol=0.15)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


def test_one_strange_group_moves_little() -> None:
    clean = points(0.02, {"a": 1.0})
    spoilt = [replace(p, value=p.value * 5) if p.group == "a 0" else p for p in clean]
    before, after = (into(START, pool(found), pool(found).fit()[0]).layer for found in (clean, spoilt))
    assert abs(after - before) < 0.1


def test_a_group_left_out_has_no_part_in_its_prediction() -> None:
    found = points(0.02, {"a": 1.0, "b": 1.2})
    other = [replace(p, value=p.value * 3) if p.group == "a 0" else p for p in found]
    inside = [n for n, p in enumerate(found) if p.group == "a 0"]
    assert np.allclose(pool(found).left_out()[inside], pool(other).left_out()[inside])


def test_the_file_reads_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from fathom.config import build, read_toml
    from fathom.plan.knobs import Knobs

    file = tmp_path / "knobs.toml"
    file.write_text(toml(shipped()))
    assert build(Knobs, read_toml(file), "knobs") == shipped()
