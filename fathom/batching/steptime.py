"""How long a step takes, as arithmetic, and how many prompt tokens may join one without holding up its decodes.

    seconds = step_s + decode_s * decodes + decode_key_s * their keys        the decodes alone
            + prompt_s * prompt tokens + prompt_key_s * their keys           what prompts add

A key is one (new token, token it attends to) pair. The coefficients are given (a planner's, a test's) or fitted to
measured steps, each part by the steps that show it: the first line by steps without prompts, the second by what mixed
steps took beyond it. Otherwise a long prompt would slowly be charged to the decodes, and its own limit grow with it.

The fit is least squares of relative errors, with forgetting, along the direction of each step: a dozen operations and
one number of memory each. Relative, because noise grows with the step: what swapped or met a neighbour counts little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fathom.batching.plan import Plan

KEPT = 0.85  # of the weight of all earlier steps, at each new one: a memory of some 7 steps
KEPT_WHEN_SURPRISED = 0.4
SURPRISE = 0.3  # a prediction that is wrong by more than this part of the step: perhaps the machine has changed
PROBE_EVERY = 32  # mixed steps in a row after which the decodes run alone once, lest their times grow stale
PROBE_SOON = (
    4  # the same after a surprise, or if they were last timed at less than half or more than twice their number
)
KEYS = 1024.0  # keys per unit in the fit, so that both terms of a part are of like size


@dataclass
class StepTime:
    """Predicts steps. Fields [s]: per step, per decode, per key of a decode, per prompt token, per key of one, and
    restore_s per page read back from the spill file. All 0: nothing is known yet, it must be observed.
    """

    step_s: float = 0.0
    decode_s: float = 0.0
    decode_key_s: float = 0.0
    prompt_s: float = 0.0
    prompt_key_s: float = 0.0
    restore_s: float = 0.0
    _alone: float = field(default=0.0, repr=False)  # weight of the steps observed with decodes only
    _mixed: float = field(default=0.0, repr=False)  # with both
    _restored: float = field(default=0.0, repr=False)
    _decodes: int = field(default=0, repr=False)  # sequences that decoded when that was last seen alone
    _in_a_row: int = field(default=0, repr=False)  # mixed steps since then
    _surprised: bool = field(default=False, repr=False)  # since decodes were last seen alone
    _widest: float = field(default=math.inf, repr=False)  # prompt tokens in mixed steps of late

    def wants_alone(self, decodes: int) -> bool:
        """Whether so many decodes should run without prompts for once, to be timed."""
        if self._alone == 0 and self.step_s == self.decode_s == 0.0:
            return True
        alike = self._decodes <= 2 * decodes and decodes <= 2 * self._decodes
        return self._in_a_row >= (PROBE_EVERY if alike and not self._surprised else PROBE_SOON)

    def alone_s(self, decodes: int, keys: int) -> float:
        """A step of nothing but these decodes [s]."""
        return self.step_s + self.decode_s * decodes + self.decode_key_s * keys

    def chunk_s(self, tokens: int, start: int) -> float:
        """What `tokens` prompt tokens from position `start` on add to a step [s]."""
        return self.prompt_s * tokens + self.prompt_key_s * chunk_keys(tokens, start)

    def seconds(self, decodes: int, prompt_tokens: int, *, decode_keys: int = 0, start: int = 0) -> float:
        """A step with one chunk of a prompt [s]."""
        return self.alone_s(decodes, decode_keys) + self.chunk_s(prompt_tokens, start)

    def tokens_within(self, seconds: float, start: int) -> float:
        """The most prompt tokens from `start` on that add at most `seconds`.

        Never more than twice what mixed steps held of late: a slope measured on few tokens says little about many.
        """
        at_start = self.prompt_s + self.prompt_key_s * (start + 0.5)
        if seconds <= 0.0 or (at_start == 0.0 and self._mixed == 0):
            return 0.0
        # the positive root of prompt_key_s / 2 * n^2 + at_start * n = seconds, in the form that allows a zero
        slope = at_start + math.sqrt(at_start * at_start + 2.0 * self.prompt_key_s * seconds)
        most = 2.0 * seconds / slope if slope > 0.0 else math.inf
        return min(most, 2.0 * self._widest)

    def observe(self, plan: Plan, seconds: float) -> None:
        """Learn from a step that took `seconds`, without what reading pages back took."""
        rows = decodes = decode_keys = tokens = keys = 0
        for row in plan.rows:
            count = len(row.token_ids)
            if row.sampling is not None and count - row.drafts == 1:  # a guess costs what a decode does
                rows += 1
                decodes += count
                decode_keys += count * (row.start + 1)
            else:
                tokens += count
                keys += chunk_keys(count, row.start)
        if not decodes or seconds <= 0.0:
            return  # bounds nobody's wait
        error = seconds - self.alone_s(decodes, decode_keys)
        if tokens:
            self._observe_mixed(error - self.prompt_s * tokens - self.prompt_key_s * keys, seconds, tokens, keys / KEYS)
        else:
            self._decodes, self._in_a_row = rows, 0
            self._observe_alone(error, seconds, decodes, decode_keys / KEYS)

    def observe_restores(self, pages: int, seconds: float) -> None:
        """Learn from reading `pages` pages back."""
        if seconds > 0.0:
            self._restored = KEPT * self._restored + (pages / seconds) ** 2
            self.restore_s += (seconds - self.restore_s * pages) * pages / (seconds * seconds * self._restored)

    def _observe_alone(self, error: float, seconds: float, decodes: int, keys: float) -> None:
        weight = 1.0 / (seconds * seconds)
        kept = KEPT_WHEN_SURPRISED if self._surprised else KEPT
        self._surprised = self._alone > 0.0 and abs(error) > SURPRISE * seconds
        self._alone = kept * self._alone + weight * (1.0 + decodes * decodes + keys * keys)
        step = error * weight / self._alone
        self.step_s = max(0.0, self.step_s + step)
        self.decode_s = max(0.0, self.decode_s + step * decodes)
        self.decode_key_s = max(0.0, self.decode_key_s + step * keys / KEYS)

    def _observe_mixed(self, error: float, seconds: float, tokens: int, keys: float) -> None:
        self._in_a_row += 1
        self._surprised |= self._mixed > 0.0 and abs(error) > SURPRISE * seconds
        self._widest = max(tokens, 0.9 * self._widest) if self._mixed else tokens
        weight = 1.0 / (seconds * seconds)
        self._mixed = KEPT * self._mixed + weight * (tokens * tokens + keys * keys)
        step = error * weight / self._mixed
        self.prompt_s = max(0.0, self.prompt_s + step * tokens)
        self.prompt_key_s = max(0.0, self.prompt_key_s + step * keys / KEYS)


class Budget:
    """What prompts may still take of one step: tokens, and seconds where decodes wait for its end.

    Fields: least: tokens (or else one page read back) that fit whatever the seconds say, so that prompts always
            advance. spent_s: what they took.
    """

    def __init__(
        self, tokens: int, step_time: StepTime | None = None, seconds: float = math.inf, least: int = 0
    ) -> None:
        self.tokens, self.seconds, self.least = tokens, seconds, least
        self.spent_s = 0.0
        self._step_time = step_time or StepTime()

    def tokens_at(self, start: int) -> int:
        """The most prompt tokens from position `start` on that still fit."""
        if self.seconds == math.inf:
            return self.tokens
        fitting = self._step_time.tokens_within(self.seconds - self.spent_s, start)
        return int(min(self.tokens, max(fitting, self.least)))

    @property
    def pages(self) -> float:
        """The most pages that may still be read back."""
        if self.seconds == math.inf:
            return math.inf if self.tokens else 0
        restore_s = self._step_time.restore_s
        fitting = (self.seconds - self.spent_s) / restore_s if restore_s > 0.0 else 0.0
        return max(fitting, 1 if self.least and not self.spent_s else 0)

    def spend(self, tokens: int, start: int) -> None:
        """A chunk of a prompt joins the step."""
        self.tokens -= tokens
        self.least = max(0, self.least - tokens)
        self.spent_s += self._step_time.chunk_s(tokens, start)

    def spend_decodes(self, tokens: int, keys: int) -> None:
        """Guesses are verified, `tokens` of them with `keys` each; their own stream waits for them, not the prompts."""
        self.spent_s += tokens * (self._step_time.decode_s + keys * self._step_time.decode_key_s)

    def spend_pages(self, pages: int) -> None:
        """Pages are read back before the step."""
        if pages:
            self.least = 0
            self.spent_s += self._step_time.restore_s * pages


def chunk_keys(tokens: int, start: int) -> int:
    """Keys that `tokens` tokens from position `start` on attend to, each also to itself."""
    return tokens * start + tokens * (tokens + 1) // 2
