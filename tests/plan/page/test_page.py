"""The page's questions: what can be asked, what depends on what, and that nothing is answered without a number."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fathom.plan.page import WORKS, answer, inputs

SMALL = {"model": "llama-3.1-8b", "gpu": "h100_sxm", "gpus": "1", "in": "1000", "out": "200", "largest": "2",
         "mtp": "0", "trained_on": "64", "tokens": "15T"}  # fmt: skip


def finite(found: Any) -> bool:
    if isinstance(found, dict):
        return all(finite(value) for value in found.values())
    if isinstance(found, list):
        return all(finite(value) for value in found)
    return not isinstance(found, float) or math.isfinite(found)


@pytest.mark.parametrize("work", WORKS)
def test_every_section_answers_with_numbers_that_have_units(work: str) -> None:
    found = json.loads(json.dumps(answer(work, SMALL)))
    assert found["asked"] == SMALL and found["title"] == WORKS[work][0] and found["says"].endswith(".")
    assert found["numbers"] and all(one["unit"] and one["source"] for one in found["numbers"])
    assert found["plots"] and all(plot["series"] for plot in found["plots"])
    assert finite(found)
    for table in found["tables"]:
        assert all(len(row) == len(table["head"]) for row in table["rows"])


def test_a_section_depends_on_the_inputs_it_names_and_no_others() -> None:
    asked = inputs()
    names = {field["name"] for group in asked["groups"] for field in group["fields"]}
    uses = {work["name"]: set(work["uses"]) for work in asked["works"]}
    assert names == set().union(*uses.values()), "an input that nothing uses"
    assert [work["name"] for work in asked["works"] if work["slow"]] == ["serve", "demand", "crossover"]
    others = {"users": "1M", "rl": "0", "price": "9", "tpot": "20"}
    assert not set(others) & uses["fit"]
    plain, changed = answer("fit", SMALL), answer("fit", {**SMALL, **others})
    assert plain["numbers"] == changed["numbers"] and plain["plots"] == changed["plots"]


def test_what_is_not_there_is_a_lookup_error_that_names_what_is() -> None:
    with pytest.raises(LookupError, match="inputs or fit, serve, train, demand, crossover"):
        answer("fits", {})
