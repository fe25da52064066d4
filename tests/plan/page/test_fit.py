"""The section about memory says what fit.py says, and draws what a device holds."""

from __future__ import annotations

import pytest

from fathom.errors import RequestError
from fathom.plan.families import find
from fathom.plan.fit import fit
from fathom.plan.hardware import Catalogue
from fathom.plan.page.answer import Answer
from fathom.plan.page.fields import Asked
from fathom.plan.page.fit import answer


def of(**query: str) -> Answer:
    return answer(Asked(query))


@pytest.mark.parametrize(
    ("gpu", "gpus", "state"),
    [("h100_sxm", "8", "no"), ("h200_sxm", "8", "yes"), ("h100_sxm", "16", "yes"), ("h800_sxm", "16", "yes")],
)
def test_671_billion_parameters_fit_where_they_do(gpu: str, gpus: str, state: str) -> None:
    found = of(gpu=gpu, gpus=gpus)
    assert found.state == state and found.says.lower().startswith(f"{state}: deepseek-v3")


def test_what_would_help_is_said_without_options_of_the_command() -> None:
    found = of(gpu="h100_sxm", gpus="8")
    help_line = next(line for line in found.lines if "would help" in line)
    assert "16 devices" in help_line and "--" not in help_line
    assert "GB are missing on each" in found.says


def test_numbers_are_those_of_the_planner() -> None:
    found = of(gpu="h200_sxm", gpus="8", mtp="0")
    direct = fit(find("deepseek-v3"), Catalogue.read()["h200_sxm"], 8, context=5120)
    numbers = dict(found.numbers)
    assert numbers["Contexts at a time"].value == direct.contexts
    assert numbers["Cache of a token"].value == pytest.approx(direct.memory.token_bytes / 1e3)
    parts = {name: size for name, size in found.tables[0].rows}
    assert parts["experts"] == pytest.approx(direct.memory.parts["experts"] / 1e9)
    assert numbers["Parameters"].value == pytest.approx(671.0, rel=1e-3)


def test_a_bar_reaches_what_engines_may_use_where_it_fits_and_beyond_the_memory_where_not() -> None:
    (plot,) = of(gpu="h800_sxm", gpus="16").plots
    *parts, limit = plot.chart.series
    for i, name in enumerate(plot.chart.categories):
        lows = [one.low[i] for one in parts]
        highs = [one.high[i] for one in parts]
        assert lows == [0.0, *highs[:-1]], "parts lie end to end"
        memory = limit.points[i][1]
        if name.endswith("yes"):
            assert highs[-1] == pytest.approx(0.92 * memory)
        elif name.startswith("8 x H800"):
            assert highs[-1] > memory
    assert plot.chart.categories[0] == "16 x H800 80GB: yes"
    assert "8 x H800 80GB: no" in plot.chart.categories


def test_lengths_beyond_the_model_are_laid_at_their_input() -> None:
    with pytest.raises(RequestError, match="made for 32,768") as caught:
        of(model="mixtral-8x7b", **{"in": "40000"})
    assert caught.value.param == "in"
