"""Early ends: a good thought is closed after a share of its lines, and what the model replies then joins its group.

Rejection sampling keeps the shortest good reply; sampling alone rarely finds one much shorter than the model's habit
(Kimi k1.5, arXiv:2501.12599, section 2.4, shortest rejection sampling). Where all replies after an early end are right,
the rest of the thought was not needed, and the student learns to leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from fathom.batching import SamplingParams
from fathom.batching.request import sibling_seed
from fathom.engine import Completion
from fathom.posttrain.filters import Candidate
from fathom.posttrain.traces import asked
from fathom.tasks.task import Problem
from fathom.tokenizer import Tokenizer, encode_chat

Candidates = tuple[Candidate, ...]


class Generates(Protocol):
    """What an LLM is asked here."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], /) -> list[Completion]: ...


def early_ends(
    llm: Generates, groups: Sequence[Candidates], shares: Sequence[float], tries: int, params: SamplingParams,
    seed: int, whole: Sequence[str] = (),
) -> list[Candidates]:  # fmt: skip
    """The groups, each with one candidate more for each share of its shortest right thought's lines.

    Args: shares: of the lines that are kept. tries: replies after each early end; all must be right for it to be sure.
          params: how they are sampled. seed: differs between calls. whole: families that are left as they are.
    """
    cuts = [(place, text) for place, group in enumerate(groups) for text in _cuts(group, shares, whole)]
    prompts, each = [], []
    for number, (place, text) in enumerate(cuts):
        opened = encode_chat(llm.tokenizer, asked(groups[place][0].problem), thinking=True)
        prompts += [[*opened, *_ended(text, llm.tokenizer)]] * tries
        seeds = [sibling_seed(seed, number * tries + index) for index in range(tries)]
        each += [msgspec.structs.replace(params, seed=one) for one in seeds]
    replies = llm.generate(prompts, each) if prompts else []
    found: dict[int, list[Candidate]] = {}
    for number, (place, text) in enumerate(cuts):
        some = replies[number * tries : (number + 1) * tries]
        made = [_candidate(groups[place][0].problem, text, reply, llm.tokenizer) for reply in some]
        found.setdefault(place, []).append(replace(made[0], sure=all(one.right for one in made)))
    return [(*group, *found.get(place, ())) for place, group in enumerate(groups)]


def _ended(text: str, tokenizer: Tokenizer) -> list[int]:
    """A thought and its end, as the tokens that follow a prompt."""
    assert tokenizer.end_think_id is not None, "a model that thinks ends its thoughts"
    return [*tokenizer.encode(text), tokenizer.end_think_id]


def _candidate(problem: Problem, text: str, reply: Completion, tokenizer: Tokenizer) -> Candidate:
    """What was replied after an early end, as if all of it had been sampled."""
    ids = reply.token_ids
    controls = sum(i in tokenizer.special.values() and i != tokenizer.eos_id for i in ids)
    return Candidate(
        problem=problem, thought=text, reply=reply.text, tokens=len(_ended(text, tokenizer)) + len(ids),
        finished=reply.finish_reason == "stop", markers=controls, early=True,
    )  # fmt: skip


def _cuts(group: Candidates, shares: Sequence[float], whole: Sequence[str]) -> list[str]:
    """The shortest right thought of a group, after each share of its lines; none that is whole or empty, none twice."""
    right = [one for one in group if one.finished and one.closings == 1 and not one.markers and one.right]
    if not right or right[0].problem.family in whole:
        return []
    lines = min(right, key=lambda one: one.tokens).thought.split("\n")
    counts = {round(share * len(lines)) for share in shares}
    return ["\n".join(lines[:count]) for count in sorted(counts) if 0 < count < len(lines)]
