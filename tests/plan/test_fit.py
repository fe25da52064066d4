"""What fits and what does not, as the world knows it; and a change that is named does make it fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.plan import families
from fathom.plan.fit import fit, layouts, read_layout, spelled, whole_blocks
from fathom.plan.hardware import Catalogue
from fathom.plan.rows import Refusal, case
from fathom.plan.validate import DATA, read

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
        ("deepseek-v3", "8xh20", "", True),  # LMDeploy issue 2960: 83 GB of each, out of memory on eight H800
        ("deepseek-v3", "8xmi300x", "", True),
        ("deepseek-v3", "8xh100", "int4", True),
        ("deepseek-v3", "4xb200", "bf16", False),
        ("llama-3.1-405b", "8xh100", "", False),
        ("llama-3.1-405b", "8xh100", "fp8", True),
        ("llama-3.1-70b", "1xh100", "", False),
        ("llama-3.1-70b", "2xh100", "", True),  # vllm issue 10517: with 20,000 tokens of context
        ("llama-3.1-70b", "1xh200", "", False),
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


def test_kimi_k2_with_its_whole_context_takes_sixteen_h200_as_its_makers_say() -> None:
    shape, device = families.find("kimi-k2"), CATALOGUE.find("h200")
    answers = [fit(shape, device, n, context=131_072, layout=Layout(tp=n)).fits for n in (8, 16)]
    assert answers == [False, True]


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


def test_changes_go_from_small_to_large() -> None:
    shape, device = families.find("deepseek-v3"), CATALOGUE.find("h20")
    found = fit(shape, device, 8, context=55_000)
    assert [change.split("--")[1].split(" ")[0] for change in found.changes][:2] == ["chunk", "cache"]
    assert not fit(shape, device, 8, redundant=8, mtp=True).fits
    assert any("copies" in change for change in fit(shape, device, 8, redundant=8).changes)


def test_another_layout_is_the_first_change() -> None:
    found = fit(families.find("deepseek-v3"), CATALOGUE.find("h20"), 8, layout=Layout(dp=8, ep=8))
    assert not found.fits and found.changes[0].startswith("another layout (--layout tp8")


def test_a_context_that_no_device_has_room_for_is_the_binding_term() -> None:
    found = fit(families.find("llama-4-scout"), CATALOGUE.find("h200"), 8, context=10_000_000)
    assert not found.fits and found.bound == "cache of one context"


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("tp8", Layout(tp=8)),
        ("tp=8", Layout(tp=8)),
        ("TP8,PP2", Layout(tp=8, pp=2)),
        ("dp8 ep8", Layout(dp=8, ep=8)),
        ("dep8", Layout(dp=8, ep=8)),
        ("dp4tp2ep8", Layout(dp=4, tp=2, ep=8)),
    ],
)
def test_layouts_are_read_as_people_write_them(text: str, layout: Layout) -> None:
    assert read_layout(text) == layout == read_layout(spelled(layout))


@pytest.mark.parametrize("text", ["", "8", "tp", "tp8,tp4", "tq8", "tp0", "tp8;rm", "ep8", "tp9999999"])
def test_a_layout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_layout(text)


def test_fp8_blocks_are_not_cut() -> None:
    shape, device = families.find("deepseek-v3"), CATALOGUE.find("h100")
    found = fit(shape, device, 32)
    assert all(one.setup.layout.tp * one.setup.layout.pp * one.setup.layout.dp == 32 for one in found.tried)
    assert not whole_blocks(replace(found.setup, layout=Layout(tp=32)))  # 2048 / 32 is half a block
    assert whole_blocks(replace(found.setup, layout=Layout(tp=16)))


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


def test_what_was_really_run_fits_but_for_three_in_a_hundred() -> None:
    """Every model, number of devices and precision of the shipped serving points, in the layout that was measured."""
    rows = {}
    for row in read(DATA):
        if row["kind"].startswith("serving") and "offload" not in row["parallelism"]:
            rows.setdefault(tuple(row[k] for k in ("model", "hardware", "n_gpus", "parallelism", "precision")), row)
    answers: dict[object, bool] = {}
    for row in rows.values():
        one = case(row, CATALOGUE)
        if isinstance(one, Refusal) or one.devices > 512:
            continue
        for setup in filter(None, (one.setup, one.reads)):
            count = one.devices if one.way == "saturated" else setup.devices
            key = (setup.shape.name, setup.device.name, count, setup.weights.name, setup.cache)
            if key not in answers:
                found = fit(
                    setup.shape, setup.device, count, precision=setup.precision, cache=setup.cache, context=1024
                )
                answers[key] = found.fits
    wrong = [key for key, fits in answers.items() if not fits]
    assert len(answers) > 50 and len(wrong) <= 0.03 * len(answers), wrong
