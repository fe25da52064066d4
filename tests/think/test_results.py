"""Results come back from their files, are joined as a count over all would be, and pair where problems are equal."""

import json
from dataclasses import replace

import pytest

from fathom.config import find_model
from fathom.errors import InputError
from fathom.think.evaluate import EvalConfig, run
from fathom.think.intervals import paired, wilson
from fathom.think.modes import Mode
from fathom.think.results import Result, asked_and_used, compare, fingerprint, gather
from tests.think.scripted import Scripted, prompts_are_problems, right

MODES = (Mode.effort("own"), Mode.effort("none"))
CONFIG = EvalConfig(families=("chain", "sorting"), levels=(1, 2), modes=MODES, n=8)


@pytest.fixture(autouse=True)
def _prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts_are_problems(monkeypatch)


def every(nth: int):
    """Wrong on every nth answer."""
    return lambda problem, number: ("no" if number % nth == 0 else problem.reply, 10 + number)


def result(script, config: EvalConfig = CONFIG) -> Result:
    return Result.of("nano", config, run(Scripted(script), config), 1.5)


def test_a_result_comes_back_from_its_file(tmp_path) -> None:
    made = result(every(3), replace(CONFIG, samples=3, temperature=1.0))
    made.write(tmp_path / "a.eval.json")
    found = Result.read(tmp_path / "a.eval.json")
    assert found.scores == made.scores and found.problems == made.problems
    assert (found.model, found.fingerprint, found.seconds) == ("nano", fingerprint(find_model("nano")), 1.5)
    assert found.asked["modes"] == ["own", "none"] and found.asked["seed"] == 0


def test_the_hash_of_the_problems_knows_the_problems_and_nothing_else() -> None:
    base = result(right)
    assert result(every(2)).problems == base.problems
    assert result(right, replace(CONFIG, modes=(Mode.forced(9),))).problems == base.problems
    assert result(right, replace(CONFIG, seed=1)).problems != base.problems
    assert result(right, replace(CONFIG, n=7)).problems != base.problems


def test_a_fingerprint_is_of_the_content(tmp_path) -> None:
    for name, content in (("model.safetensors", b"w"), ("config.json", b"{}"), ("tokenizer.json", b"t")):
        (tmp_path / name).write_bytes(content)
    before = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"v")
    assert fingerprint(tmp_path) != before


def test_a_manifest_spares_the_reading_and_changes_no_fingerprint(tmp_path) -> None:
    nano = find_model("nano")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((nano / name).read_bytes())
    assert fingerprint(tmp_path) == fingerprint(nano)


def test_files_of_another_kind_are_refused(tmp_path) -> None:
    file = tmp_path / "x.eval.json"
    for content in (
        "",
        "[]",
        '{"format": 99}',
        json.dumps({"format": 1, "problems": "", "scores": [{"family": "chain"}]}),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=r"x\.eval\.json is not a result"):
            Result.read(file)


def test_joined_scores_are_those_of_all_problems_together() -> None:
    scores = result(every(3)).scores
    by_family = gather(scores, "effort", "family")
    assert list(by_family) == [("own", "chain"), ("own", "sorting"), ("none", "chain"), ("none", "sorting")]
    joined, parts = by_family["own", "sorting"], [s for s in scores if (s.effort, s.family) == ("own", "sorting")]
    assert (joined.family, joined.level, joined.n) == ("sorting", 0, 16)
    assert joined.correct == sum(part.correct for part in parts) == sum(joined.right)
    assert (joined.low, joined.high) == wilson(joined.correct, 16)
    assert joined.thinking_mean == pytest.approx(sum(joined.used) / 16)


def test_joined_means_weigh_cells_by_their_problems() -> None:
    config = replace(CONFIG, samples=2, temperature=1.0)
    a = run(Scripted(every(2)), replace(config, families=("chain",), n=2))
    b = run(Scripted(every(3)), replace(config, families=("sorting",), n=6))
    (joined,) = gather([a[0], b[0]]).values()
    assert joined.pass_at[2] == pytest.approx((2 * a[0].pass_at[2] + 6 * b[0].pass_at[2]) / 8)
    with pytest.raises(InputError, match="samples"):
        gather([a[0], result(right).scores[0]])


def test_two_results_pair_mode_by_mode_and_family_by_family() -> None:
    a, b = result(every(2)), result(every(5))
    found = {(mode, family): pair for mode, family, pair in compare(a, b)}
    assert list(found)[:3] == [("own", "chain"), ("own", "sorting"), ("own", "all")]
    assert len(found) == 6
    rates = [[r for s in each.scores if s.effort == "none" and s.family == "chain" for r in s.right] for each in (a, b)]
    assert found["none", "chain"] == paired(*rates)
    assert found["own", "all"].n == 32 and found["own", "all"].difference > 0


def test_one_mode_each_pairs_whatever_the_modes_are() -> None:
    thinking, direct = (replace(CONFIG, modes=(mode,)) for mode in MODES)
    found = compare(result(right, thinking), result(every(2), direct))
    assert [mode for mode, _, _ in found] == ["own / none"] * 3
    assert found[-1][2].difference == pytest.approx(-0.5)


def test_other_problems_do_not_pair() -> None:
    with pytest.raises(InputError, match="no problems in common"):
        compare(result(right), result(right, replace(CONFIG, seed=3)))


def test_asked_and_used_lengths_come_from_every_thought() -> None:
    modes = (Mode.asked_for(20), Mode.asked_for(40), Mode.budget(30), Mode.effort("own"))
    scores = result(
        lambda problem, number: (problem.reply, 22 if number < 32 else 36), replace(CONFIG, modes=modes)
    ).scores
    found = asked_and_used(scores, enforced=False)
    assert found is not None and found.n == 64 and found.spearman == pytest.approx(1)
    assert found.relative_error == pytest.approx((2 / 20 + 4 / 40) / 2)
    enforced = asked_and_used(scores, enforced=True)
    assert enforced is not None and (enforced.n, enforced.spearman) == (32, None)
    assert asked_and_used(scores[-1:], enforced=True) is None
