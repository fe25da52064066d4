"""A machine that was never built: its kernels take round times, its engine known multiples of them, with noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fathom.config import load_config
from fathom.plan.calibrate import Machine, Point, Profile, calibrated, choose_points
from fathom.plan.ownstep import Group, Kernel, Rates, Step, near_keys, part_seconds

CONFIG = load_config("nano")
KERNELS = (
    Kernel("read", 4e6 / 6e10, bytes=4e6),
    Kernel("read", 256e6 / 2e10, bytes=256e6),
    *(Kernel("product", rows * 1e6 / rate, rows, multiply_adds=rows * 1e6) for rows, rate in ((1, 7e10), (64, 17e10))),
    *(Kernel("forward", s, rows) for rows, s in ((1, 9e-5), (4, 1.5e-4), (16, 5e-4), (64, 2e-3), (512, 1.6e-2))),
    Kernel("attention", 1e-4, 1, 1, 1000),
    Kernel("attention", 1.6e-3, 8, 1, 1000),
    Kernel("attention", 3.1e-3, 1, 61, 1000),
    Kernel("drawn", 5e-5),
    Kernel("filtered", 9e-5),
)
FACTORS = np.array([-0.6, -0.3, -0.5, 0.1, 0.15, 0.4, 0.2])  # logarithms: engine over kernels
MACHINE = Machine("a processor", 2, 1, "avx9", "1.2.3", "2.13")


def seconds(step: Step, slower: float = 1.0) -> float:
    """What a step takes there [s]."""
    return slower * float(
        part_seconds(CONFIG, "i8", Rates.of(KERNELS, near_keys(CONFIG, "i8")), step) @ np.exp(FACTORS)
    )


def points(groups: Sequence[Group], noise: float, seed: int) -> list[Point]:
    """Steps measured there; what a log tells takes nine tenths of them."""
    draw = np.random.default_rng(seed)
    taken = [seconds((g,)) * math.exp(noise * draw.standard_normal()) for g in groups]
    return [
        Point(g.sequences, g.tokens, int(g.context), s, 0.9 * s, (s, s), g.sampling)
        for g, s in zip(groups, taken, strict=True)
    ]


def profile(noise: float = 0.03, seed: int = 0) -> Profile:
    """Its profile."""
    measured = points(choose_points(CONFIG, "i8", KERNELS), noise, seed)
    return calibrated("2026-01-02T03:04:05+00:00", MACHINE, "nano", CONFIG, "i8", "abc", KERNELS, measured, 0.01)
