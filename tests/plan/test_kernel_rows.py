"""Every shipped row is read, and predicted as well as the page says; what has no law says so in one line."""

import math

import pytest

from fathom.errors import ConfigError
from fathom.plan.kernel_fit import error
from fathom.plan.kernel_rows import Row, device_of, predict_kernel, shipped_rows
from fathom.plan.kernels import shipped
from fathom.plan.quantity import Quantity

ROWS = shipped_rows()
LAWS = ("gemm", "grouped_gemm", "mla_decode", "attention_prefill", "all_to_all", "matmul")


def answer_or_reason(row: Row) -> Quantity | str:
    try:
        return predict_kernel(row)
    except ConfigError as error:
        return str(error)


def predicted() -> list[tuple[Row, Quantity]]:
    return [(row, answer) for row in ROWS if isinstance(answer := answer_or_reason(row), Quantity)]


def test_all_rows_but_one_have_a_law_and_that_one_says_why() -> None:
    refused = {row["id"]: answer for row in ROWS if isinstance(answer := answer_or_reason(row), str)}
    assert list(refused) == ["KN0035"]
    assert "chosen tokens" in refused["KN0035"]


def test_a_prediction_has_the_unit_of_its_row_and_an_interval_around_it() -> None:
    for row, answer in predicted():
        assert answer.unit == row["unit"]
        assert answer.low is not None and answer.high is not None
        assert 0 < answer.low < answer.value < answer.high


def test_half_of_the_rows_are_within_six_per_cent_and_nine_in_ten_within_a_fifth() -> None:
    off = sorted(abs(math.log(answer.value / float(row["value"]))) for row, answer in predicted())
    assert off[len(off) // 2] < 0.06
    assert off[len(off) * 9 // 10] < 0.22


@pytest.mark.parametrize("law", LAWS)
def test_intervals_hold_most_rows_of_each_law(law: str) -> None:
    held = [
        (answer.low or 0) <= float(row["value"]) <= (answer.high or 0)
        for row, answer in predicted()
        if answer.meaning.endswith(law)
    ]
    assert len(held) >= 10
    assert sum(held) / len(held) >= 0.72


def test_a_rate_and_a_time_of_the_same_exchange_agree() -> None:
    """DeepEP: 128 tokens of eight rows of 7168 bytes, 56 scales and 16 bytes in 173 us are 43.8 GB/s."""
    row = next(row for row in ROWS if row["id"] == "KN0007")
    time, rate = predict_kernel(row), predict_kernel({**row, "metric": "dispatch_bandwidth", "unit": "GB/s"})
    assert time.value * 1e-6 * rate.value * 1e9 == pytest.approx(128 * 8 * (7168 + 224 + 16))


def test_networks_and_generations_are_read_as_devices() -> None:
    assert device_of("H800 + CX7 400Gb IB").name == "h800_sxm"
    assert device_of("SM100+CX7").name == "b200_sxm"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "cuFFT"}, "no law for kernels of cuFFT"),
        ({"hardware": "abacus"}, "not known"),
        ({"unit": "furlongs"}, "furlongs"),
        ({"parallelism": "wide"}, "names no sizes"),
        ({"precision": "fp7"}, "not known"),
        ({"unit": "GB/s"}, "not predicted in GB/s"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(change: dict, said: str) -> None:
    row = next(row for row in ROWS if row["id"] == "KN0131")
    answer = answer_or_reason({**row, **change})
    assert isinstance(answer, str) and said in answer and "\n" not in answer


def test_the_law_of_a_row_is_the_one_its_error_is_counted_under() -> None:
    row = next(row for row in ROWS if row["id"] == "KN0131")
    assert (error(row, shipped()) or ("",))[0] == "gemm"
