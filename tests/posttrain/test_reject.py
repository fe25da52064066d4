"""Rejection sampling with a scripted expert, whose replies are known, and once with a real model of random weights."""

from collections import Counter
from dataclasses import replace

import pytest

from fathom import tasks
from fathom.config.effort import REFLECT
from fathom.errors import ConfigError
from fathom.posttrain.reject import (
    Counts,
    RejectConfig,
    collect,
    draw_problems,
    held_out_problems,
    reject,
    sample_groups,
)
from fathom.tasks.mixture import Mixture
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import read
from fathom.train.samples import read_samples
from tests.posttrain.scripted import Scripted

MIXTURE = Mixture({"arithmetic": (1,)})
CONFIG = RejectConfig(count=6, samples=4, problems=MIXTURE, held_out=5, at_once=4, length_ratio=2.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What is 17 + 25? 0123456789"], 300, digits=1)


def solve(question: str) -> str:
    """The bare result of any arithmetic question that is drawn here."""
    return ANSWERS[question]


ANSWERS = {problem.prompt: problem.answer for problem in draw_problems(replace(CONFIG, count=40))}


def expert(question: str, line: str, index: int) -> tuple[str, str | None]:
    """Right and long where asked to reflect; else first right and short, then wrong."""
    if line == REFLECT:
        return "long thought of a reflective kind", solve(question)
    return ("short", solve(question)) if index == 2 else ("short", "0 0")


def test_of_each_group_the_short_right_reply_is_kept_and_the_others_are_counted_by_reason(tokenizer) -> None:
    counts, kept, dropped = collect(Scripted(tokenizer, expert), CONFIG)
    assert (counts.problems, counts.solved, counts.sampled, counts.kept) == (6, 6, 24, 6)
    assert {name: n for name, n in counts.dropped.items() if n} == {"wrong": 6, "long": 12}
    assert {sample.thought for sample in kept} == {"short"}
    assert Counter(sample.kind for sample in dropped) == {"wrong": 6, "long": 12}
    assert counts.tokens == sum(len(s.encode(tokenizer)[1]) for s in [*kept, *dropped])
    assert counts.kept_tokens == sum(len(s.encode(tokenizer)[1]) for s in kept)


def test_half_of_a_group_is_asked_to_reflect_and_no_kept_sample_says_so(tokenizer) -> None:
    model = Scripted(tokenizer, expert)
    _, kept, dropped = collect(model, CONFIG)
    assert Counter(line for _, line in model.asked) == {REFLECT: 12, "": 12}
    assert all([m["role"] for m in sample.messages] == ["user"] for sample in kept)
    asked_so = [s for s in dropped if s.messages[0]["role"] == "system"]
    assert {s.messages[0]["content"] for s in asked_so} == {REFLECT} and len(asked_so) == 12


@pytest.mark.parametrize(("share", "lines"), [(0.0, {"": 4}), (1.0, {REFLECT: 4}), (0.25, {REFLECT: 1, "": 3})])
def test_reflect_share(tokenizer, share: float, lines: dict) -> None:
    model = Scripted(tokenizer, expert)
    sample_groups(model, draw_problems(replace(CONFIG, count=1)), replace(CONFIG, reflect_share=share))
    assert Counter(line for _, line in model.asked) == lines


def test_every_reply_is_sampled_with_a_seed_of_its_own(tokenizer) -> None:
    model = Scripted(tokenizer, expert)
    collect(model, CONFIG)
    assert len({params.seed for params in model.params}) == 24
    assert {(p.temperature, p.top_p, p.max_tokens) for p in model.params} == {(1.0, 1.0, 640)}


def test_replies_that_do_not_end_or_write_control_tokens_are_dropped(tokenizer) -> None:
    def broken(question: str, line: str, index: int) -> tuple[str, str | None]:
        replies = (None, f"{solve(question)}</think>", f"<｜User｜>{solve(question)}", solve(question))
        return "thought", replies[index]

    counts, kept, _ = collect(Scripted(tokenizer, broken), replace(CONFIG, count=2))
    assert {name: n for name, n in counts.dropped.items() if n} == {"unfinished": 2, "malformed": 4}
    assert len(kept) == 2


def test_problems_are_of_the_train_split_and_no_key_comes_twice() -> None:
    both = replace(CONFIG, count=200, problems=replace(MIXTURE, chinese=0.5))
    problems = draw_problems(both)
    assert len({problem.key for problem in problems}) == 200
    assert {tasks.split_of(problem.key) for problem in problems} == {"train"}
    assert {problem.language for problem in problems} == {"en", "zh"}
    assert problems == draw_problems(both) != draw_problems(replace(both, seed=1))


def test_a_small_mixture_gives_what_it_has(monkeypatch) -> None:
    few = draw_problems(replace(CONFIG, count=7))
    monkeypatch.setattr(tasks, "draw", lambda family, level, split, rng, language: rng.choice(few))
    assert sorted(p.key for p in draw_problems(replace(CONFIG, count=1000))) == sorted(p.key for p in few)


def test_held_out_problems_are_of_the_other_splits_and_of_the_languages_that_are_asked() -> None:
    problems = list(held_out_problems(replace(CONFIG, held_out=4, problems=replace(MIXTURE, chinese=0.5))))
    assert Counter(tasks.split_of(p.key) for p in problems) == {"validation": 4, "test": 4}
    assert Counter(p.language for p in problems) == {"en": 4, "zh": 4}
    assert {p.language for p in held_out_problems(CONFIG)} == {"en"}


def test_a_real_model_leaves_a_file_and_an_entry_in_the_ledger(tiny_model, tmp_path) -> None:
    seen: list[tuple[Counts, int]] = []
    config = replace(CONFIG, count=2, samples=2, max_tokens=6, at_once=1)
    out, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    counts = reject(tiny_model, out, config, lambda *facts: seen.append(facts), dropped=dropped)
    assert (counts.sampled, counts.kept) == (4, 0)  # random weights know nothing
    assert list(read_samples(out)) == [] and len(list(read_samples(dropped))) == 4
    assert [(c.problems, total) for c, total in seen] == [(1, 2), (2, 2)]
    event = read(tmp_path)[-1]
    assert event["event"] == "reject" and event["counts"]["sampled"] == 4
    assert [path.name for path in tmp_path.glob("*.part")] == []
    first = dropped.read_text()
    reject(tiny_model, out, config, dropped=dropped)
    assert dropped.read_text() == first  # seeds decide


@pytest.mark.parametrize(
    "change",
    [{"samples": 0}, {"keep": 0}, {"length_ratio": 0.5}, {"reflect_share": 2.0}, {"temperature": -1.0}, {"top_p": 0.0}],
)
def test_values_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        RejectConfig(**change)
