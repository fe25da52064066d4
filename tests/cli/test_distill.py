"""`fathom distill`: from samples and a teacher to a student; the teacher is asked once."""

import json

from fathom.cli import main
from fathom.train.samples import write_samples
from tests.posttrain.tiny import CONFIG, samples, write_model

SETTINGS = [
    f"--set=distill.{name}={getattr(CONFIG, name)}"
    for name in ("rows", "micro_rows", "row_tokens", "lr", "threads", "log_every")
]


def test_samples_and_a_teacher_become_a_student(tmp_path, capsys) -> None:
    teacher, student = write_model(tmp_path / "teacher"), write_model(tmp_path / "student", seed=2)
    write_samples(tmp_path / "data.jsonl", samples(6))
    command = ["distill", str(tmp_path / "data.jsonl"), "--teacher", str(teacher), "--model", str(student)]
    command += ["--out", str(tmp_path / "run"), "--set", "store.top_k=3", *SETTINGS]
    assert main([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == str(tmp_path / "run" / "model")
    assert "teacher: position" in said.err
    assert json.loads((tmp_path / "run" / "teacher" / "store.json").read_text())["config"]["top_k"] == 3
    assert main(command) == 0
    assert "teacher: position" not in capsys.readouterr().err


def test_bad_input_exits_with_2(tmp_path, capsys) -> None:
    write_samples(tmp_path / "data.jsonl", samples(2))
    command = ["distill", str(tmp_path / "data.jsonl"), "--teacher", "nano", "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "distill.divergence=sideways"]) == 2
    assert "'forward', 'reverse'" in capsys.readouterr().err
    assert main([*command, "--set", "store.topk=3"]) == 2
    assert "did you mean 'top_k'" in capsys.readouterr().err
