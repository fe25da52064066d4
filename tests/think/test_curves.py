"""What a run left is found in the order of time, and each curve holds the numbers of its evaluation."""

from pathlib import Path

import pytest

from fathom.think.curves import MOST_POINTS, Run, curves, tenths
from fathom.think.results import gather
from fathom.train.ledger import Ledger
from tests.think.scripted import make_run


@pytest.fixture
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run.read(make_run(tmp_path, monkeypatch))


def chart(run: Run, title: str):
    return next(each for each in curves(run) if title in each.title)


def test_evaluations_and_ledgers_are_in_the_order_of_time(a_run: Run) -> None:
    assert list(a_run.results) == ["base", "distil", "samples"]
    assert [name.rpartition("/")[2] for name in a_run.ledgers][:2] == ["base", "grpo"]


def test_models_are_compared_by_single_answers_without_a_number_of_tokens(a_run: Run) -> None:
    assert list(a_run.stages) == ["base", "distil"]
    assert {score.effort for result in a_run.stages.values() for score in result.scores} == {"own", "none"}
    by_stage = chart(a_run, "Accuracy by stage")
    assert list(by_stage.categories) == ["base", "distil"]
    expected = [gather(result.scores, "effort")["none",] for result in a_run.stages.values()]
    assert by_stage.series["none"] == [(i, s.accuracy, s.low, s.high) for i, s in enumerate(expected)]


def test_training_curves_are_minutes_since_the_run_began(a_run: Run) -> None:
    (loss,) = chart(a_run, "Loss by stage").series.values()
    assert [point[:2] for point in loss] == [(step / 60, 0.5 + step / 7) for step in range(1, 6)]
    (reward,) = chart(a_run, "Reward by stage").series.values()
    assert reward[0][0] == pytest.approx(7 / 60)


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for step in range(3 * MOST_POINTS + 1):
        ledger.append("step", step=step, loss=1.0)
    ledger.close()
    (loss,) = chart(Run.read(tmp_path), "Loss by stage").series.values()
    assert MOST_POINTS / 2 < len(loss) <= MOST_POINTS


def test_forced_and_told_budgets_are_not_mixed(a_run: Run) -> None:
    cut, told = (chart(a_run, title).series for title in ("its own thought cut", "told to think so much"))
    assert {name: len(points) for name, points in cut.items()} == {"all": 2, "chain": 2, "sorting": 2}
    assert {name: len(points) for name, points in told.items()} == {"all": 1, "chain": 1, "sorting": 1}


def test_samples_give_a_vote_and_a_best(a_run: Run) -> None:
    (joined,) = gather(a_run.results["samples"].scores).values()
    series = chart(a_run, "Accuracy against samples").series
    assert [point[:2] for point in series["vote"]] == list(joined.majority_at.items())
    assert [point[:2] for point in series["best of n, by a checker"]] == list(joined.pass_at.items())


def test_lengths_are_means_between_their_tenths(a_run: Run) -> None:
    series = chart(a_run, "Asked against used").series
    assert [point[0] for point in series["asked"]] == [20, 40] and [p[0] for p in series["asked and enforced"]] == [30]
    (score, *_) = (s for s in a_run.results["distil"].scores if s.effort == "asked 20")
    low, high = tenths(score)
    assert low <= score.thinking_mean <= high


def test_thinking_stands_beside_direct_by_family(a_run: Run) -> None:
    styles = chart(a_run, "Thinking against direct")
    assert list(styles.categories) == ["chain", "sorting"]
    assert list(styles.series) == ["base, thinking", "base, direct", "distil, thinking", "distil, direct"]
    assert all([point[0] for point in points] == [0, 1] for points in styles.series.values())
