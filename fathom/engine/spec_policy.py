"""How many tokens to guess in the next step: as many as have paid of late, on this machine and at this batch.

With k guesses per sequence a step of n sequences is expected to bring n * (1 + a1 + a1 * a2 + ...) tokens, where a_j is
how often the j-th guess was right when those before it were; and to take the time of n * (1 + k) tokens in the model
and of k rounds of n sequences in the drafter. Acceptances and both times are measured as steps go by.

What is not done is not measured: now and then a few steps try otherwise than what looks best.
"""

from __future__ import annotations

from collections.abc import Sequence

from fathom.batching.plan import Plan, Sampled
from fathom.errors import ConfigError

MAX_DRAFTS = 4  # the module learned to look one token ahead; fed with its own guesses it soon goes astray
WORTH = 1.02  # predicted gain below which nothing is guessed: less than what the prediction is off by
HOPE, HOPED = 0.9, 3  # acceptance assumed before the first guess, and the guesses that this counts as
MEMORY = 64  # guesses and steps after which a measurement has lost most of its weight
OUTLIER = 2.0  # a step that takes more than this multiple of its prediction was disturbed, and counts as this much
TRIALS, FIRST_TRIALS = 6, 2  # guesses judged in a try that makes some, unless their price alone says that none pays
PLAIN_STEPS = 4  # of a try that makes none
TRY_EVERY, TRY_EVERY_AT_MOST = 64, 1024  # steps between tries; doubled while they change nothing


def read_spec(spec: str | int) -> int | None:
    """Guesses per sequence and step that `spec` asks for: 0 for off, None for auto."""
    words = {"auto": None, "off": 0} | {str(count): count for count in range(MAX_DRAFTS + 1)}
    if str(spec) not in words:
        raise ConfigError(f"spec is {spec!r}; it must be auto, off, or a number of tokens from 1 to {MAX_DRAFTS}.")
    return words[str(spec)]


def drafts_of(modules: int, spec: str | int) -> int | None:
    """Guesses per step that `spec` means for a model with so many MTP modules; None: as many as pay."""
    drafts = read_spec(spec)
    if modules:
        return drafts
    if drafts:
        raise ConfigError(f"spec is {spec}; this model was loaded without an MTP module. Use auto or off.")
    return 0


class SpecPolicy:
    """`choose` before a step, `observe` after it. `fixed`: always choose that; None weighs what it brings."""

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self.acceptance = [HOPE] * MAX_DRAFTS
        self._judged = [0] * MAX_DRAFTS
        self._best = 0  # what `choose` found to pay most
        self._trials: dict[int, Trial] = {}  # by the batch's size, to a power of 2

    def choose(self, sequences: int) -> int:
        """Guesses per sequence for a step of so many sequences."""
        if self.fixed is not None:
            return self.fixed
        trial = self._trial(sequences)
        self._best = self._most_per_s(trial, sequences)
        if trial.trying is False:
            return 0
        return min(self._best + (trial.trying is True), MAX_DRAFTS)

    def observe(self, plan: Plan, sampled: Sequence[Sampled], step_s: float, draft_s: float) -> None:
        """Learn from a step: step_s is all it took, draft_s the part of it that was making guesses."""
        if self.fixed is not None:
            return
        judged = 0
        for row, answer in zip(plan.sampling_rows, sampled, strict=True):
            if row.drafts:
                judged += 1
                self._judge(row.drafts, len(answer.token_ids) - 1)
        if not plan.rows or any([len(row.token_ids) > 1 + row.drafts for row in plan.rows]):
            return  # chunks of prompts cost something else
        sequences, rounds = len(plan.rows), max([row.propose for row in plan.rows])
        trial = self._trial(sequences)
        trial.model_s.add(plan.num_tokens, step_s - draft_s)
        if rounds:
            trial.round_s.add(sequences, draft_s / rounds)
        trial.go_on(sequences, judged, guessed=rounds > 0, guesses_pay=self._best > 0)

    def _trial(self, sequences: int) -> Trial:
        size = sequences.bit_length()
        if size not in self._trials:
            self._trials[size] = Trial()
        return self._trials[size]

    def _most_per_s(self, trial: Trial, sequences: int) -> int:
        """The length that promises most tokens per second; 0 unless it is worth the trouble."""
        if not trial.model_s.sloped:
            return 0
        tokens, chance = 1.0, 1.0
        plain = best_rate = 1.0 / trial.seconds(sequences, 0)
        best = 0
        for drafts, acceptance in enumerate(self.acceptance, 1):
            chance *= acceptance
            tokens += chance
            rate = tokens / trial.seconds(sequences, drafts)
            if rate > best_rate:
                best, best_rate = drafts, rate
        return best if best_rate >= WORTH * plain else 0

    def _judge(self, drafts: int, accepted: int) -> None:
        for depth in range(min(drafts, accepted + 1)):
            self._judged[depth] += 1
            gain = max(1.0 / MEMORY, 1.0 / (HOPED + self._judged[depth]))
            self.acceptance[depth] += gain * ((depth < accepted) - self.acceptance[depth])


