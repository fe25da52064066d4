"""A report of a small run: every section, every number that went in, and honest words where nothing did."""

from pathlib import Path

import pytest
from PIL import Image

from fathom.errors import InputError
from fathom.think.evaluate import run
from fathom.think.report import render
from fathom.think.results import Result, compare
from tests.think.scripted import CONFIG, Scripted, make_run, prompts_are_problems, right


@pytest.fixture
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path, monkeypatch)


def test_every_section_is_there(a_run) -> None:
    page, picture = render(a_run)
    text = page.read_text(encoding="utf-8")
    for title in (
        "Loss by stage", "Reward by stage", "Accuracy by stage", "told to think so much: distil",
        "its own thought cut: distil", "Accuracy against samples: samples", "Asked against used length: distil",
        "Thinking against direct",
        "Stages", "Accuracy by mode and language", "By family", "Every score", "Each stage against the one before",
        "What this does not show",
    ):  # fmt: skip
        assert title in text, title
    assert text.count("<svg") == 8 and "not measured" not in text
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


def test_what_was_not_measured_is_said(tmp_path, monkeypatch) -> None:
    prompts_are_problems(monkeypatch)
    Result.of("nano", CONFIG, run(Scripted(right), CONFIG)).write(tmp_path / "only.eval.json")
    text = render(tmp_path, tmp_path / "elsewhere")[0].read_text(encoding="utf-8")
    for title in (
        "Loss by stage", "its own thought cut: -", "Accuracy against samples: -", "Asked against used length: -",
    ):  # fmt: skip
        assert f"{title}: not measured in this run" in text
    assert (tmp_path / "elsewhere" / "report.png").is_file()


def test_names_are_escaped(tmp_path, monkeypatch) -> None:
    prompts_are_problems(monkeypatch)
    Result.of("nano", CONFIG, run(Scripted(right), CONFIG)).write(tmp_path / "<i>.eval.json")
    assert "<i>" not in render(tmp_path)[0].read_text(encoding="utf-8")


def test_a_directory_without_a_run_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no ledger\.jsonl"):
        render(tmp_path)
