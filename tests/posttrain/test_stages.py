"""What is done is not done again, what changed is, an interruption costs one stage's rest at most."""

import json

import pytest

from fathom.errors import InputError
from fathom.posttrain.stages import Line, Pipeline, Stage
from fathom.train.ledger import read


class Works:
    """Stages that write a file and remember that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.interrupt: dict[str, object] = {}

    def stage(self, name: str, *needs: str, **facts: object) -> Stage:
        def work(folder, tell) -> bool:
            self.ran.append(name)
            tell("half", None)
            outcome = self.interrupt.get(name, True)
            if isinstance(outcome, type):
                raise outcome
            (folder / "output").write_text(json.dumps(facts))
            return bool(outcome)

        return Stage(name, needs, facts, 10.0, work)


def three(works: Works, first: int = 1, second: int = 1, third: int = 1) -> list[Stage]:
    return [works.stage("a", n=first), works.stage("b", "a", n=second), works.stage("c", "a", n=third)]


@pytest.fixture
def works() -> Works:
    return Works()


def test_a_second_run_does_nothing(works, tmp_path) -> None:
    assert Pipeline(three(works), tmp_path).run() and works.ran == ["a", "b", "c"]
    lines: list[Line] = []
    pipeline = Pipeline(three(works), tmp_path)
    assert pipeline.run(lines.append) and works.ran == ["a", "b", "c"]
    assert [(line.stage, line.number, line.stages, line.left_s) for line in lines] == [
        ("a", 1, 3, 0.0), ("b", 2, 3, 0.0), ("c", 3, 3, 0.0),
    ]  # fmt: skip
    assert all(line.text.startswith("done before") for line in lines)


def test_what_changed_is_done_anew_with_all_that_reads_it(works, tmp_path) -> None:
    Pipeline(three(works), tmp_path).run()
    Pipeline(three(works, second=2), tmp_path).run()
    assert works.ran == ["a", "b", "c", "b"]
    Pipeline(three(works, first=2, second=2), tmp_path).run()
    assert works.ran == ["a", "b", "c", "b", "a", "b", "c"]
    assert json.loads((tmp_path / "a/output").read_text()) == {"n": 2}


def test_a_stage_that_is_begun_anew_finds_an_empty_folder(works, tmp_path) -> None:
    Pipeline(three(works), tmp_path).run()
    (tmp_path / "b/old").write_text("of other settings")
    Pipeline(three(works, second=2), tmp_path).run()
    assert not (tmp_path / "b/old").exists()


@pytest.mark.parametrize("how", [False, KeyboardInterrupt])
def test_an_interrupted_stage_goes_on_in_its_folder(works, tmp_path, how) -> None:
    works.interrupt["b"] = how
    assert not Pipeline(three(works), tmp_path).run()
    assert works.ran == ["a", "b"] and read(tmp_path)[-1]["event"] == "interrupted"
    (tmp_path / "b/state").write_text("half way")
    del works.interrupt["b"]
    pipeline = Pipeline(three(works), tmp_path)
    assert pipeline.seconds("a") is not None and pipeline.seconds("b") is None
    assert pipeline.run() and works.ran == ["a", "b", "b", "c"]
    assert (tmp_path / "b/state").exists()


def test_a_stage_that_failed_is_not_done(works, tmp_path) -> None:
    works.interrupt["b"] = ValueError
    with pytest.raises(ValueError):
        Pipeline(three(works), tmp_path).run()
    assert Pipeline(three(works), tmp_path).seconds("b") is None


def test_the_ledger_names_each_stage_once_with_its_seconds(works, tmp_path) -> None:
    Pipeline(three(works), tmp_path).run()
    Pipeline(three(works), tmp_path).run()
    events = read(tmp_path)
    assert [event["stage"] for event in events] == ["a", "b", "c"]
    assert all(event["event"] == "stage" and event["seconds"] >= 0 for event in events)


def test_what_is_left_counts_the_plan_of_the_stages_to_come(works, tmp_path) -> None:
    lines: list[Line] = []
    Pipeline(three(works), tmp_path).run(lines.append)
    assert lines[0].text == "half" and 29 < lines[0].left_s <= 30  # nothing done: 10 s each
    assert lines[-1].left_s == 0.0
    assert max(line.left_s for line in lines[1:]) < 25  # stage a took no time: the machine is fast


def test_some_stages_alone(works, tmp_path) -> None:
    pipeline = Pipeline(three(works), tmp_path)
    with pytest.raises(InputError, match="c needs a, which is not done"):
        pipeline.run(only=["c"])
    assert pipeline.run(only=["a", "c"]) and works.ran == ["a", "c"]
    assert pipeline.run(only=["b"]) and works.ran == ["a", "c", "b"]
    with pytest.raises(InputError, match="'d'; it must be one of a, b, c"):
        pipeline.run(only=["d"])


def test_stages_come_in_the_order_of_their_needs(works, tmp_path) -> None:
    with pytest.raises(InputError, match="a needs b"):
        Pipeline([works.stage("a", "b"), works.stage("b")], tmp_path)


def test_folders_of_others_are_left_alone(works, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis").write_text("years of work")
    with pytest.raises(InputError, match="no stage of a run made it"):
        Pipeline(three(works), tmp_path).run()
    assert (tmp_path / "a/thesis").exists() and works.ran == []
