"""Scoring against models that answer by a script: what is counted, what is drawn, what is refused."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fathom import tasks
from fathom.errors import InputError
from fathom.think.evaluate import EvalConfig, ballot, draw, evaluate, problem_hash, run
from fathom.think.intervals import wilson
from fathom.think.modes import Mode
from fathom.think.passk import majority_at, pass_at
from tests.think.scripted import Scripted, prompts_are_problems, right


@pytest.fixture(autouse=True)
def _prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts_are_problems(monkeypatch)


def test_scores_count_right_answers_and_tokens() -> None:
    llm = Scripted(lambda problem, number: (problem.reply if number >= 3 else "nonsense", number))
    score = evaluate(llm, "chain", 2, config=EvalConfig(n=10, seed=5))
    assert (score.correct, score.n, score.accuracy) == (7, 10, 0.7)
    assert (score.low, score.high) == wilson(7, 10)
    assert score.right == (0, 0, 0, 1, 1, 1, 1, 1, 1, 1)
    assert score.used == tuple(range(10))
    assert (score.thinking_mean, score.answer_mean, score.tokens_mean) == (4.5, 4.0, 8.5)


def test_answers_that_ran_out_of_room_are_counted() -> None:
    llm = Scripted(lambda problem, number: (problem.reply, 90 if number < 2 else 5))
    assert evaluate(llm, "chain", 1, config=EvalConfig(n=6, max_tokens=64)).cut_off == 2


def test_a_file_of_problems_is_evaluated_like_a_family(tmp_path) -> None:
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps({"prompt": f"{i} + 1", "answer": str(i + 1), "checker": "number"}) for i in range(99)]
    path.write_text("\n".join(lines))
    config = EvalConfig(families=(str(path),), n=8)
    assert config.cells()[0][:3] == (str(path), 1, "en")
    llm = Scripted(lambda problem, number: (problem.reply if number < 5 else "0", 3))
    assert evaluate(llm, str(path), 1, config=config).correct == 5


def test_several_samples_are_scored_problem_by_problem() -> None:
    """Of each problem's four samples: one, two, three or all are right; the others agree on one wrong answer."""
    llm = Scripted(lambda problem, number: (problem.reply if number % 4 <= number // 4 else "13", 10))
    score = evaluate(llm, "chain", 1, config=EvalConfig(n=4, samples=4, temperature=1.0))
    assert score.right == (1, 2, 3, 4) and score.correct == 10 and score.accuracy == 10 / 16
    assert (score.low, score.high) == wilson(2.5, 4)
    assert list(score.pass_at) == [1, 2, 4]
    for i, k in enumerate(score.pass_at):
        assert score.pass_at[k] == pytest.approx(sum(pass_at(4, c, k) for c in (1, 2, 3, 4)) / 4)
        votes = [majority_at([c], [4 - c] if c < 4 else [], 0, [1, 2, 4])[i] for c in (1, 2, 3, 4)]
        assert score.majority_at[k] == pytest.approx(sum(votes) / 4)


def test_each_sample_has_noise_of_its_own_and_greedy_answers_are_asked_once() -> None:
    llm = Scripted(right)
    config = EvalConfig(families=("chain",), levels=(3,), n=5, samples=3, temperature=0.8)
    run(llm, config)
    assert len({params.seed for _, params in llm.asked}) == 15
    assert {params.temperature for _, params in llm.asked} == {0.8}
    again = Scripted(right)
    run(again, config)
    assert [p.seed for _, p in again.asked] == [p.seed for _, p in llm.asked]


def test_every_mode_and_language_is_asked_the_same_problems() -> None:
    config = EvalConfig(families=("sorting",), levels=(1, 2), modes=(Mode.effort("none"), Mode.forced(40)), n=6)
    scores = run(Scripted(right), config)
    assert [(s.level, s.effort) for s in scores] == [(1, "none"), (2, "none"), (1, "forced 40"), (2, "forced 40")]
    assert scores[0].problems == scores[2].problems != scores[1].problems
    assert scores[0].problems == problem_hash(draw(config, "sorting", 1))
    assert draw(replace(config, seed=1), "sorting", 1) != draw(config, "sorting", 1)
    english, chinese = run(
        Scripted(right), replace(config, languages=("en", "zh"), levels=(1,), modes=config.modes[:1])
    )
    assert (english.language, chinese.language) == ("en", "zh")
    assert english.problems == chinese.problems == scores[0].problems


def test_a_limit_reaches_the_engine_with_the_problem() -> None:
    llm = Scripted(right)
    evaluate(llm, "chain", 1, Mode.forced(40), EvalConfig(n=2))
    assert [params.thinking.budget_tokens for _, params in llm.asked] == [40, 40]
    assert [params.thinking.end_think_id for _, params in llm.asked] == [7, 7]


def test_records_hold_one_line_for_each_answer() -> None:
    records = []
    config = EvalConfig(families=("chain",), levels=(1,), n=3, samples=2, temperature=1.0)
    (score,) = run(Scripted(right), config, record=records.append)
    keys = [problem.key for problem in draw(config, "chain", 1)]
    assert [(r["key"], r["sample"], r["correct"]) for r in records] == [(k, s, True) for k in keys for s in (0, 1)]
    assert {(r["thinking_tokens"], r["answer_tokens"]) for r in records} == {(10, 4)}
    assert sum(r["correct"] for r in records) == score.correct


def test_all_levels_of_the_named_families_or_of_all() -> None:
    one = EvalConfig(families=("counting",)).cells()
    assert [level for _, level, _, _ in one] == list(tasks.FAMILIES["counting"].levels)
    every = EvalConfig(levels=(4,)).cells()
    assert [family for family, *_ in every] == [name for name, task in tasks.FAMILIES.items() if 4 in task.levels]


def test_what_an_answer_votes_for() -> None:
    def vote(text: str, reason: str = "stop") -> str | None:
        return ballot(SimpleNamespace(text=text, finish_reason=reason))

    assert vote(" The result  is 4.\n") == vote("The result is 4") == "the result is 4"
    assert vote("") is vote(" \n") is None
    assert vote("The result is", "length") is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"samples": 4}, "samples is 4 at temperature 0"),
        ({"families": ("poetry",)}, "family is 'poetry'"),
        ({"levels": (99,)}, "levels 99"),
        ({"languages": ("en", "fr")}, "language is 'fr'"),
        ({"modes": (Mode.forced(600),), "max_tokens": 620}, "Use max_tokens 633 or above"),
    ],
)
def test_bad_configs_are_refused(bad, said) -> None:
    with pytest.raises(InputError, match=said):
        EvalConfig(**bad)
