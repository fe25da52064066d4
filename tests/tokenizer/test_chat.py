"""Golden conversations, and what no user can do to a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import ConfigError
from fathom.tokenizer import ENCODINGS, Tokenizer, encode_chat, render_chat
from fathom.tokenizer.encodings import SPECIAL_STRINGS

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "chat").glob("*.json"))
CASES = [(table["encoding"], case) for table in map(json.loads, map(Path.read_text, GOLDEN)) for case in table["cases"]]
ASKED = [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize(("encoding", "case"), CASES, ids=[f"{e}: {c['name']}" for e, c in CASES])
def test_golden(tokenizer: Tokenizer, encoding: str, case: dict[str, Any]) -> None:
    assert render_chat(tokenizer, case["messages"], template=encoding, **case["options"]) == case["expected"]


def test_every_encoding_has_golden_cases() -> None:
    assert {encoding for encoding, _ in CASES} == set(ENCODINGS)


@settings(max_examples=100)
@given(st.sampled_from(sorted(ENCODINGS)), st.lists(st.one_of(st.sampled_from(SPECIAL_STRINGS), st.text(max_size=3))))
def test_user_text_adds_no_control_token(tokenizer: Tokenizer, encoding: str, pieces: list[str]) -> None:
    def controls(text: str) -> list[int]:
        tool = {"type": "function", "function": {"name": text, "description": text, "parameters": {text: text}}}
        call = {"function": {"name": text, "arguments": text}}
        messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
        messages += [{"role": "assistant", "content": text, "tool_calls": [call]}, {"role": "tool", "content": text}]
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": text}]
        ids = encode_chat(tokenizer, messages, thinking=True, tools=[tool], template=encoding)
        return [i for i in ids if i in tokenizer.special.values()]

    assert controls("".join(pieces)) == controls("x")


def test_the_model_names_its_encoding(tokenizer: Tokenizer) -> None:
    for name in ENCODINGS:
        named = Tokenizer(tokenizer._definition, {"chat_encoding": name})
        expected = render_chat(tokenizer, ASKED, thinking=True, template=name)
        assert render_chat(named, ASKED, thinking=True) == expected
        by_template = {"chat_template": Tokenizer.train(["a"], 275, chat_encoding=name).settings["chat_template"]}
        if name != "deepseek-r1":  # ours has a direct mode too, which the published one lacks
            assert render_chat(Tokenizer(tokenizer._definition, by_template), ASKED, thinking=True) == expected


def test_published_templates_are_recognised(tokenizer: Tokenizer) -> None:
    template = "{{'<｜Assistant｜>' + content.split('</think>')[-1]}}{{'<｜Assistant｜><think>\\n'}}"
    r1 = Tokenizer(tokenizer._definition, {"chat_template": template})
    assert render_chat(r1, ASKED, thinking=True).endswith("<｜Assistant｜><think>\n")


@pytest.mark.parametrize(
    "settings", [{}, {"chat_encoding": "v9"}, {"chat_encoding": "jinja"}, {"chat_encoding": ["x"]}]
)
def test_an_unknown_encoding_is_refused(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"chat_encoding.*deepseek-v3\.1"):
        encode_chat(Tokenizer(tokenizer._definition, settings), ASKED, thinking=True)


def test_a_missing_control_token_is_named(tokenizer: Tokenizer) -> None:
    renamed = Tokenizer(
        tokenizer._definition.replace("<｜User｜>".encode(), "<｜Human｜>".encode()), tokenizer.settings
    )
    with pytest.raises(ConfigError, match="<｜User｜>"):
        encode_chat(renamed, ASKED, thinking=True)


def test_v3_says_that_it_does_not_think(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    from fathom.tokenizer import chat

    chat._say_once.cache_clear()
    for _ in range(2):
        encode_chat(tokenizer, ASKED, thinking=True, template="deepseek-v3")
    assert caplog.messages == ["thinking: ignored (deepseek-v3 has no thinking mode)"]
