"""The fit finds constants that made the rows, and the shipped constants are those of the shipped rows."""

from dataclasses import replace

import numpy as np
import pytest

from fathom.errors import ConfigError
from fathom.plan.kernel_fit import FAMILIES, error, fit, left_out, measured_s, simplex
from fathom.plan.kernel_rows import device_of, shipped_rows, time_of
from fathom.plan.kernels import Reach, shipped

ROWS = shipped_rows()
DECODE = [row for row in ROWS if row["system"].startswith("MLA decode")]


def made_by(reach: Reach) -> list[dict[str, str]]:
    rows = []
    for row in DECODE:
        timed = time_of(row, device_of(row["hardware"]), reach)
        rows.append({**row, "value": str(timed.seconds * 1e6)})
    return rows


def test_the_constants_that_made_the_rows_are_found() -> None:
    truth = replace(shipped(), decode_launch_us=12.0, decode_share=0.55, decode_memory_share=0.8, decode_blend=2.5)
    found = fit(made_by(truth), ["decode"])
    for name, near in (("decode_launch_us", 0.02), ("decode_share", 0.02), ("decode_memory_share", 0.1)):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=near), name  # blend takes the rest
    off = [error(row, found) for row in made_by(truth)]
    assert max(abs(one[1]) for one in off if one) < 0.03


@pytest.mark.parametrize("family", ["decode", "prefill", "exchange"])
def test_the_shipped_constants_are_fitted_to_the_shipped_rows(family: str) -> None:
    found = fit(ROWS, [family])
    for name in FAMILIES[family].start:
        assert getattr(shipped(), name) == pytest.approx(getattr(found, name), rel=0.03), name


def test_rows_left_out_are_said_by_the_others() -> None:
    rows = [row for row in ROWS if row["group"] in ("kernel:is_mlap", "kernel:dsprof_fa")]
    off = left_out(rows, families=["prefill"])
    assert len(off) == len(rows) == 7
    assert np.median(np.abs(list(off.values()))) < 0.1
    fitted = fit(rows, ["prefill"])
    inside = [error(row, fitted) for row in rows]
    assert sum(map(abs, off.values())) > sum(abs(one[1]) for one in inside if one)  # what is left out is harder


def test_an_error_is_nought_where_the_law_made_the_row() -> None:
    for row in made_by(shipped()):
        law, off = error(row, shipped()) or ("", 1.0)
        assert (law, off) == ("mla_decode", pytest.approx(0, abs=1e-9))
    assert measured_s({"value": "2", "unit": "GB/s"}, 4e9) == 2.0


def test_the_simplex_walks_a_curved_valley() -> None:
    def valley(x: np.ndarray) -> float:  # Rosenbrock's, least at (1, 1)
        return float(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)

    assert simplex(valley, np.array([-1.2, 1.0]), 400) == pytest.approx([1, 1], abs=1e-3)


def test_nothing_to_fit_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="no family"):
        fit(ROWS, ["magic"])
    with pytest.raises(ConfigError, match="no row tells of"):
        fit([], ["decode"])
