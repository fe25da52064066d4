"""The ways a model can be asked to think in an evaluation: its own, an effort's, or a number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.batching import ThinkingParams
from fathom.config.effort import EFFORTS, control, with_control
from fathom.errors import InputError
from fathom.tasks import Problem
from fathom.think.steering import Steering, share, steer
from fathom.tokenizer import Tokenizer, encode_chat

OWN = "own"  # thinks, and nothing is asked or enforced
ANSWER_TOKENS = 32  # the room that a limit on thinking leaves for the answer, at least


@dataclass(frozen=True)
class Mode:
    """asked: tokens of thought in the line that asks for them. limit: tokens at which the engine closes the thought.

    fixed: how to do it, whatever the model; None: as the server does with this effort, or with `asked`.
    """

    label: str
    asked: int | None = None
    limit: int | None = None
    fixed: Steering | None = None
    named: str | None = None

    @classmethod
    def effort(cls, name: str) -> Mode:
        """As the server answers this effort; "own" leaves the model alone."""
        if name == OWN:
            return cls(OWN, fixed=Steering())
        if name not in EFFORTS:
            raise InputError(f"effort is {name!r}; it must be one of {OWN}, {', '.join(EFFORTS)}.")
        return cls(name, EFFORTS[name] or None, named=name)

    @classmethod
    def budget(cls, tokens: int) -> Mode:
        """Asked for and enforced, as the server does with `budget_tokens`."""
        return cls(f"budget {tokens}", _positive(tokens), tokens)

    @classmethod
    def asked_for(cls, tokens: int) -> Mode:
        """Asked for and not enforced: shows whether the model obeys."""
        return cls(f"asked {tokens}", _positive(tokens), fixed=Steering(line=control(budget_tokens=tokens)))

    @classmethod
    def forced(cls, tokens: int) -> Mode:
        """Enforced and not asked for: the model's own thought, cut there (s1, arXiv:2501.19393, section 3)."""
        if tokens < 0:
            raise InputError(f"a forced budget is {tokens} tokens; it must be at least 0.")
        return cls(f"forced {tokens}", limit=tokens, fixed=Steering(limited=True, budget_tokens=tokens))

    def ask(
        self, tokenizer: Tokenizer, context_tokens: int, problem: Problem, max_tokens: int
    ) -> tuple[list[int], ThinkingParams | None]:
        """Token ids of the problem, asked in this mode, and what the engine is told about the thought.

        Raises: InputError: the model has no token that ends one.
        """
        if self.limit is not None and tokenizer.end_think_id is None:
            raise InputError(f"{self.label} limits thinking, but this model has no </think> token; use {OWN}.")
        how = self.fixed or steer(tokenizer, context_tokens, self.named, None if self.named else self.asked)
        messages = with_control([{"role": "user", "content": problem.prompt}], how.line)
        prompt = encode_chat(tokenizer, messages, thinking=how.thinking)
        _, thinking = share(how, tokenizer, prompt, max_tokens, most=max_tokens, answer_tokens=ANSWER_TOKENS)
        return prompt, thinking


OWN_STYLE = Mode.effort(OWN)


def _positive(tokens: int) -> int:
    if tokens < 1:
        raise InputError(f"a budget is {tokens} tokens; it must be at least 1. The effort none answers at once.")
    return tokens
