"""What a step reads: a pure function of (seed, step, row), all of the train split, loss on the last answer only."""

from random import Random

import pytest
import torch

from fathom import tasks
from fathom.errors import ConfigError, InputError
from fathom.train.data import DataConfig, Stage, TaskData, draw_text, train_tokenizer

CONFIG = DataConfig(row_tokens=96, vocab_size=400, tokenizer_documents=300)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CONFIG, seed=1)


def test_a_step_is_a_pure_function_of_its_number(tokenizer) -> None:
    a, b = TaskData(CONFIG, tokenizer, 7), TaskData(CONFIG, tokenizer, 7)
    a.batch(0, 4)
    first, again = a.batch(3, 4), b.batch(3, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert first.lengths == again.lengths
    assert not torch.equal(first.tokens, a.batch(4, 4).tokens)
    assert not torch.equal(first.tokens, TaskData(CONFIG, tokenizer, 8).batch(3, 4).tokens)


def test_rows_do_not_depend_on_how_they_are_split(tokenizer) -> None:
    data = TaskData(CONFIG, tokenizer, 7)
    whole = data.batch(5, 4)
    halves = data.batch(5, 2), data.batch(5, 2, first_row=2)
    assert torch.equal(whole.tokens, torch.cat([half.tokens for half in halves]))
    assert torch.equal(whole.counted, torch.cat([half.counted for half in halves]))


def test_rows_are_full_and_documents_begin_with_bos(tokenizer) -> None:
    packed = TaskData(CONFIG, tokenizer, 7).batch(0, 8)
    assert len(packed.tokens) == sum(packed.lengths) == 8 * 96
    starts = torch.tensor([0, *packed.lengths[:-1]]).cumsum(0)
    assert (packed.tokens[starts] == tokenizer.bos_id).all()
    assert set(range(0, 8 * 96, 96)) <= set(starts.tolist())


def test_only_what_the_assistant_says_last_is_counted(tokenizer) -> None:
    data = TaskData(CONFIG, tokenizer, 7)
    user, assistant = tokenizer.special["<｜User｜>"], tokenizer.special["<｜Assistant｜>"]
    for i in range(40):
        prompt, answer = data.document(Random(i), CONFIG.stage(0))
        assert prompt.count(user) == prompt.count(assistant) >= 1
        assert prompt[-1] in (tokenizer.think_id, tokenizer.end_think_id)
        assert answer[-1] == tokenizer.eos_id
        assert (tokenizer.end_think_id in answer) == (prompt[-1] == tokenizer.think_id)


def test_documents_come_from_the_train_split(monkeypatch) -> None:
    seen = []
    real = tasks.draw
    monkeypatch.setattr(tasks, "draw", lambda *args: seen.append(args[2]) or real(*args))
    for i in range(50):
        draw_text(Random(i), Stage())
    assert set(seen) == {"train"}


def test_small_talk_thinks_too_and_questions_come_in_two_languages() -> None:
    talk = [draw_text(Random(i), Stage(mixture={})) for i in range(40)]
    assert all(thought.isalpha() for _, thought, _ in talk)
    asked = [draw_text(Random(i), Stage(mixture={"chain": 1.0}, chinese_share=0.5)) for i in range(200)]
    chinese = [reply.startswith("结果") for _, _, reply in asked]
    assert 70 < sum(chinese) < 130
    assert all(question.isascii() != known for (question, _, _), known in zip(asked, chinese, strict=True))


def test_a_stage_decides_what_its_steps_read(monkeypatch, tokenizer) -> None:
    drawn = []
    real = tasks.draw
    monkeypatch.setattr(tasks, "draw", lambda *args: drawn.append(args[:2]) or real(*args))
    later = Stage(from_step=5, history_share=0.0, mixture={"sorting": 1.0}, max_level={"sorting": 2})
    data = TaskData(DataConfig(row_tokens=96, stages=(Stage(), later)), tokenizer, seed=1)
    data.batch(4, 8)
    assert {family for family, _ in drawn} > {"sorting"}
    drawn.clear()
    data.batch(5, 8)
    assert set(drawn) == {("sorting", 1), ("sorting", 2)}


def test_bad_mixtures_and_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="poetry"):
        Stage(mixture={"poetry": 0.5})
    with pytest.raises(ConfigError, match="at most 1"):
        Stage(mixture={"chain": 0.7, "sorting": 0.5})
    with pytest.raises(InputError, match="level is 9"):
        Stage(max_level={"chain": 9})
    with pytest.raises(ConfigError, match="must begin at 0"):
        DataConfig(stages=(Stage(from_step=3),))
    with pytest.raises(ConfigError, match="later than the last"):
        DataConfig(stages=(Stage(), Stage(from_step=9), Stage(from_step=9)))
