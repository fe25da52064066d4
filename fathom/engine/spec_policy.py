"""How many tokens to guess in the next step: as many as have paid of late, on this machine and at this batch.

With k guesses per sequence a step of n sequences is expected to bring n * (1 + a1 + a1 * a2 + ...) tokens, where a_j is
how often the j-th guess was right when those before it were; and to take the time of n * (1 + k) tokens in the model
and of n * k guesses in the drafter. Acceptances and both times are measured as steps go by.

What is not done is not measured: now and then a few steps try otherwise than what looks best.
"""

from __future__ import annotations

from collections.abc import Sequence

from fathom.batching.plan import Plan, Sampled
from fathom.errors import ConfigError

MAX_DRAFTS = 4  # fed with its own guesses a module goes astray, soon unless it was trained on them (loss.mtp_depth)
WORTH = 1.05  # predicted gain that guessing begins with: more than what the prediction is off by
HOPE, HOPED = 0.9, 3  # acceptance assumed before the first guess, and the guesses that this counts as
MEMORY = 64  # steps after which what one took has lost most of its weight
REMEMBERED = 32  # guesses after which it matters little whether one was right: another text may have begun
OUTLIER = 2.0  # a step that takes more than this multiple of its prediction was disturbed, and counts as this much
TRIALS, FIRST_TRIALS = 6, 2  # guesses judged in a try that makes some, unless their price alone says that none pays
PLAIN_STEPS = 4  # of a try that makes none
WARM_UP = 2  # steps of a new kind that say nothing of its price: caches and branch predictors know the old one
TRY_EVERY = 64  # steps between tries; doubled while they change nothing, up to
AT_MOST = {True: 128, False: 1024}  # where guesses pay (else what plain steps take is forgotten), and where none does
LOOK_EVERY = 8  # steps between looks at what plain ones take, where no guesses pay


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
        self._trials: dict[int, Trial] = {}  # by the batch's size, to a power of 2

    def choose(self, sequences: int) -> int:
        """Guesses per sequence for a step of so many sequences."""
        if self.fixed is not None:
            return self.fixed
        trial = self._trial(sequences)
        trial.steps += 1
        if trial.news:
            trial.best, trial.news = self._most_per_s(trial, sequences), False
        if trial.trying is False:
            return 0
        return min(trial.best + (trial.trying is True), MAX_DRAFTS)

    def observe(self, plan: Plan, sampled: Sequence[Sampled], step_s: float, draft_s: float) -> None:
        """Learn from a step: step_s is all it took, draft_s the part of it that was making guesses."""
        if self.fixed is not None or not plan.rows:
            return
        sequences, made = len(plan.rows), sum([row.propose for row in plan.rows])
        trial = self._trial(sequences)
        if not made and trial.rests and trial.steps % LOOK_EVERY:  # nothing pays: learning shall not cost either
            return
        judged = 0
        for row, answer in zip(plan.sampling_rows, sampled, strict=True):
            if row.drafts:
                judged += 1
                self._judge(row.drafts, len(answer.token_ids) - 1)
        if any([len(row.token_ids) > 1 + row.drafts for row in plan.rows]):
            return  # chunks of prompts cost something else
        if not trial.is_warm(guessed=made > 0):
            return
        trial.news = True
        trial.model_s.add(plan.num_tokens, step_s - draft_s)
        if made:
            trial.draft_s.add(made, draft_s)
        trial.go_on(sequences, judged, guessed=made > 0)
        if trial.begins:  # what was true long ago counts less than what is seen now
            self._judged = [min(count, TRIALS) for count in self._judged]
            if not trial.best:  # the first guess alone may not pay: it is what says whether more may be hoped for
                self.acceptance[1:] = [max(HOPE, share) for share in self.acceptance[1:]]
                self._judged[1:] = [0] * (MAX_DRAFTS - 1)

    def _trial(self, sequences: int) -> Trial:
        size = sequences.bit_length()
        if size not in self._trials:
            trial = self._trials[size] = Trial()
            if any(smaller < size and known.gave_up for smaller, known in self._trials.items()):
                trial.trying = None  # not at once: it rarely pays here if it did not there
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
        return best if best_rate >= (1.0 if trial.best else WORTH) * plain else 0

    def _judge(self, drafts: int, accepted: int) -> None:
        for depth in range(min(drafts, accepted + 1)):
            self._judged[depth] += 1
            gain = max(1.0 / REMEMBERED, 1.0 / (HOPED + self._judged[depth]))
            self.acceptance[depth] += gain * ((depth < accepted) - self.acceptance[depth])


