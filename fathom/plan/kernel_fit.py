"""The constants of the laws from measured kernels, and how well they say those of a group that was left out.

    fit(rows)                      the constants, as data/kernels.toml holds them for the shipped rows
    left_out(rows, key="group")    log of predicted over measured, each row by a fit without its group

Robust least squares in logarithms, by the simplex of Nelder and Mead, from round numbers that know no row; a weak pull
towards them keeps a constant in place that the rows say nothing of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fathom.errors import ConfigError
from fathom.plan import kernels
from fathom.plan.kernel_rows import RATES, SECONDS, Row, device_of, time_of
from fathom.plan.kernels import Reach

ROUND = 0.03  # an error that is as good as none: half of what two runs of a kernel differ by
PULL = 0.7  # how far, in logarithms, a constant goes from its start before that costs as much as an error of one


@dataclass(frozen=True)
class Family:
    """Constants that are fitted together. start: (from, least, most) of each. laws: whose rows tell of them."""

    laws: tuple[str, ...]
    start: dict[str, tuple[float, float, float]]


FAMILIES = {
    "products": Family(("gemm", "grouped_gemm"), {
        "launch_us": (3.0, 0.5, 10.0), "step_ns": (100.0, 10.0, 500.0), "tile_us": (0.5, 0.01, 5.0),
        "product_share": (0.9, 0.5, 1.1), "memory_share": (0.9, 0.5, 0.95), "product_blend": (2.0, 1.1, 6.0),
        "wave_loss": (0.5, 0.05, 1.0),
    }),
    "decode": Family(("mla_decode",), {
        "decode_launch_us": (10.0, 1.0, 40.0), "decode_share": (0.7, 0.3, 0.9),
        "decode_memory_share": (0.9, 0.5, 0.95), "decode_blend": (2.0, 1.1, 6.0),
    }),
    "prefill": Family(("attention_prefill",), {
        "prefill_launch_us": (10.0, 1.0, 60.0), "prefill_share": (0.7, 0.3, 0.9), "backward_share": (0.5, 0.2, 0.9),
    }),
    "exchange": Family(("all_to_all",), {
        "network_share": (0.8, 0.5, 0.98), "link_share": (0.8, 0.4, 0.98), "direct_us": (20.0, 5.0, 100.0),
        "direct_link_share": (0.8, 0.4, 0.98), "pipelined_us": (50.0, 5.0, 300.0),
    }),
}  # fmt: skip


def measured_s(row: Row, work: float) -> float:
    """Seconds that a row measured, whose rate counts `work` [s]."""
    value = float(row["value"])
    return work / value / RATES[row["unit"]] if row["unit"] in RATES else value * SECONDS[row["unit"]]


def error(row: Row, reach: Reach) -> tuple[str, float] | None:
    """(law, log of predicted over measured seconds) of a row; None if no law speaks of it."""
    try:
        timed = time_of(row, device_of(row["hardware"]), reach)
    except ConfigError:
        return None
    return timed.law, math.log(timed.seconds / measured_s(row, timed.work))


def fit(rows: Sequence[Row], families: Sequence[str] = tuple(FAMILIES), base: Reach | None = None) -> Reach:
    """The constants of these families from rows; the others as in `base`."""
    reach = base or kernels.shipped()
    for name in families:
        if name not in FAMILIES:
            raise ConfigError(f"no family {name!r} of constants; use {', '.join(FAMILIES)}.")
        reach = _fitted(rows, FAMILIES[name], reach)
    return reach


def _fitted(rows: Sequence[Row], family: Family, base: Reach) -> Reach:
    names = list(family.start)
    start = np.log([family.start[name][0] for name in names])
    least, most = (np.log([family.start[name][end] for name in names]) for end in (1, 2))
    told = [row for row in rows if (one := error(row, base)) is not None and one[0] in family.laws]
    if not told:
        raise ConfigError(f"no row tells of {', '.join(names)}; give some whose law is {' or '.join(family.laws)}.")

    def at(point: np.ndarray) -> Reach:
        values: dict[str, Any] = dict(zip(names, np.exp(np.clip(point, least, most)).tolist(), strict=True))
        return replace(base, **values)

    def loss(point: np.ndarray) -> float:
        reach = at(point)
        off = np.array([one[1] for row in told if (one := error(row, reach)) is not None])
        pull = np.sum(((point - start) / PULL) ** 2) / (2 * len(told))
        beyond = np.sum(np.maximum(0, point - most) + np.maximum(0, least - point))
        return float(np.mean(np.sqrt(off**2 + ROUND**2)) + ROUND * (pull + beyond))

    point = start
    for _ in range(3):  # the simplex shrinks; begin anew where it ended
        point = simplex(loss, point, steps=80 * len(names))
    return at(point)


def left_out(rows: Sequence[Row], key: str = "group", families: Sequence[str] = tuple(FAMILIES)) -> dict[int, float]:
    """By place of a row: its error under constants that were fitted without the rows that share its `key`."""
    found: dict[int, float] = {}
    for name in families:
        laws, base = FAMILIES[name].laws, kernels.shipped()
        told = [(n, row) for n, row in enumerate(rows) if (one := error(row, base)) is not None and one[0] in laws]
        for group in sorted({row[key] for _, row in told}):
            rest = [row for _, row in told if row[key] != group]
            reach = _fitted(rest, FAMILIES[name], base) if rest else base
            for n, row in told:
                if row[key] == group and (one := error(row, reach)) is not None:
                    found[n] = one[1]
    return found


def simplex(loss: Callable[[np.ndarray], float], start: np.ndarray, steps: int, width: float = 0.2) -> np.ndarray:
    """Where `loss` is least near `start`: Nelder and Mead, The Computer Journal 7 (1965), 308."""
    corners = [start, *(start + width * row for row in np.eye(len(start)))]
    values = [loss(corner) for corner in corners]
    for _ in range(steps):
        order = np.argsort(values, kind="stable")
        corners, values = [corners[n] for n in order], [values[n] for n in order]
        middle = np.mean(corners[:-1], axis=0)
        step = middle - corners[-1]
        other, value = middle + step, loss(middle + step)
        if value < values[0]:
            far, farther = middle + 2 * step, loss(middle + 2 * step)
            other, value = (far, farther) if farther < value else (other, value)
        elif value >= values[-2]:
            other = middle + (0.5 if value < values[-1] else -0.5) * step
            value = loss(other)
            if value >= values[-1]:
                corners = [corners[0], *(0.5 * (corners[0] + corner) for corner in corners[1:])]
                values = [values[0], *(loss(corner) for corner in corners[1:])]
                continue
        corners[-1], values[-1] = other, value
    return corners[int(np.argmin(values))]
