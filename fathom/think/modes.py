"""The ways a model can be asked to think in an evaluation: its own, an effort's, or a number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.batching import ThinkingParams
from fathom.errors import InputError
from fathom.tasks import Problem
from fathom.tokenizer import Tokenizer, encode_chat
from fathom.tokenizer.effort import EFFORTS, control, with_control

OWN = "own"  # thinks, and nothing is asked or enforced


@dataclass(frozen=True)
class Mode:
    """asked: tokens of thought in the line that asks for them. limit: tokens at which the engine closes the thought.

    line: of the system message; None: nothing is asked. always: also where the model was not trained to obey.
    """

    label: str
    thinking: bool = True
    line: str | None = None
    asked: int | None = None
    limit: int | None = None
    always: bool = False

    @classmethod
    def effort(cls, name: str) -> Mode:
        """As the server answers this effort; "own" leaves the model alone."""
        if name == OWN:
            return cls(OWN)
        if name not in EFFORTS:
            raise InputError(f"effort is {name!r}; it must be one of {OWN}, {', '.join(EFFORTS)}.")
        tokens = EFFORTS[name] or None
        return cls(name, name != "none", control(name), tokens, tokens)

    @classmethod
    def budget(cls, tokens: int) -> Mode:
        """Asked for and enforced, as the server does with `budget_tokens`."""
        return cls(f"budget {tokens}", True, control(budget_tokens=_positive(tokens)), tokens, tokens)

    @classmethod
    def asked_for(cls, tokens: int) -> Mode:
        """Asked for and not enforced: shows whether the model obeys."""
        return cls(f"asked {tokens}", True, control(budget_tokens=_positive(tokens)), tokens, always=True)

    @classmethod
    def forced(cls, tokens: int) -> Mode:
        """Enforced and not asked for: the model's own thought, cut there (s1, arXiv:2501.19393, section 3)."""
        if tokens < 0:
            raise InputError(f"a forced budget is {tokens} tokens; it must be at least 0.")
        return cls(f"forced {tokens}", limit=tokens)

    def prompt(self, tokenizer: Tokenizer, problem: Problem) -> list[int]:
        """Token ids of the problem, asked in this mode. Only models that were trained to obey read the line."""
        obeys = self.always or (self.line is not None and bool(tokenizer.settings.get("obeys_effort")))
        messages = with_control([{"role": "user", "content": problem.prompt}], self.line if obeys else None)
        return encode_chat(tokenizer, messages, thinking=self.thinking)

    def params(self, tokenizer: Tokenizer) -> ThinkingParams | None:
        """What the engine is told about the thought.

        Raises: InputError: the model has no token that ends one.
        """
        if self.limit is None or not self.thinking:
            return None
        if tokenizer.end_think_id is None:
            raise InputError(f"{self.label} limits thinking, but this model has no </think> token; use {OWN}.")
        return ThinkingParams(tokenizer.end_think_id, self.limit)


OWN_STYLE = Mode(OWN)


def _positive(tokens: int) -> int:
    if tokens < 1:
        raise InputError(f"a budget is {tokens} tokens; it must be at least 1. The effort none answers at once.")
    return tokens
