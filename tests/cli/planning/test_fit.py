"""`fathom plan fit`: the answer, its arithmetic, its exit code."""

from __future__ import annotations

import json

import pytest

from fathom.cli import main


def test_671b_does_not_fit_on_eight_h100(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fit", "deepseek-v3", "--on", "8xh100"]) == 1
    table = capsys.readouterr().out
    assert table.startswith("deepseek-v3 in FP8 does not fit on 8 x H100 SXM 80GB")
    assert "missing" in table and "16 devices" in table and max(map(len, table.splitlines())) <= 120


def test_it_fits_on_eight_h200_and_the_sums_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fit", "deepseek-v3", "--on", "8xh200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["layout"]["ep"] == 8
    assert sum(found["bytes_per_device"].values()) == pytest.approx(found["used_bytes"], abs=10)
    free = found["capacity_bytes"] - found["used_bytes"]
    assert found["cache_tokens"] == pytest.approx(8 * free / found["cache_bytes_per_token"], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["deepseek-v33", "--on", "8xh100"], "deepseek-v3"),
        (["deepseek-v3", "--on", "8xh10"], "h100"),
        (["deepseek-v3", "--on", "8xh200", "--layout", "8"], "tp8"),
        (["deepseek-v3", "--on", "8xh200", "--layout", "tp=3"], "3"),
        (["deepseek-v3", "--on", "8xh200", "--chunk", "0"], "at least 1"),
        (["deepseek-v3", "--on", "8xh200", "--context", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fit", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
