"""`fathom bench` prints the keys that others read; what it cannot measure exits with 2. No timing is judged."""

import json

import pytest

from fathom.cli import main
from fathom.tasks import FAMILIES

QUICK = ["--tokens", "3", "--repeats", "2", "--threads", "1"]


def printed(capsys, *words):
    assert main(["bench", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["decode", "--context", "20"], (1, 20)),
        (["batch", "--context", "20", "--batch", "3"], (3, 20)),
        (["prefill", "--context", "32"], (1, 32)),
    ],
)
def test_json_has_the_promised_keys(words, shape, tiny_model, capsys):
    found = printed(capsys, *words, "--model", str(tiny_model), "--bits", "8", *QUICK)
    assert found.keys() >= {"mode", "model", "kind", "machine", "tokens_per_s", "ms_per_step", "others_share"}
    assert found["tokens_per_s"].keys() == {"median", "min", "max", "samples"}
    assert len(found["tokens_per_s"]["samples"]) == 2 and found["tokens_per_s"]["min"] > 0.0
    assert (found["sequences"], found["context"]) == shape
    assert found["machine"].keys() >= {"processor", "kernels", "threads", "commit", "version"}


def test_a_person_reads_lines(tiny_model, capsys):
    assert main(["bench", "decode", str(tiny_model), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 x 3 tokens after 0, 2 repeats" in lines[0]
    assert "tokens/s" in lines[1] and "ms a step" in lines[2]


def test_explain_gives_one_sentence_a_phase(tiny_model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path))
    monkeypatch.setattr("fathom.engine.limits.measure", _limits)
    found = printed(capsys, "explain", str(tiny_model), "--bits", "8", "--repeats", "1", "--threads", "1")
    assert [phase["name"] for phase in found["phases"]][0] == "decode, 1 sequence"
    for phase in found["phases"]:
        assert phase["sentence"].startswith(phase["name"]) and phase["floor_s"] > 0.0
    assert main(["bench", "explain", str(tiny_model), "--repeats", "1", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n- ") == len(found["phases"]) and "GB/s from memory" in said


def _limits(kind, threads):
    from fathom.engine.limits import Limits

    return Limits("some", kind, threads, 1e10, 1e10, 1e10, 1e10)


def test_mtp_compares_texts_by_family(capsys):
    words = ["--tokens", "6", "--repeats", "1", "--prompts", "1", "--spec", "1", "--threads", "1", "--batch", "2"]
    found = printed(capsys, "mtp", *words)
    assert found["identical"] is True and (found["spec"], found["batch"]) == ("1", 2)
    assert set(found["families"]) == set(FAMILIES)
    for family in found["families"].values():
        assert family.keys() >= {"plain", "drafted", "ratio", "acceptance", "identical"}
    assert any(family["acceptance"] for family in found["families"].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decode", "--spec", "2"], "bench mtp"),
        (["decode", "--repeats", "0"], "--repeats is 0"),
        (["decode", "--context", "100000"], "positions"),
        (["race"], "invalid choice"),
    ],
)
def test_what_cannot_be_measured_exits_with_2(words, said, tiny_model, capsys):
    assert main(["bench", *words, "--model", str(tiny_model)]) == 2
    assert said in capsys.readouterr().err


def test_mtp_needs_a_module(tiny_model, capsys):
    assert main(["bench", "mtp", "--model", str(tiny_model)]) == 2
    assert "MTP" in capsys.readouterr().err
