"""`fathom plan serve` answers, writes what the server reads, and refuses with one line."""

import json

import pytest

from fathom.cli import main
from fathom.cli.planning.serve import seconds
from fathom.layout.deploy import read_deploy

SMALL = ["plan", "serve", "deepseek-v3", "--gpu", "h200", "--in", "1000", "--out", "200", "--mtp", "0",
         "--replica-gpus", "8"]  # fmt: skip


def test_a_plan_is_printed_drawn_and_written(tmp_path, capsys) -> None:
    files = {name: tmp_path / name for name in ("deploy.toml", "plan.png", "plan.html")}
    asked = ["--rps", "20", "--no-trial", "--out", str(files["deploy.toml"])]
    asked += ["--png", str(files["plan.png"]), "--html", str(files["plan.html"])]
    assert main([*SMALL, *asked]) == 0
    said = capsys.readouterr().out
    assert "Plan: " in said and "1,000 tokens in, 200 out" in said and "20 requests/s" in said
    deploy = read_deploy(files["deploy.toml"])
    assert f"{deploy.world_size:,} GPUs" in said
    assert main(["plan", "deploy", str(files["deploy.toml"]), "--memory-gb", "141"]) == 0
    assert "<svg" in files["plan.html"].read_text() and files["plan.png"].read_bytes()[:4] == b"\x89PNG"


def test_json_is_one_object(capsys) -> None:
    assert main([*SMALL, "--gpus", "16", "--kind", "aggregated", "--json", "--no-trial"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["gpus"] <= 16 and found["numbers"]["tpot"]["unit"] == "ms" and found["trial"] is None


def test_a_trace_is_what_the_plan_is_tried_with(tmp_path, capsys) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text("\n".join(json.dumps({"arrival_s": 0.2 * i, "in": 500, "out": 20}) for i in range(30)))
    assert main([*SMALL, "--rps", "5", "--kind", "aggregated", "--trace", str(trace)]) == 0
    assert "Tried with the scheduler: 5.0 requests/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--hit", "1.5"], "hit is 1.5"),
        (["--rps", "-1"], "rps is -1"),
        (["--rps", "1", "--gpus", "8"], "both given"),
        (["--out", "deploy.yaml"], "--out is 'deploy.yaml'"),
        (["--tpot", "1ms"], "1 ms"),
        (["--gpu", "h900"], "'h900' is not known"),
        (["--precision", "fp7"], "'fp7' is not known"),
        (["--cache", "fp4"], "cache is 'fp4'"),
        (["--replica-gpus", "0"], "gpus of a replica is 0"),
        (["--mtp", "9"], "mtp is 9"),
        (["--cache", ""], "caches names nothing"),
        (["--acceptance", "2"], "acceptance is 2"),
        (["--in", "200000"], "made for 163,840"),
    ],
)
def test_a_question_without_an_answer_gets_one_line(more, said, capsys) -> None:
    assert main([*SMALL, "--no-trial", *more]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("time", ["fast", "2m", "-1s", ""])
def test_a_time_needs_a_number_and_a_unit(time, capsys) -> None:
    assert main([*SMALL, f"--ttft={time}"]) == 2
    assert f"{time!r} is no time" in capsys.readouterr().err


@pytest.mark.parametrize(("time", "value"), [("2s", 2.0), ("50ms", 0.05), ("0.5", 0.5), (".25 s", 0.25)])
def test_times_are_read_with_their_units(time, value) -> None:
    assert seconds(time) == pytest.approx(value)