class Trial:
    """What steps of like batches took, and when to find out what other steps would take.

    Fields: model_s: time of the tokens in a step. draft_s: time of the guesses made in one. news: whether they have
            learned since `best` was found, the guesses that pay most. steps: how many there were. trying: True in a try
            with (more) guesses, False in one with none, None in neither. A try waits for texts that MTP has read.
    """

    def __init__(self) -> None:
        self.model_s, self.draft_s = Line(), Line()
        self.steps = self.best = 0
        self.news = False
        self.trying: bool | None = True
        self._left = FIRST_TRIALS
        self._paid = False  # whether guesses looked worth it before the try
        self._longer = False  # whether the next try, where guesses pay, is of one more; else of none
        self._kind, self._alike = False, 0  # of the latest steps: whether they guessed, and how many did so in a row
        self._seen = {True: 0, False: 0}  # the latest step with guesses, and without
        self._every = TRY_EVERY

    @property
    def begins(self) -> bool:
        """Whether a try with guesses is to come next."""
        return self.trying is True and self._seen == {True: self.steps, False: self.steps}

    @property
    def rests(self) -> bool:
        """Whether no guess pays, and no try with none is under way."""
        return not self.best and self.trying is not False

    @property
    def gave_up(self) -> bool:
        """Whether guesses were measured and do not pay."""
        return self.trying is None and not self.best and self.model_s.sloped

    def seconds(self, sequences: int, drafts: int) -> float:
        """Predicted time of a step [s]; above 0."""
        model_s = self.model_s.at(sequences * (1 + drafts))
        return max(1e-9, model_s + self.draft_s.at(sequences * drafts) if drafts else model_s)

    def is_warm(self, *, guessed: bool) -> bool:
        """Whether a step comes late enough after those of the other kind to tell what its own takes."""
        self._alike = self._alike + 1 if guessed == self._kind else 1
        self._kind = guessed
        return self._alike > WARM_UP

    def hopeless(self, sequences: int) -> bool:
        """Whether not even guesses that are always right would pay."""
        plain = self.seconds(sequences, 0)
        return all((1 + drafts) * plain <= self.seconds(sequences, drafts) for drafts in range(1, MAX_DRAFTS + 1))

    def go_on(self, sequences: int, judged: int, *, guessed: bool) -> None:
        """End the try under way when it has shown enough, or begin one when a kind of step was not seen for long."""
        self._seen[guessed] = self.steps
        if self.trying is None:
            if self.steps - self._seen[not guessed] >= self._every:
                self._paid, self._longer = self.best > 0, not self._longer
                self._begin(not guessed or (self._longer and self.best < MAX_DRAFTS))
        elif guessed == self.trying:
            self._left -= judged if guessed else 1
            sloped = self.model_s.sloped
            if self._left > 0 and not (judged and sloped and self.hopeless(sequences)):
                return
            if not sloped:  # the first try: now the other kind, or nothing can be compared
                return self._begin(not guessed)
            pays = self.best > 0
            self._every = min(2 * self._every, AT_MOST[pays]) if pays == self._paid else TRY_EVERY
            self.trying = None

    def _begin(self, guesses: bool) -> None:
        self.trying, self._left = guesses, TRIALS if guesses else PLAIN_STEPS
        self._seen = {True: self.steps, False: self.steps}


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
