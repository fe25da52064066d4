"""`fathom generate` prints the promised keys, the same for the same seed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from fathom.cli import main
from tests.engine.checkpoint import save_tiny

KINDS = ("accepted", "rejected")
KEYS = ["token_ids", "text", "reasoning", "finish_reason", "usage", "timings"]


def generate(capsys: pytest.CaptureFixture[str], model: Path, *options: str) -> dict[str, Any]:
    assert main(["generate", "--model", str(model), *options, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_promised_keys(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = generate(capsys, tiny_model, "--prompt", "two", "--max-tokens", "6", "--temperature", "0")
    assert list(result) == KEYS
    assert len(result["token_ids"]) == result["usage"]["completion_tokens"] <= 6
    assert result["usage"]["total_tokens"] == result["usage"]["prompt_tokens"] + result["usage"]["completion_tokens"]
    assert 0 < result["timings"]["first_token_s"] <= result["timings"]["total_s"]


def test_token_ids_are_continued_as_they_are(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fathom.batching.request import SamplingParams
    from fathom.engine import LLM

    result = generate(capsys, tiny_model, "--token-ids", "9, 8,7", "--max-tokens", "8", "--temperature", "0")
    expected = LLM(tiny_model).generate([[9, 8, 7]], SamplingParams(max_tokens=8, temperature=0.0))[0]
    assert result["token_ids"] == list(expected.token_ids) and result["usage"]["prompt_tokens"] == 3


def test_a_text_is_a_chat_turn_unless_raw(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fathom.tokenizer import Tokenizer, encode_chat

    tokenizer = Tokenizer.load(tiny_model)
    options = ("--max-tokens", "4", "--seed", "1")
    chat = generate(capsys, tiny_model, "--prompt", "two plus", *options)
    user = [{"role": "user", "content": "two plus"}]
    assert chat["usage"]["prompt_tokens"] == len(encode_chat(tokenizer, user, thinking=True))
    assert chat["usage"]["reasoning_tokens"] > 0 and chat["reasoning"]
    direct = generate(capsys, tiny_model, "--prompt", "two plus", "--effort", "none", *options)
    assert direct["usage"]["reasoning_tokens"] == 0 and direct["text"]
    monkeypatch.setattr("sys.stdin", io.StringIO("two plus"))
    raw = generate(capsys, tiny_model, "--prompt", "-", "--raw", *options)
    assert raw["usage"]["prompt_tokens"] == 1 + len(tokenizer.encode("two plus"))


def test_a_seed_decides(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--token-ids", "9,8", "--max-tokens", "12", "--temperature", "1")
    first, same, other = (generate(capsys, tiny_model, *options, "--seed", seed)["token_ids"] for seed in "445")
    assert first == same != other


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--token-ids", "1,x"], "must be integers with commas"),
        (["--token-ids", "999999"], "token id 999999"),
        (["--token-ids", "1", "--max-tokens", "0"], "max_tokens is 0"),
        (["--token-ids", "1", "--temperature", "-1"], "temperature is -1"),
        ([], "--help"),
    ],
)
def test_bad_input_is_2_and_one_line(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], options: list[str], hint: str
) -> None:
    assert main(["generate", "--model", str(tiny_model), *options, "--json"]) == 2
    printed = capsys.readouterr()
    assert hint in json.loads(printed.out)["error"]["message"]
    assert "Traceback" not in printed.err


def test_for_people_thinking_comes_first(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tiny_model), "--prompt", "two", "--max-tokens", "5", "--seed", "1"]
    result = generate(capsys, tiny_model, *options[2:])
    assert main(["generate", *options]) == 0
    assert capsys.readouterr().out == f"{result['reasoning']}\n\n{result['text']}\n"


def test_guesses_ahead_change_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path)
    options = ("--token-ids", "9,8", "--max-tokens", "12", "--temperature", "1", "--seed", "3", "--spec")
    plain, guessed = (generate(capsys, tmp_path, *options, spec) for spec in ("off", "2"))
    assert plain["token_ids"] == guessed["token_ids"]
    right, wrong = ([reply["usage"][f"{kind}_prediction_tokens"] for reply in (plain, guessed)] for kind in KINDS)
    assert (right[0], wrong[0]) == (0, 0) and right[1] + wrong[1] > 0
    assert main(["generate", "--model", str(tmp_path), "--token-ids", "9", "--spec", "9"]) == 2
    assert "auto, off, or a number of tokens from 1 to 4" in capsys.readouterr().err


def test_a_budget_ends_the_thought(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--prompt", "two", "--seed", "1", "--temperature", "2")
    for wanted, most in ((("--budget", "5"), 5), (("--effort", "low"), 64), (("--effort", "low", "--budget", "9"), 9)):
        usage = generate(capsys, tiny_model, *options, *wanted)["usage"]
        assert usage["reasoning_tokens"] <= most
    assert generate(capsys, tiny_model, *options, "--budget", "0", "--max-tokens", "9")["reasoning"] == ""


def test_samples_vote(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--prompt", "two", "--seed", "1", "--budget", "4", "--max-tokens", "20", "--samples", "3")
    result = generate(capsys, tiny_model, *options)
    assert result["samples"] == 3 and sum(result["votes"].values()) <= 3
    assert len(result["token_ids"]) <= 20 < result["usage"]["completion_tokens"] <= 60
    assert result["usage"]["reasoning_tokens"] <= 12
    again = generate(capsys, tiny_model, *options)
    assert {key: again[key] for key in KEYS[:4]} == {key: result[key] for key in KEYS[:4]}
    for bad in ((*options[:-1], "0"), (*options, "--temperature", "0")):
        assert main(["generate", "--model", str(tiny_model), *bad]) == 2
    assert "all samples would be the same" in capsys.readouterr().err
