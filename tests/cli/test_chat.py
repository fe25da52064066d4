"""`fathom chat`: one question, or a conversation that remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fathom.cli import chat, main
from fathom.cli.local import Local

OPTIONS = ["--max-tokens", "6", "--temperature", "0"]


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    """A person at the keyboard, who leaves with Ctrl-D."""
    waiting: Iterator[Any] = iter([*lines, EOFError])

    def answer(_: str) -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)


def test_one_question_piped_prints_the_answer_alone(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["chat", "two", "--model", str(tiny_model), "--no-thinking", *OPTIONS]
    assert main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(options) == 0
    assert capsys.readouterr().out == result["text"] + "\n"


def test_thinking_is_dimmed_on_a_terminal(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["chat", "two", "--model", str(tiny_model), *OPTIONS]) == 0
    out = capsys.readouterr().out
    assert out.startswith(chat.DIM) and chat.PLAIN in out and "thinking +" in out and "first after" in out


def test_a_conversation_remembers_and_forgets(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    original = Local.chat_prompt

    def spy(self: Local, messages: Any) -> list[int]:
        if messages[-1]["content"]:
            seen.append([message["content"] for message in messages if message["role"] != "assistant"])
        return original(self, messages)

    monkeypatch.setattr(Local, "chat_prompt", spy)
    typed(monkeypatch, "one", "", "two", "/new", "three", "/think", "/nonsense")
    assert main(["chat", "--model", str(tiny_model), "--system", "be kind", *OPTIONS]) == 0
    assert seen == [["be kind", "one"], ["be kind", "one", "two"], ["be kind", "three"]]
    out = capsys.readouterr().out
    assert "thinking is off" in out and "/exit" in out


def test_ctrl_c_stops_an_answer_and_at_the_prompt_leaves(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(chat.Chat, "answer", interrupted)
    typed(monkeypatch, "one", KeyboardInterrupt)
    assert main(["chat", "--model", str(tiny_model)]) == 0
    assert "stopped" in capsys.readouterr().out


def test_a_question_too_long_does_not_end_the_conversation(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "word " * 400, "/exit")
    assert main(["chat", "--model", str(tiny_model)]) == 0
    assert "the context holds 256" in capsys.readouterr().out


def test_json_needs_a_question(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--json", "--model", str(tiny_model)]) == 2
    assert "needs a question" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_samples_vote_and_say_how(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["chat", "two", "--model", str(tiny_model), "--samples", "3", "--max-tokens", "12", "--seed", "1"]
    assert main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(options) == 0
    assert capsys.readouterr().out == result["text"] + "\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(options) == 0
    assert " of 3 agree, 0 given up · " in capsys.readouterr().out
