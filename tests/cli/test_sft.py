"""`fathom sft`: from a file of samples to a checkpoint; bad input exits with 2."""

import json

from fathom.cli import main
from fathom.train.samples import write_samples
from tests.posttrain.tiny import CONFIG, samples, write_model

SETTINGS = [
    f"--set=sft.{name}={getattr(CONFIG, name)}"
    for name in ("rows", "micro_rows", "row_tokens", "lr", "threads", "log_every")
]


def test_samples_become_a_checkpoint_and_a_second_call_finds_it_done(tmp_path, capsys) -> None:
    base = write_model(tmp_path / "base")
    write_samples(tmp_path / "data.jsonl", samples(6))
    command = ["sft", str(tmp_path / "data.jsonl"), "--model", str(base), "--out", str(tmp_path / "run"), *SETTINGS]
    assert main([*command, "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["model"] == str(tmp_path / "run" / "model")
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert f"step {facts['step']}/{facts['step']}" in said.err
    assert main(command) == 0
    assert "step" not in capsys.readouterr().out


def test_bad_input_exits_with_2(tmp_path, capsys) -> None:
    data = tmp_path / "data.jsonl"
    write_samples(data, samples(2))
    out = ["--out", str(tmp_path / "run")]
    assert main(["sft", str(data), *out, "--set", "sft.lrr=1"]) == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
    assert main(["sft", str(data), *out, "--set", "train.lr=1"]) == 2
    assert "sft.key=value" in capsys.readouterr().err
    data.write_text('{"messages": []}\n')
    assert main(["sft", str(data), *out]) == 2
    assert "line 1" in capsys.readouterr().err
    assert main(["sft", str(tmp_path / "absent.jsonl"), *out]) == 2
    assert "absent.jsonl" in capsys.readouterr().err
