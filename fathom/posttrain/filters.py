"""What rejection sampling rejects, by name: pure functions of one sampled reply and its group.

A group is all replies to one problem. The filters stand in the order they are asked; the first that objects names the
reason. A reply that passes all is right, finished, well formed, in one language, of one mind with its group and short.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fathom import tasks
from fathom.tasks.task import Problem

LOOP_TIMES, LOOP_LINES = 3, 12  # a block of up to so many lines, so many times in a row, is a loop
GRAM_WORDS = 13  # overlap of training text with a test, as counted by GPT-3 (arXiv:2005.14165, appendix C)

_CHINESE = re.compile(r"[\u3400-\u9fff\u3000-\u303f\uff00-\uffef]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
_PUNCTUATION = ",.;:?!，。；：？！、"


@dataclass(frozen=True)
class Candidate:
    """One sampled reply. tokens: all it generated. closings: ends of a thought in it; markers: other control tokens but
    the end of the reply. line: what the system message asked for, if anything."""

    problem: Problem
    thought: str
    reply: str
    tokens: int
    finished: bool
    closings: int = 1
    markers: int = 0
    line: str | None = None
    early: bool = False
    sure: bool = True

    @cached_property
    def right(self) -> bool:
        """Whether the reply, all of it, is a right answer."""
        return tasks.named(self.problem.family).check(self.problem, self.reply)


@dataclass(frozen=True)
class Group:
    """All replies to one problem, and what the filters need to know of them together."""

    candidates: tuple[Candidate, ...]
    length_ratio: float
    held_out: HeldOut

    @cached_property
    def votes(self) -> Counter[str]:
        """Replies that finished their own thought, by what they say; right ones count as one, however they put it."""
        return Counter(ballot(one) for one in self.candidates if one.finished and not one.early)

    @cached_property
    def shortest(self) -> int:
        """Tokens of the shortest reply that nothing but its length could speak against."""
        sound = [one.tokens for one in self.candidates if not any(FILTERS[name](one, self) for name in _BEFORE_LENGTH)]
        return min(sound, default=0)


@dataclass(frozen=True)
class HeldOut:
    """Prompts of the other splits: the whole of each, and its runs of GRAM_WORDS words.

    A run that several held-out problems share is wording, not a problem, and says nothing.
    """

    prompts: frozenset[str]
    grams: frozenset[str]

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> HeldOut:
        """From problems of the validation and the test split."""
        prompts: set[str] = set()
        owners: dict[str, set[str]] = {}
        for problem in problems:
            prompts.add(normal(problem.prompt))
            for gram in runs(problem.prompt):
                owners.setdefault(gram, set()).add(problem.key)
        return cls(frozenset(prompts), frozenset(gram for gram, keys in owners.items() if len(keys) == 1))

    def overlaps(self, prompt: str) -> bool:
        """Whether the prompt is a held-out one, or shares a run of words with just one of them."""
        return normal(prompt) in self.prompts or not self.grams.isdisjoint(runs(prompt))


def words_of(text: str) -> list[str]:
    """What stands between spaces, without case and the punctuation around it."""
    return [word for piece in text.lower().split() if (word := piece.strip(_PUNCTUATION))]


def normal(text: str) -> str:
    """A text as far as it matters: its words."""
    return " ".join(words_of(text))


def runs(text: str) -> set[str]:
    """Every run of GRAM_WORDS words."""
    words = words_of(text)
    return {" ".join(words[i : i + GRAM_WORDS]) for i in range(len(words) - GRAM_WORDS + 1)}


def ballot(one: Candidate) -> str:
    """What a reply votes for."""
    return "right" if one.right else "wrong: " + normal(one.reply)


def loops(thought: str) -> bool:
    """Whether a block of lines comes several times in a row."""
    lines = thought.split("\n")
    for size in range(1, LOOP_LINES + 1):
        same = 0
        for i in range(size, len(lines)):
            same = same + 1 if lines[i] == lines[i - size] else 0
            if same >= size * (LOOP_TIMES - 1):
                return True
    return False


def speaks(reply: str, problem: Problem) -> bool:
    """Whether a reply has no word of another language than its question's; words of the question are always right."""
    if problem.language == "en":
        return not _CHINESE.search(reply)
    return set(_LATIN_WORD.findall(reply)) <= set(_LATIN_WORD.findall(problem.prompt))


def _unfinished(one: Candidate, _: Group) -> bool:
    return not one.finished


def _malformed(one: Candidate, _: Group) -> bool:
    broken = "\ufffd" in one.thought + one.reply  # bytes that are no character
    return one.closings != 1 or one.markers > 0 or broken or not one.thought.strip() or not one.reply.strip()


def _repetitive(one: Candidate, _: Group) -> bool:
    return loops(one.thought)


def _wrong(one: Candidate, _: Group) -> bool:
    return not one.right


def _unsure(one: Candidate, _: Group) -> bool:
    return not one.sure


def _language(one: Candidate, _: Group) -> bool:
    # Marks in a thought (check, ok, big) are of no language; Chinese characters would be of one.
    return not speaks(one.reply, one.problem) or _CHINESE.search(one.thought) is not None


def _outvoted(one: Candidate, group: Group) -> bool:
    votes = group.votes
    return any(count > votes[ballot(one)] for count in votes.values())


def _held_out(one: Candidate, group: Group) -> bool:
    return tasks.split_of(one.problem.key) != "train" or group.held_out.overlaps(one.problem.prompt)


def _long(one: Candidate, group: Group) -> bool:
    return one.tokens > group.length_ratio * group.shortest


Filter = Callable[[Candidate, Group], bool]

#: name -> whether it objects, in the order they are asked
FILTERS: Mapping[str, Filter] = {
    "held out": _held_out,  # not a training problem, or its words are a test's
    "unfinished": _unfinished,  # ran into the limit
    "malformed": _malformed,  # not one closed thought and then a reply, nothing else
    "repetitive": _repetitive,  # lines in a loop
    "wrong": _wrong,  # the task's checker says no
    "unsure": _unsure,  # right after an early end, where another try was wrong
    "language": _language,  # words of another language than the question's
    "outvoted": _outvoted,  # a wrong answer was given more often in its group: right by luck
    "long": _long,  # more than length_ratio times the shortest that passed so far
}
_BEFORE_LENGTH = tuple(FILTERS)[:-1]

#: what `choose` adds: the same text again, and right ones beyond as many as are kept of a problem
DUPLICATE, SURPLUS = "duplicate", "surplus"


def choose(group: Group, keep: int) -> list[tuple[Candidate, str | None]]:
    """Each candidate with the name of the filter that dropped it, or None: the `keep` shortest that nothing speaks
    against, the earlier one of two equally long."""
    verdicts = [
        next((name for name, objects in FILTERS.items() if objects(one, group)), None) for one in group.candidates
    ]
    seen: set[tuple[str, str]] = set()
    kept = 0
    order: Sequence[int] = sorted(range(len(verdicts)), key=lambda i: group.candidates[i].tokens)
    for i in order:
        if verdicts[i] is not None:
            continue
        text = (group.candidates[i].thought, group.candidates[i].reply)
        verdicts[i] = DUPLICATE if text in seen else SURPLUS if kept == keep else None
        seen.add(text)
        kept += verdicts[i] is None
    return list(zip(group.candidates, verdicts, strict=True))
