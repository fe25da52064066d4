"""Small talk: short, honest, the same for equal seeds, in two languages."""

from __future__ import annotations

from random import Random

import pytest

from fathom.errors import InputError
from fathom.tasks import FAMILIES, LANGUAGES, smalltalk

#: What a family is called in small talk, where it is not its name.
CALLED = {
    "chain": "chains",
    "bases": "number bases",
    "grid": "grids",
    "pathstar": "path tracing",
    "countdown": "Countdown",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_equal_seeds_talk_alike(language):
    one, two = ([smalltalk.sample(Random(s), language) for s in range(20)] for _ in range(2))
    assert one == two


def test_a_dozen_topics_with_several_phrasings():
    assert len(smalltalk.TOPICS) >= 12
    assert all(min(len(topic.prompts), len(topic.prompts_zh)) >= 2 for topic in smalltalk.TOPICS)
    prompts = [prompt for topic in smalltalk.TOPICS for prompt in topic.prompts + topic.prompts_zh]
    assert len(prompts) == len(set(prompts))


def test_thoughts_are_one_word_and_replies_short():
    assert all(topic.thought.isalpha() and topic.thought.isascii() for topic in smalltalk.TOPICS)
    assert all(len(topic.reply) <= 170 and len(topic.reply_zh) <= 80 for topic in smalltalk.TOPICS)


def test_the_model_says_what_it_is_and_that_it_errs():
    replies = {prompt: topic.reply for topic in smalltalk.TOPICS for prompt in topic.prompts}
    replies |= {prompt: topic.reply_zh for topic in smalltalk.TOPICS for prompt in topic.prompts_zh}
    assert "fathom-nano" in replies["Who are you?"] and "fathom-nano" in replies["你是谁？"]
    assert "can be wrong" in replies["What can you do?"] and "可能会错" in replies["你能做什么？"]
    for prompt in ("What can you do?", "Tell me a joke."):
        assert all(CALLED.get(name, name) in replies[prompt] for name in FAMILIES)


def test_a_question_is_answered_in_its_language():
    rng = Random(1)
    for _ in range(100):
        prompt, thought, reply = smalltalk.sample(rng, "en")
        assert (prompt + thought + reply).isascii()
        prompt, thought, reply = smalltalk.sample(rng, "zh")
        assert thought.isascii() and not prompt.isascii() and not reply.isascii()


def test_another_language_is_refused():
    with pytest.raises(InputError, match="language is 'fr'"):
        smalltalk.sample(Random(0), "fr")
