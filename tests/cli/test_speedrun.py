"""`fathom speedrun`: lines, table, JSON, stages one by one; their work is tested in tests/posttrain/test_run.py."""

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.cli.speedrun import STAGES, now_and_then, shipped, shown, table
from fathom.errors import InputError
from fathom.posttrain import run as speedrun
from fathom.posttrain.stages import Line, Pipeline, Stage
from fathom.think import report

ROWS = [
    {
        "model": "sft",
        "mode": "own",
        "n": 40,
        "accuracy": 0.5,
        "low": 0.352,
        "high": 0.648,
        "tokens": 60.0,
        "thinking": 50.0,
    }
]


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Stages that do nothing but leave a note, and a report without a run."""
    ran: list[str] = []

    def fake(recipe, out, device):
        def stage(name: str) -> Stage:
            def work(folder: Path, tell) -> bool:
                ran.append(name)
                if name == "grpo" and (tmp_path / "interrupt").exists():
                    raise KeyboardInterrupt
                return True

            return Stage(name, (), {"recipe": recipe}, 1.0, work)

        return Pipeline([stage(name) for name in STAGES], out)

    monkeypatch.setattr(speedrun, "read", lambda path, overrides: str(path))
    monkeypatch.setattr(speedrun, "pipeline", fake)
    monkeypatch.setattr(speedrun, "summary", lambda out: ROWS)
    monkeypatch.setattr(report, "render", lambda out: (out / "report.html", out / "report.png"))
    return ran


def test_all_stages_then_the_table_and_the_report(scripted, tmp_path, capsys) -> None:
    assert main(["speedrun", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert scripted == list(STAGES)
    assert "[1/8] tokenizer" in printed and "35.2% to 64.8%" in printed and "report.png" in printed
    assert main(["speedrun", "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == ROWS and set(found["seconds"]) == set(STAGES) and scripted == list(STAGES)


def test_some_stages_leave_the_report_for_later(scripted, tmp_path, capsys) -> None:
    assert main(["speedrun", "--out", str(tmp_path / "out"), "--stages", "tokenizer, base"]) == 0
    assert scripted == ["tokenizer", "base"] and "report.html" not in capsys.readouterr().out
    assert main(["speedrun", "--out", str(tmp_path / "out"), "--stages", "rest"]) == 2
    assert "distil" in capsys.readouterr().err


def test_an_interrupt_exits_with_130_and_the_same_command_goes_on(scripted, tmp_path, capsys) -> None:
    (tmp_path / "interrupt").touch()
    assert main(["speedrun", "--out", str(tmp_path / "out")]) == 130
    assert "goes on" in capsys.readouterr().err and scripted[-1] == "grpo"
    (tmp_path / "interrupt").unlink()
    assert main(["speedrun", "--out", str(tmp_path / "out")]) == 0
    assert scripted == [*STAGES[:5], *STAGES[4:]]


def test_the_stages_offered_are_those_of_the_pipeline(tmp_path) -> None:
    job = speedrun.pipeline(speedrun.read(shipped("cpu")), tmp_path)
    assert tuple(stage.name for stage in job.stages) == STAGES


def test_a_tier_without_a_recipe_is_refused_by_path() -> None:
    with pytest.raises(InputError, match="speedrun-moon.toml"):
        shipped("moon")


def test_lines_say_what_is_left() -> None:
    assert shown(Line("sft", 4, 8, "step 3/10", 125.4)) == "[4/8] sft       step 3/10   2:05 left"


def test_lines_come_now_and_then_and_the_ends_of_stages_always() -> None:
    seen: list[str] = []
    at = [0.0]
    say = now_and_then(lambda line: seen.append(line.text), every_s=2.0, clock=lambda: at[0])
    lines = ((0.0, "a", "1"), (1.9, "a", "2"), (2.0, "a", "3"), (2.1, "a", "done in 2 s"), (2.2, "b", "4"))
    for at[0], stage, text in lines:
        say(Line(stage, 1, 2, text, 0.0))
    assert seen == ["1", "3", "done in 2 s", "4"]


def test_the_table_adds_up_the_seconds() -> None:
    text = table({"tokenizer": 10.0, "base": 230.4, "eval": None}, ROWS)
    assert "in all 240 s" in text and "eval" not in text
    assert text.splitlines()[-1].split() == ["sft", "own", "50.0%", "35.2%", "to", "64.8%", "60.0", "50.0", "40"]
