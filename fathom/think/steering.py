"""How much a reply may think: what its prompt says of it, what the engine enforces, what is left for the answer.

A model that obeys efforts reads the line of config/effort.py. Whatever a model obeys, its thought is closed at the
budget (batching.ThinkingParams), which is cut so that the answer keeps its room: no budget eats up `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fathom.batching.request import ThinkingParams, leaves_thinking_open
from fathom.config.effort import ALIASES, EFFORTS, control, obeys, say_that_it_does_not_obey
from fathom.errors import RequestError
from fathom.tokenizer import Tokenizer

ANSWER_TOKENS = 256
"""Room of an answer, unless somebody says another."""

TEMPERATURE = 0.7
"""Of samples that are to differ; Wang et al., arXiv:2203.11171, section 3.1, use 0.5 to 0.7."""

REVISE = "Check this answer. If it is wrong, correct it; otherwise repeat it."

EFFORTS_CONTEXT = 512
"""Context for which EFFORTS are meant [tokens]. A model that does not obey them gets the same shares of its own."""


@dataclass(frozen=True)
class Steering:
    """thinking: whether the prompt opens a thought. line: what the system message says of it. limited: whether anything
    is enforced. budget_tokens: the longest thought; None: as long as the answer keeps its room."""

    thinking: bool = True
    line: str | None = None
    limited: bool = False
    budget_tokens: int | None = None


def steer(
    tokenizer: Tokenizer, context_tokens: int, effort: str | None = None, budget_tokens: int | None = None
) -> Steering:
    """What an effort or a budget means for this model; neither leaves it to its own style.

    Args:   effort: a key of EFFORTS or ALIASES. budget_tokens: wins over the effort's.
    Raises: RequestError: no such effort, a budget below 0, or a budget for no thought.
    """
    effort = ALIASES.get(effort or "", effort)
    line = control(effort, budget_tokens)
    if effort == "none" and budget_tokens:
        raise RequestError(
            f"budget_tokens is {budget_tokens} and the effort is none, which thinks not at all; send one of them.",
            param="reasoning_effort",
            code="invalid_value",
        )
    if effort is None and budget_tokens is None:
        return Steering()
    if effort == "none" or budget_tokens == 0:
        return Steering(thinking=False, limited=True, budget_tokens=0)
    obedient = obeys(tokenizer.settings)
    if not obedient:
        say_that_it_does_not_obey()
    budget = budget_tokens
    if budget is None and effort is not None and (usual := EFFORTS[effort]) is not None:
        budget = usual if obedient else usual * max(1, context_tokens // EFFORTS_CONTEXT)
    return Steering(True, line if obedient else None, True, budget)


def share(
    steering: Steering, tokenizer: Tokenizer, prompt: Sequence[int], room: int, *, most: int | None = None,
    usual: int | None = None, answer_tokens: int = ANSWER_TOKENS,
) -> tuple[int, ThinkingParams | None]:  # fmt: skip
    """`max_tokens` of a reply and the limit on its thought.

    Args: room: tokens that the context leaves. most: the longest reply, thought included, that the caller allows.
          usual: the model's own limit, which a budget may exceed. answer_tokens: room of the answer; where all is
          less than four times that, a quarter of all.
    """
    total = min(room, most if most is not None else usual or room)
    end, think = tokenizer.end_think_id, tokenizer.think_id
    if not steering.limited or end is None:
        return total, None
    if not steering.thinking:
        return total, None if think is None else ThinkingParams(end, 0, think)
    if not leaves_thinking_open(prompt, think, end):
        return total, None  # its encoding has no thought to limit
    if most is None and usual is not None and steering.budget_tokens is not None:
        total = min(room, max(usual, steering.budget_tokens + 1 + answer_tokens))
    kept = min(answer_tokens, max(1, total // 4))
    longest = max(0, total - 1 - kept)  # one token ends the thought
    budget = longest if steering.budget_tokens is None else min(longest, steering.budget_tokens)
    return total, ThinkingParams(end, budget, think)
