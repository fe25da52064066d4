"""What fits and what does not, as the world knows it; and a change that is named does make it fit."""

from __future__ import annotations

import re

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families
from fathom.plan.fit import fit, layouts
from fathom.plan.hardware import Catalogue

CATALOGUE = Catalogue.read()


@pytest.mark.parametrize(
    ("model", "on", "precision", "answer"),
    [
        ("deepseek-v3", "8xh100", "", False),
        ("deepseek-v3", "8xh800", "", False),
        ("deepseek-v3", "8xh200", "", True),
        ("deepseek-v3", "16xh100", "", True),
        ("deepseek-v3", "8x910c", "int8", True),
        ("deepseek-v3", "8xb200", "", True),
        ("deepseek-v3", "4xb200", "nvfp4", True),
        ("deepseek-v3", "1xepyc_9654", "q4_k_m", True),
        ("deepseek-v3", "1xh200", "", False),
        ("llama-3.1-405b", "8xh100", "", False),
        ("llama-3.1-405b", "8xh100", "fp8", True),
        ("llama-3.1-70b", "1xh100", "", False),
        ("llama-3.1-70b", "2xh100", "", False),
        ("llama-3.1-70b", "4xh100", "", True),
        ("gpt-oss-120b", "1xh100", "", True),
        ("qwen3-8b", "1xrtx4090", "", True),
        ("mixtral-8x7b", "1xh100", "", False),
        ("mixtral-8x7b", "2xh100", "", True),
    ],
)
def test_known_answers(model: str, on: str, precision: str, answer: bool) -> None:
    count, device = CATALOGUE.counted(on)
    found = fit(families.find(model), device, count, precision=precision)
    assert found.fits is answer
    assert bool(found.changes) is not answer and (found.missing > 0) is not answer


def test_a_named_change_makes_it_fit() -> None:
    shape, device = families.find("deepseek-v3"), CATALOGUE.find("h100")
    found = fit(shape, device, 8)
    more = next(re.search(r"(\d+) devices", change) for change in found.changes if "devices" in change)
    assert more is not None and fit(shape, device, int(more[1])).fits and not fit(shape, device, int(more[1]) - 8).fits


def test_a_shorter_context_that_is_named_fits_and_a_longer_one_does_not() -> None:
    shape, device = families.find("llama-3.1-70b"), CATALOGUE.find("rtxpro6000")
    found = fit(shape, device, 1, precision="fp8", context=131_072)
    tokens = next(int(n[1]) for change in found.changes if (n := re.search(r"--context (\d+)", change)))
    assert fit(shape, device, 1, precision="fp8", context=tokens).fits
    assert not fit(shape, device, 1, precision="fp8", context=tokens + 512).fits


def test_layouts_use_all_devices() -> None:
    for count in (1, 6, 8, 16):
        found = list(layouts(families.find("deepseek-v3"), count))
        assert found and all(layout.world_size == count for layout in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "0 devices"),
        ({"context": 0}, "at least 1"),
        ({"context": 10**7}, "at most"),
        ({"layout": Layout(tp=4)}, "not 8"),
        ({"precision": "fp7"}, "fp8"),
        ({"cache": "fp4"}, "bf16, fp8"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    asked = {"count": 8} | options
    count = asked.pop("count")
    with pytest.raises(ConfigError, match=message):
        fit(families.find("deepseek-v3"), CATALOGUE.find("h100"), count, **asked)  # type: ignore[arg-type]
