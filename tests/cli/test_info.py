"""`fathom info` prints the exact counts, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.config import PRESETS, preset
from fathom.cost import info, memory, packed_size
from fathom.engine import slowdown
from fathom.engine.slowdown import Served, Slowdown

PROMISED = (
    "parameters_total", "parameters_activated", "parameters_activated_no_embedding", "mtp_parameters",
    "checkpoint_elements", "checkpoint_tensors", "checkpoint_bytes", "cache_bytes_per_token", "yarn_low", "yarn_high",
    "softmax_scale",
)  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_json_has_the_promised_keys(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(PROMISED) <= set(printed)
    assert ("served" in printed) == (name == "nano"), "only what is here can be served here"
    printed.pop("served", None)
    assert printed == {"model": name} | info(preset(name))


def test_the_table_shows_the_counts_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "deepseek-v3"]) == 0
    table = capsys.readouterr().out
    for figure in ("671,026,419,200", "37,552,297,472", "11,610,068,224", "91,991", "641.29 GiB", "0.1352338", "71.1x"):
        assert figure in table
    assert "250.46 GFLOP" in table
    assert max(map(len, table.splitlines())) <= 110


def test_the_table_leaves_out_what_the_model_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "moonlight"]) == 0
    table = capsys.readouterr().out
    assert "MTP" not in table and "YaRN" not in table


def test_memory_is_shown_for_the_bits_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "nano", "--bits", "8", "--cache-tokens", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == memory(preset("nano"), 8, tokens=100)
    assert main(["info", "deepseek-v3", "--bits", "4"]) == 0
    table = capsys.readouterr().out
    assert "memory at 4 bits" in table and "bits per weight" in table
    assert max(map(len, table.splitlines())) <= 110
    assert main(["info", "nano", "--group", "64"]) == 2


def test_a_packed_checkpoint_shows_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = {"quant_method": "fathom", "bits": 4, "group": 64}
    (tmp_path / "config.json").write_text(json.dumps(preset("nano").to_dict() | {"quantization_config": packed}))
    assert main(["info", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["bits"] == 4
    assert found["memory"]["scales_bytes"] == packed_size(preset("nano"), "i4", 64).scales_bytes


def test_a_directory_and_a_file_do_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(preset("nano").to_dict()))
    for path in (tmp_path, tmp_path / "config.json"):
        assert main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters_total"] == info(preset("nano"))["parameters_total"]


def test_it_says_who_would_serve_and_how_much_slower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = Slowdown("some processor", "avx9", kernels_s=0.5e-3, reference_s=10e-3)
    for found, where in ((False, "another (some processor)"), (True, "this machine")):
        monkeypatch.setattr(slowdown, "served", lambda here=found: Served("reference", "no cc", 12e-3, pace, here))
        assert main(["info", "nano"]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "served by reference no cc" in lines
        assert f"plain torch is slower 20x than kernels, measured on {where}" in lines
        assert any(line.startswith("ms per token of nano 12.000 measured here") for line in lines)
