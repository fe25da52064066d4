"""Two hundred bad inputs, drawn by a seed: each ends with one line that says what is wrong, never with a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from fathom.cli import main
from fathom.cli.plan import WORKS

COUNT, SEED = 200, 6
NO_NUMBER = ("abc", "", "nan", "1e", "--", "0x1G", "1,5", "inf", "-inf")
NO_WHOLE = (*NO_NUMBER, "1.5", "-1", "1e400")
NO_DEVICE = ("8xh1000", "0xh100", "-1xh100", "8x", "x", "", "8*abacus", "8xh100+1xh200", "99999999xh100")
NO_MODEL = ("gpt-9", "", "/nowhere", "deepseek", "nano/../x", "{}", "a" * 300)
NO_FILE = ("/nowhere/at/all", "@empty", "@garbage", "@cut", "@list", "@unknown", "@types", "@dir")
NO_DEVICES = tuple(name for name in NO_FILE if name != "@empty")  # which adds none
DEMAND, SERVICE = "recipes/plan/doubao.toml", "recipes/deploy/deepseek-v3-service.toml"

#: What a work takes, and what it must not be given: option (or "" for the first argument) -> values.
BAD: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
    "fit": (
        ["deepseek-v3", "--on", "8xh200"],
        {
            "": (*NO_MODEL, *NO_FILE), "--on": NO_DEVICE, "--precision": ("fp7", "32", "FP-8"), "--cache": ("fp4", ""),
            "--context": (*NO_WHOLE, "0", "999999999"), "--chunk": (*NO_WHOLE, "0"), "--redundant": NO_WHOLE,
            "--layout": ("8", "tp", "tp0", "tp3", "ep8", "tp8,tp8", "qp8", "tp16"), "--hardware": NO_DEVICES,
        },
    ),
    "train": (
        ["deepseek-v3", "--tokens", "1T", "--gpus", "2048", "--gpu", "h800"],
        {
            "": NO_MODEL, "--tokens": (*NO_NUMBER, "-1", "0", "1Q"), "--gpus": (*NO_WHOLE, "0"),
            "--gpu": ("abacus", ""), "--layout": ("pp", "zz4", "pp0", "pp16;ep64"), "--schedule": ("2f2b",),
            "--precision": ("fp7",), "--seq": (*NO_WHOLE, "0"), "--micro": (*NO_WHOLE, "0"), "--price": (*NO_NUMBER,
            "-1"), "--failed": (*NO_NUMBER, "-1"), "--hardware": NO_DEVICES, "--software": ("hope",),
            "--recompute": ("x",),
        },
    ),
    "demand": ([DEMAND], {"": NO_FILE, "--set": ("x", "x=1", "traffic.total=lots", "="), "--samples": (*NO_WHOLE, "0"),
                          "--seed": NO_WHOLE}),
    "think": ([], {"": NO_FILE, "--rates": NO_FILE, "--tokens": NO_WHOLE, "--value": NO_NUMBER,
                   "--set": ("x", "y=1", "answers.prompt=x"), "--seed": NO_NUMBER}),
    "crossover": ([], {"": NO_FILE, "--training-usd": (*NO_NUMBER, "-1"), "--inference-usd-per-day": (*NO_NUMBER, "-1"),
                       "--rd-share": (*NO_NUMBER, "-1", "2"), "--growth": (*NO_NUMBER, "-2"), "--demand": NO_FILE}),
    "scaling": (["@dir"], {"": NO_FILE, "--curve": NO_FILE, "--thinking-tokens": NO_NUMBER}),
    "calibrate": (["nano"], {"--threads": (*NO_WHOLE, "0"), "--minutes": (*NO_NUMBER, "-1"),
                             "--points": (*NO_WHOLE, "0")}),
    "step": (["@empty"], {"": NO_FILE, "--batch": NO_WHOLE, "--context": NO_NUMBER}),
    "drift": (["@empty", "@empty"], {"": NO_FILE}),
    "validate": ([], {"": NO_FILE, "--by": ("colour", ""), "--worst": (*NO_NUMBER, "1.5"), "--leave-out": ("me",)}),
    "deploy": ([SERVICE], {"": NO_FILE, "--set": ("x", "x=1", "model=\"gpt-9\""),
                           "--memory-gb": (*NO_NUMBER, "-1", "1"), "--node-ranks": (*NO_WHOLE, "0")}),
    "serve": (
        ["deepseek-v3", "--gpu", "h800", "--no-trial"],
        {
            "": NO_MODEL, "--gpu": ("abacus", ""), "--in": (*NO_NUMBER, "-1", "0"), "--hit": (*NO_NUMBER, "2", "-1"),
            "--ttft": (*NO_NUMBER, "-1", "0", "2 weeks"), "--tpot": (*NO_NUMBER, "-1", "0"), "--rps": (*NO_NUMBER, "-1",
            "0"), "--gpus": (*NO_WHOLE, "0"), "--precision": ("fp7",), "--cache": ("fp4",), "--percentile": (*NO_NUMBER,
            "-1", "101"), "--acceptance": (*NO_NUMBER, "2", "-1"), "--mtp": ("-1", "x"), "--hardware": NO_DEVICES,
            "--peak": (*NO_NUMBER, "0", "-1"), "--engine": ("abacus",),
        },
    ),
}  # fmt: skip


def _cases() -> list[tuple[str, ...]]:
    random, found = Random(SEED), []
    while len(found) < COUNT:
        work = random.choice(sorted(BAD))
        good, bad = BAD[work]
        option = random.choice(sorted(bad))
        value = random.choice(bad[option])
        if random.random() < 0.04:
            option, value = random.choice(("--bogus", "--on8xh100", "-q")), "1"
        argv = [work, value, *good[1:]] if not option else [work, *good, f"{option}={value}"]
        if argv not in found:
            found.append(argv)
    return [tuple(argv) for argv in found]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are no good for anything."""
    place = tmp_path_factory.mktemp("bad")
    (place / "dir").mkdir()
    for name, content in {
        "empty": b"", "garbage": bytes(range(256)), "cut": b'{"a": [1, 2', "list": b"[1, 2, 3]",
        "unknown": b"[h100_sxm]\nbandwith = 3\n", "types": b"title = 3\nmodel = []\npool = 1\n",
    }.items():  # fmt: skip
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize("argv", _cases(), ids=lambda argv: " ".join(argv)[:60].encode("unicode_escape").decode())
def test_bad_input_ends_with_one_line(argv: tuple[str, ...], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word.replace("@", f"{files}/") for word in argv]
    assert main(["plan", *given]) == 2
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and len(error) > 10 and "Traceback" not in error, error
    assert not out


def test_every_work_is_tried() -> None:
    assert {argv[0] for argv in _cases()} >= set(WORKS) - {"web"}


@pytest.mark.parametrize("seed", range(40))
def test_a_config_with_one_wrong_value_is_refused_or_counted(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(seed)
    table: dict[str, object] = {
        "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 2048, "moe_intermediate_size": 256,
        "num_experts": 16, "num_experts_per_tok": 2, "vocab_size": 1000, "max_position_embeddings": 8192,
    }  # fmt: skip
    key = random.choice(sorted(table))
    table[key] = random.choice([None, "x", -3, 0, 1.5, [], {}, True, 10**30, float("nan")])
    (tmp_path / "config.json").write_text(json.dumps(table))
    code = main(["plan", "fit", str(tmp_path), "--on", "8xh100", "--json"])
    out, error = capsys.readouterr()
    if code == 2:
        said = json.loads(out)["error"]["message"]
        assert error == f"error: {said}\n" and len(said) > 10 and "\n" not in said
    else:
        assert json.loads(out)["used_bytes"] > 0 and not error
