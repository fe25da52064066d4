"""`fathom replay`: 0 and "the same to the bit", or 1 and the first step that differs."""

import json

import pytest

from fathom.batching import Request, SamplingParams
from fathom.cli import main
from fathom.engine import Engine, EngineConfig, load_model


@pytest.fixture
def log(tiny_model, tmp_path):
    path = tmp_path / "log"
    engine = Engine(load_model(tiny_model, 8), config=EngineConfig(num_pages=16, record=str(path)))
    engine.add(Request("a", (1, 2, 3), SamplingParams(max_tokens=8, seed=3, ignore_eos=True)))
    while engine.has_work:
        engine.step()
    return path


def test_a_log_lives_again(log, tiny_model, capsys):
    words = ["replay", str(log), "--model", str(tiny_model), "--bits", "8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] and found["same_model"] and found["steps"] == 8
    assert {"error", "predicted", "difference", "header", "recorded_s", "replayed_s"} <= found.keys()
    assert main(words) == 0
    assert "the same to the bit" in capsys.readouterr().out


def test_another_arithmetic_is_named(log, tiny_model, capsys):
    words = ["replay", str(log), "--model", str(tiny_model), "--bits", "32"]
    code = main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not found["same_model"] and code == (0 if found["same"] else 1)
    main(words)
    kind = json.loads(log.read_text().splitlines()[0])["kind"]  # i8, or f32 where plain torch unpacks it
    assert f"not those of the log ({kind}, " in capsys.readouterr().out


def test_a_changed_token_is_found(log, tiny_model, capsys):
    lines = log.read_text().splitlines(keepends=True)
    record = json.loads(lines[4])
    record["sampled"][0]["token_ids"][0] ^= 1
    log.write_text("".join([*lines[:4], json.dumps(record) + "\n", *lines[5:]]))
    assert main(["replay", str(log), "--model", str(tiny_model), "--bits", "8"]) == 1
    assert "step 4 differs first, for request a" in capsys.readouterr().out


def test_no_log_exits_with_2(tmp_path, tiny_model, capsys):
    assert main(["replay", str(tmp_path / "none"), "--model", str(tiny_model)]) == 2
    assert "cannot be read" in capsys.readouterr().err
