"""A bill: the published one of V3, and arithmetic that every bill obeys."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.plan.hardware import Catalogue
from fathom.plan.training.bill import ABLATIONS, Extras, bill, hours
from fathom.plan.training.job import Job


def test_the_headline_of_v3(v3: Job) -> None:
    """2.664M, 119K and 5K H800-hours: 5.576M USD at 2 USD (arXiv:2412.19437, table 1)."""
    lines = {line.what: line for line in bill(v3, 14.8e12, Extras(price=2.0)) if line.counted}
    assert list(lines) == ["pre-training", "context extension", "post-training"]
    assert sum(line.usd.value for line in lines.values()) == pytest.approx(5.576e6, rel=0.1)
    assert lines["post-training"].usd.value == 10_000


def test_what_a_headline_leaves_out_has_its_lines(v3: Job) -> None:
    left_out = [line for line in bill(v3, 14.8e12, Extras()) if not line.counted]
    assert len(left_out) == 6 and all(line.note for line in left_out)
    assert next(line for line in left_out if "reasoner" in line.what).usd.value == 147_000 * 2.0


def test_generated_tokens_are_priced_as_inference(v3: Job) -> None:
    """1e12 tokens at 1,000 a second and device are 277,778 hours."""
    lines = bill(v3, 14.8e12, Extras(price=2.0, synthetic=1e12, write_rate=1000))
    found = next(line for line in lines if line.what == "synthetic data")
    assert found.hours.value == pytest.approx(277_778, rel=1e-5)
    assert found.usd.value == pytest.approx(555_556, rel=1e-5)


def test_ablations_of_the_report_are_a_sixth_of_the_run() -> None:
    spent = sum(6 * active * tokens * runs for active, tokens, runs in ABLATIONS)
    assert spent / (250e9 * 14.8e12) == pytest.approx(0.17, abs=0.01)


@given(tokens=st.floats(1e9, 1e14), more=st.floats(1.0, 10.0), price=st.floats(0.1, 10))
def test_more_tokens_and_dearer_devices_are_never_cheaper(tokens: float, more: float, price: float) -> None:
    from fathom.plan.families import find
    from fathom.plan.training.search import deepseek

    job = deepseek(find("deepseek-v3"), Catalogue.read().find("h800"))
    assert hours(job, tokens * more).value >= hours(job, tokens).value
    low, high = (bill(job, tokens, Extras(price=usd))[0].usd.value for usd in (price, price * more))
    assert high >= low


@pytest.mark.parametrize("name", ["failed", "ablations", "cleaned", "synthetic", "post_hours", "price", "write_rate"])
def test_extras_below_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Extras(**{name: -1.0})


def test_a_device_without_a_price_asks_for_one(v3: Job) -> None:
    device = Catalogue.read().find("a100")
    with pytest.raises(ConfigError, match="--price"):
        bill(replace(v3, device=device, precision="bf16"), 1e12, Extras())
    with pytest.raises(ConfigError, match="above 0"):
        hours(v3, 0)
