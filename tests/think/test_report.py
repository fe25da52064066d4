"""A report of a small run: every section, every number that went in, and honest words where nothing did."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
from PIL import Image

from fathom.errors import InputError
from fathom.think.evaluate import EvalConfig, run
from fathom.think.modes import Mode
from fathom.think.report import Run, render
from fathom.think.results import Result, compare
from fathom.train import ledger as ledger_module
from fathom.train.ledger import Ledger
from tests.think.scripted import Scripted, prompts_are_problems, right

MODES = tuple(Mode.effort(name) for name in ("own", "none"))
BUDGETS = (Mode.forced(8), Mode.forced(16), Mode.asked_for(20), Mode.asked_for(40), Mode.budget(30))
CONFIG = EvalConfig(families=("chain", "sorting"), levels=(1,), modes=MODES, n=6)


@pytest.fixture
def a_run(tmp_path, monkeypatch):
    """Two stages with ledgers, three evaluations: before, after, and one with samples."""
    prompts_are_problems(monkeypatch)
    seconds = count(1000)
    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(time=lambda: float(next(seconds))))
    for stage, key in (("base", "loss"), ("grpo", "reward")):
        ledger = Ledger(tmp_path / stage)
        ledger.append("start", step=0)
        for step in range(1, 6):
            ledger.append("step", step=step, tokens_per_s=1000.0, **{key: 0.5 + step / 7})
        ledger.close()
    ledger = Ledger(tmp_path)
    ledger.append("stage", stage="cold start", seconds=12.0, model="sft/model")
    ledger.close()

    def half(problem, number):
        return (problem.reply if number % 2 else "no"), 10 + number

    def evaluation(name, script, config, time_s):
        made = Result.of("nano", config, run(Scripted(script), config))
        replace(made, time_s=time_s).write(tmp_path / f"{name}.eval.json")

    evaluation("base", half, replace(CONFIG, modes=MODES + BUDGETS), 1.0)
    evaluation("distil", right, replace(CONFIG, modes=MODES + BUDGETS), 2.0)
    evaluation("samples", half, replace(CONFIG, modes=MODES[:1], samples=4, temperature=1.0), 3.0)
    return tmp_path


def test_every_section_is_there(a_run) -> None:
    page, picture = render(a_run)
    text = page.read_text(encoding="utf-8")
    for title in (
        "Loss by stage", "Reward by stage", "Accuracy by stage", "Accuracy against thinking, distil",
        "Accuracy against samples, samples", "Asked against used length, distil", "Thinking against direct",
        "Stages", "Accuracy by mode and language", "By family", "Every score", "Each stage against the one before",
        "What this does not show",
    ):  # fmt: skip
        assert title in text, title
    assert text.count("<svg") == 7 and "not measured" not in text
    assert "cold start" in text and "sft/model" in text
    assert "http" not in text and "<script" not in text
    with Image.open(picture) as image:
        assert image.format == "PNG" and min(image.size) > 600


def test_the_tables_hold_the_numbers(a_run) -> None:
    text = render(a_run)[0].read_text(encoding="utf-8")
    results = [Result.read(a_run / f"{name}.eval.json") for name in ("base", "distil", "samples")]
    for score in [score for result in results for score in result.scores]:
        cells = (score.n, f"{score.accuracy:.1%}", f"{score.low:.1%} to {score.high:.1%}", f"{score.thinking_mean:.1f}")
        assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    _, family, pair = compare(*results[:2])[0]
    assert f"<td>{family}</td><td>{pair.n}</td><td>{pair.a:.1%}</td><td>{pair.b:.1%}</td>" in text
    assert f"4: {results[2].scores[0].pass_at[4]:.1%}" in text
    assert "Spearman" in text and "1.2143" in text  # the last reward of grpo's ledger


def test_evaluations_and_ledgers_are_in_the_order_of_time(a_run) -> None:
    found = Run.read(a_run)
    assert list(found.results) == ["base", "distil", "samples"]
    assert [name.rpartition("/")[2] for name in found.ledgers] == ["base", "grpo", a_run.name]


def test_what_was_not_measured_is_said(tmp_path, monkeypatch) -> None:
    prompts_are_problems(monkeypatch)
    Result.of("nano", CONFIG, run(Scripted(right), CONFIG)).write(tmp_path / "only.eval.json")
    text = render(tmp_path, tmp_path / "elsewhere")[0].read_text(encoding="utf-8")
    for title in (
        "Loss by stage",
        "Accuracy against thinking, ",
        "Accuracy against samples, ",
        "Asked against used length, ",
    ):
        assert f"{title}: not measured in this run" in text
    assert (tmp_path / "elsewhere" / "report.png").is_file()


def test_names_are_escaped(tmp_path, monkeypatch) -> None:
    prompts_are_problems(monkeypatch)
    Result.of("nano", CONFIG, run(Scripted(right), CONFIG)).write(tmp_path / "<i>.eval.json")
    assert "<i>" not in render(tmp_path)[0].read_text(encoding="utf-8")


def test_a_directory_without_a_run_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no ledger\.jsonl"):
        render(tmp_path)
