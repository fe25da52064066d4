"""`fathom reject` with a model of random weights: files, counts, refusals."""

import json

from fathom.cli import main
from fathom.train.samples import read_samples

FEW = ["--family", "arithmetic", "--set", "count=2", "--set", "samples=2", "--set", "max_tokens=4", "--set", "held_out=2"]


def test_json_has_the_counts_and_the_files_are_there(tiny_model, tmp_path, capsys) -> None:
    out, dropped = tmp_path / "kept.jsonl", tmp_path / "dropped.jsonl"
    assert main(["reject", "--model", str(tiny_model), "--out", str(out), "--dropped", str(dropped), *FEW, "--json"]) == 0
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


def test_a_file_of_options_is_read_and_bad_ones_exit_with_2(tiny_model, tmp_path, capsys) -> None:
    config = tmp_path / "reject.toml"
    config.write_text('count = 1\nsamples = 1\nmax_tokens = 2\nheld_out = 0\n[problems.levels]\nchain = [1]\n')
    command = ["reject", "--model", str(tiny_model), "--out", str(tmp_path / "kept.jsonl")]
    assert main([*command, "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampled"] == 1
    assert main([*command, "--set", "cout=1"]) == 2
    assert "count" in capsys.readouterr().err
    assert main([*command, "--family", "poetry"]) == 2
    assert "arithmetic" in capsys.readouterr().err
