"""What the cold start is made of: shares, kinds, budgets in the tokenizer's tokens, and nothing from another split."""

from collections import Counter
from dataclasses import replace

import pytest

from fathom import tasks
from fathom.config.effort import REFLECT
from fathom.errors import ConfigError, InputError
from fathom.posttrain.traces import SMALL_TALK, TraceConfig, build, shares_of, tokens_of
from fathom.tasks.mixture import Mixture
from fathom.tokenizer import Tokenizer
from fathom.train.samples import Sample, read_samples, write_samples

CONFIG = TraceConfig(
    samples=300, problems=Mixture({"arithmetic": (1, 2), "chain": (1,), "sorting": (1, 2)}, chinese=0.3)
)
CONTROLLED = {"reflective", "budget"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["What is 17 + 25? Start with 7. Add 5, sort the numbers check ok again 从 开始 排序"] * 2
    return Tokenizer.train(texts, 310, digits=1)


@pytest.fixture(scope="module")
def samples(tokenizer) -> list[Sample]:
    return build(CONFIG, tokenizer)


def test_each_kind_has_exactly_its_share_and_small_talk_the_rest(samples) -> None:
    assert Counter(sample.kind for sample in samples) == {
        "direct": 36, "concise": 108, "reflective": 60, "budget": 84, SMALL_TALK: 12,
    }  # fmt: skip
    assert shares_of(samples)["direct"] == pytest.approx(0.12)
    assert [sample.kind for sample in samples[:36]] != ["direct"] * 36, "kinds are mixed"


def test_shares_that_fill_the_whole_leave_no_small_talk(tokenizer) -> None:
    third = TraceConfig(samples=100, shares={"direct": 1 / 3, "concise": 2 / 3}, problems=CONFIG.problems)
    assert Counter(sample.kind for sample in build(third, tokenizer)) == {"direct": 33, "concise": 67}


def test_only_reflection_and_budgets_are_asked_for(samples) -> None:
    for sample in samples:
        lines = [message["content"] for message in sample.messages if message["role"] == "system"]
        assert len(lines) == (sample.kind in CONTROLLED)
        if sample.kind == "reflective":
            assert lines == [REFLECT]
        if sample.kind == "budget":
            word, number = lines[0].split(" ")
            assert word == "budget" and int(number) in CONFIG.budgets
        assert sample.messages[-1]["role"] == "user"


def test_no_budget_is_exceeded_by_a_token_and_most_are_nearly_used(samples, tokenizer) -> None:
    used = []
    for sample in samples:
        if sample.kind == "budget":
            asked = int(sample.messages[0]["content"].split(" ")[1])
            thought = len(tokenizer.encode(sample.thought))
            assert thought <= asked
            prompt, answer = sample.encode(tokenizer)
            assert answer[thought] == tokenizer.end_think_id, "so many tokens, then the thought ends"
            used.append(thought / asked)
    assert sum(used) / len(used) > 0.8


def test_kinds_differ_in_the_thought_as_they_should(tokenizer) -> None:
    def of(kind: str, **change) -> list[Sample]:
        return build(replace(CONFIG, samples=60, shares={kind: 1.0}, **change), tokenizer)

    assert {sample.thought for sample in of("direct")} == {None}
    for sample in of("concise"):
        assert "check" not in sample.thought.split("\n")
    plain, slipping = of("reflective", slip_share=0.0), of("reflective", slip_share=1.0)
    assert all(s.thought.split("\n").count("check") == 1 and "again" not in s.thought for s in plain)
    assert any(s.thought.split("\n").count("check") == 2 for s in slipping)
    for sample in slipping:
        lines = sample.thought.split("\n")
        assert lines[-1] == "ok"
        assert lines.count("again") == lines.count("no") == lines.count("check") - 1


def test_every_problem_is_of_the_train_split_and_every_reply_is_right(samples) -> None:
    for sample in samples:
        if sample.kind != SMALL_TALK:
            assert tasks.split_of(sample.key) == "train"
            problem = tasks.Problem(sample.family, sample.level, sample.key, "", "", "", "")
            assert tasks.FAMILIES[sample.family].check(problem, sample.reply)
            assert sample.level in CONFIG.problems.levels_of(sample.family)


def test_both_languages_come_and_english_replies_are_english(samples) -> None:
    chinese = [not sample.messages[-1]["content"].isascii() for sample in samples if sample.kind != SMALL_TALK]
    assert 0.2 < sum(chinese) / len(chinese) < 0.4


def test_no_sample_is_longer_than_asked(tokenizer) -> None:
    short = replace(CONFIG, samples=60, longest=90)
    assert max(tokens_of(sample, tokenizer) for sample in build(short, tokenizer)) <= 90
    with pytest.raises(InputError, match="longest"):
        build(replace(CONFIG, samples=1, longest=3), tokenizer)


def test_the_seed_alone_decides(samples, tokenizer, tmp_path) -> None:
    seen = []
    again = build(CONFIG, tokenizer, lambda *facts: seen.append(facts))
    assert again == samples and seen == [(100, 300), (200, 300), (300, 300)]
    assert build(replace(CONFIG, samples=20, seed=1), tokenizer) != build(replace(CONFIG, samples=20), tokenizer)
    write_samples(tmp_path / "traces.jsonl", samples)
    assert list(read_samples(tmp_path / "traces.jsonl")) == samples


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shares": {"verbose": 0.5}}, "verbose"),
        ({"shares": {"direct": 0.7, "concise": 0.4}}, "sum"),
        ({"shares": {"direct": -0.1}}, "below 0"),
        ({"budgets": ()}, "budgets"),
        ({"budgets": (32, 0)}, "budgets"),
        ({"samples": 0}, "samples"),
        ({"slip_share": 1.5}, "slip_share"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        TraceConfig(**change)


def test_a_problem_without_a_trace_is_answered_directly(tokenizer, tmp_path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(f'{{"prompt": "{i} + 1", "answer": "{i + 1}"}}' for i in range(30)))
    made = build(TraceConfig(samples=20, problems=Mixture({str(path): (1,)}), shares={"concise": 1.0}), tokenizer)
    assert {(sample.kind, sample.thought, sample.family) for sample in made} == {("direct", None, str(path))}
