"""`fathom eval` on a model of random weights: the names that others read, the files it leaves, an honest zero."""

import json

import pytest

from fathom.cli import main

ASKED = ("--family", "chain", "--level", "1", "--n", "2", "--max-tokens", "4")


def test_json_has_the_promised_names(tiny_model, capsys) -> None:
    assert main(["eval", "--model", str(tiny_model), *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"accuracy", "low", "high", "tokens_mean", "n", "family", "level", "model", "seed", "split"} <= found.keys()
    assert (found["n"], found["accuracy"], found["low"], found["effort"]) == (2, 0.0, 0.0, "own")
    assert found["high"] < 1.0


def test_results_and_records_are_written_and_pair_with_themselves(tiny_model, tmp_path, capsys) -> None:
    out, records = tmp_path / "a.eval.json", tmp_path / "a.jsonl"
    more = ["--efforts", "own,none", "--forced", "3", "--samples", "2", "--out", str(out), "--records", str(records)]
    asked = [*ASKED[:-1], "40"]
    assert main(["eval", "--model", str(tiny_model), *asked, *more]) == 0
    printed = capsys.readouterr().out
    assert "[3/3]" in printed and "forced 3: pass@1 0.0%, pass@2 0.0%" in printed and "own: majority@1" in printed
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert len(lines) == 3 * 2 * 2 and all(line["key"].startswith("chain") for line in lines)
    forced = [line["thinking_tokens"] for line in lines if line["effort"] == "forced 3"]
    assert len(forced) == 4 and max(forced) <= 3
    assert main(["eval", "--compare", str(out), str(out), "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert {pair["difference"] for pair in pairs} == {0.0} and len(pairs) == 3 * 2
    assert main(["eval", "--compare", str(out), str(out)]) == 0
    assert "B - A" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["--family", "poetry"], "arithmetic"),
        (["--effort", "huge"], "effort is 'huge'"),
        (["--level", "one"], "whole numbers"),
        (["--budgets", "32,999", "--max-tokens", "640"], "max_tokens is 640"),
        (["--samples", "4", "--temperature", "0"], "samples is 4"),
        (["--out", "no/such/place/a.eval.json"], "make it first"),
        (["--compare", "none.json", "nor.json"], "is not a result"),
    ],
)
def test_bad_options_exit_with_2(tiny_model, capsys, bad, said) -> None:
    assert main(["eval", "--model", str(tiny_model), "--n", "1", *bad]) == 2
    assert said in capsys.readouterr().err
