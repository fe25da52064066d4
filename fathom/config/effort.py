"""How much a model shall think, as a word or as a number of tokens, and how it is told.

A model that was trained to obey (its tokenizer_config.json says `"obeys_effort": true`) reads it as a line of the
system message; whatever a model obeys, the engine closes a thought that reaches its budget (batching.ThinkingParams).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fathom.errors import RequestError

log = logging.getLogger(__name__)

#: Budget of each effort [tokens of thought]; None: as long as it takes, and then a test of the answer.
EFFORTS: dict[str, int | None] = {"none": 0, "low": 64, "medium": 128, "high": 256, "max": None}

#: Other names that clients have for some of them.
ALIASES = {"minimal": "low", "xhigh": "max", "ultra": "max"}

REFLECT = "Check your work."


def obeys(settings: Mapping[str, Any]) -> bool:
    """Whether a model with this tokenizer_config.json was trained to obey the line of `control`."""
    return settings.get("obeys_effort") is True


@functools.cache
def say_that_it_does_not_obey() -> None:
    """Once: efforts and budgets are enforced, not followed."""
    log.warning("effort: this model was not trained to obey it; thoughts are closed at their budget, nothing more")


def control(effort: str | None = None, budget_tokens: int | None = None) -> str | None:
    """The line that asks for so much thought; None: nothing is asked, the model's own style.

    Args:   budget_tokens: wins over the effort's budget.
    Raises: RequestError: no such effort, or a budget below 0.
    """
    if effort is not None and effort not in EFFORTS:
        raise RequestError(f"effort is {effort!r}; it must be one of {', '.join(EFFORTS)}.", param="reasoning_effort")
    if budget_tokens is None and effort is not None:
        budget_tokens = EFFORTS[effort]
        if budget_tokens is None:
            return REFLECT
    if budget_tokens is None or budget_tokens == 0:
        return None
    if budget_tokens < 0:
        raise RequestError(f"budget_tokens is {budget_tokens}; it must be at least 0.", param="thinking.budget_tokens")
    return f"budget {budget_tokens}"


def with_control(messages: Sequence[Mapping[str, Any]], line: str | None) -> list[Mapping[str, Any]]:
    """The conversation with that line at the head of its system message; the message is made if there is none."""
    if line is None:
        return list(messages)
    if messages and messages[0].get("role") == "system":
        first = messages[0]
        return [{**first, "content": f"{line}\n{first['content']}"}, *messages[1:]]
    return [{"role": "system", "content": line}, *messages]
