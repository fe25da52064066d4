"""The planner's page, without its pictures: from inputs as texts to answers as plain data.

    answer("fit", {"model": "deepseek-v3", "gpu": "h100_sxm", "gpus": "8"})

fields.py says what can be asked, answer.py what an answer consists of, the others make one section each. serve.py must
not be mistaken for the server: it is the section about serving. Read first: fields.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fathom.config import nearest
from fathom.plan.page import demand, fit, serve, train
from fathom.plan.page.answer import Answer
from fathom.plan.page.fields import Asked, groups

#: name -> (title, what makes it, the inputs that it depends on)
WORKS: dict[str, tuple[str, Callable[[Asked], Answer], tuple[str, ...]]] = {
    "fit": ("Does it fit?", fit.answer, fit.USES),
    "serve": ("How fast, for how much?", serve.answer, serve.USES),
    "train": ("What does training cost?", train.answer, train.USES),
    "demand": ("What does demand cost?", demand.answer, (*serve.USES, *demand.FLEET)),
    "crossover": (
        "When does answering cost more than training?", demand.crossover,
        tuple(dict.fromkeys((*serve.USES, *demand.FLEET, *train.USES, "rl", "rd"))),
    ),
}  # fmt: skip


def answer(what: str, query: Mapping[str, str]) -> dict[str, Any]:
    """What the page asks, as plain data: "inputs", or a section of WORKS.

    Raises: InputError: an input cannot be used. LookupError: there is no such section.
    """
    if what == "inputs":
        return inputs()
    if what not in WORKS:
        raise LookupError(
            f"the planner has no {what[:40]!r}{nearest(what, WORKS)}; ask for inputs or {', '.join(WORKS)}."
        )
    title, made, _ = WORKS[what]
    asked = Asked(query)
    return {"title": title, "asked": dict(query), **made(asked).to_dict()}


def inputs() -> dict[str, Any]:
    """What can be asked."""
    return {
        "groups": [{"title": title, "fields": [field.to_dict() for field in fields]} for title, fields in groups()],
        "works": [
            {"name": name, "title": title, "uses": list(uses), "slow": set(serve.USES) <= set(uses)}
            for name, (title, _, uses) in WORKS.items()
        ],
    }  # fmt: skip
