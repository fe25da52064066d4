"""`fathom reject` with a model of random weights: files, counts, refusals."""

import json

from fathom.cli import main
from fathom.train.samples import read_samples

QUICK = ["--set", "reject.max_tokens=4", "--set", "reject.held_out=2"]
FEW = ["--family", "arithmetic", "--set", "reject.count=2", "--set", "reject.samples=2", *QUICK]


def test_json_has_the_counts_and_the_files_are_there(tiny_model, tmp_path, capsys) -> None:
    out, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    assert (
        main(["reject", "--model", str(tiny_model), "--out", str(out), "--dropped", str(dropped), *FEW, "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["sampled"], found["kept"]) == (2, 4, 0)
    assert sum(found["dropped"].values()) == 4
    assert list(read_samples(out)) == []
    assert {sample.family for sample in read_samples(dropped)} == {"arithmetic"}


def test_the_table_names_every_filter(tiny_model, tmp_path, capsys) -> None:
    assert main(["reject", "--model", str(tiny_model), "--out", str(tmp_path / "kept.jsonl"), *FEW]) == 0
    printed = capsys.readouterr().out
    assert "2/2 problems" in printed
    for name in ("unfinished", "malformed", "wrong", "outvoted", "long", "duplicate", "held out"):
        assert f"- {name}" in printed


def test_bad_options_exit_with_2(tiny_model, tmp_path, capsys) -> None:
    command = ["reject", "--model", str(tiny_model), "--out", str(tmp_path / "kept.jsonl")]
    assert main([*command, "--set", "reject.cout=1"]) == 2
    assert "count" in capsys.readouterr().err
    assert main([*command, "--set", "sft.epochs=1"]) == 2
    assert "reject.key" in capsys.readouterr().err
    (tmp_path / "own.jsonl").write_text('{"prompt": "a"}')
    assert main([*command, "--family", str(tmp_path / "own.jsonl")]) == 2
    assert "line 1: answer is missing" in capsys.readouterr().err
    assert main([*command, "--family", "poetry"]) == 2
    assert "arithmetic" in capsys.readouterr().err