class Trial:
    """What steps of like batches took, and when to find out what other steps would take.

    Fields: model_s: time of the tokens in a step. round_s: time of the sequences in a round of guesses. trying: True
            in a try with (more) guesses, False in one with none, None in neither.
    """

    def __init__(self) -> None:
        self.model_s, self.round_s = Line(), Line()
        self.trying: bool | None = True
        self._left = FIRST_TRIALS
        self._paid = False  # whether guesses looked worth it before the try
        self._longer = False  # whether the next try, where guesses pay, is of one more; else of none
        self._since = {True: 0, False: 0}  # steps since one with guesses, and since one without
        self._every = TRY_EVERY

    def seconds(self, sequences: int, drafts: int) -> float:
        """Predicted time of a step [s]; above 0."""
        return max(1e-9, self.model_s.at(sequences * (1 + drafts)) + drafts * self.round_s.at(sequences))

    def hopeless(self, sequences: int) -> bool:
        """Whether not even guesses that are always right would pay."""
        plain = self.seconds(sequences, 0)
        return all((1 + drafts) * plain <= self.seconds(sequences, drafts) for drafts in range(1, MAX_DRAFTS + 1))

    def go_on(self, sequences: int, judged: int, *, guessed: bool, guesses_pay: bool) -> None:
        """End the try under way when it has shown enough, or begin one when a kind of step was not seen for long."""
        self._since[guessed] = 0
        self._since[not guessed] += 1
        if self.trying is None:
            if self._since[not guessed] >= self._every:
                self._paid, self._longer = guesses_pay, not self._longer
                self._begin(not guessed or self._longer)
        elif guessed == self.trying:
            self._left -= judged if guessed else 1
            sloped = self.model_s.sloped
            if self._left > 0 and not (judged and sloped and self.hopeless(sequences)):
                return
            if not sloped:  # the first try: now the other kind, or nothing can be compared
                return self._begin(not guessed)
            self._every = min(2 * self._every, TRY_EVERY_AT_MOST) if guesses_pay == self._paid else TRY_EVERY
            self.trying = None

    def _begin(self, guesses: bool) -> None:
        self.trying, self._left = guesses, TRIALS if guesses else PLAIN_STEPS
        self._since = {True: 0, False: 0}


class Line:
    """y = base + slope * x by least squares, in which a measurement fades as others come."""

    def __init__(self) -> None:
        self.base = self.slope = 0.0
        self.sloped = False  # whether different x were seen; before that, the slope is not known
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._seen = 0

    def at(self, x: float) -> float:
        return self.base + self.slope * x

    def add(self, x: float, y: float) -> None:
        self._seen += 1
        if self._seen > TRIALS:
            y = min(y, OUTLIER * self.at(x))
        keep = 1.0 - 1.0 / MEMORY
        self._weight = keep * self._weight + 1.0
        self._x, self._y = keep * self._x + x, keep * self._y + y
        self._xx, self._xy = keep * self._xx + x * x, keep * self._xy + x * y
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_x * mean_x
        if spread > 1e-6 * mean_x * mean_x:
            self.sloped = True
            self.slope = max(0.0, (self._xy / self._weight - mean_x * mean_y) / spread)
        self.slope = min(self.slope, mean_y / mean_x)  # more tokens in one step never take longer than in two
        self.base = mean_y - self.slope * mean_x
