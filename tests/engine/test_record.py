"""The step log is the engine's life: what was written is read back."""

import pytest

from fathom.batching.plan import Plan, Sampled
from fathom.engine.record import LogHeader, StepLog, StepRecord, read_header, read_steps
from fathom.errors import InputError

HEADER = LogHeader(config="c", probe="p", kind="f32", numerics="n", page_tokens=4, num_pages=12)


def test_records_are_read_back_as_written(tmp_path):
    log = StepLog(tmp_path / "log", HEADER)
    records = [StepRecord(Plan(step), (Sampled((step,)),), 0.5) for step in (1, 2)]
    for record in records:
        log.write(record)
    assert list(read_steps(tmp_path / "log")) == records


def test_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "log"
    log = StepLog(path, HEADER)
    for step in (1, 2):
        log.write(StepRecord(Plan(step), (), 0.5))
    path.write_bytes(path.read_bytes()[:-9])
    assert [record.plan.step for record in read_steps(path)] == [1]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "log"
    StepLog(path, HEADER).write(StepRecord(Plan(1), (), 0.5))
    with path.open("ab") as file:
        file.write(b'{"plan": 3}\n')
    with pytest.raises(InputError, match="line 3"):
        list(read_steps(path))


def test_a_new_log_begins_anew(tmp_path):
    StepLog(tmp_path / "log", HEADER).write(StepRecord(Plan(1), (), 0.5))
    StepLog(tmp_path / "log", HEADER)
    assert list(read_steps(tmp_path / "log")) == []


def test_a_prediction_is_judged_by_what_it_covers():
    record = StepRecord(Plan(1, predicted_s=0.3), (), 0.5, draft_s=0.1)
    assert record.predicted_s == 0.3
    assert record.error == pytest.approx(0.25)
    unforeseen = StepRecord(Plan(1), (), 0.5)
    assert unforeseen.predicted_s is None and unforeseen.error is None


def test_a_log_begins_with_its_header(tmp_path):
    path = tmp_path / "log"
    StepLog(path, HEADER).write(StepRecord(Plan(1), (), 0.5))
    assert read_header(path) == HEADER
    path.write_bytes(b"{}\n")
    with pytest.raises(InputError, match="line 1 does not begin a step log"):
        read_header(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path / "none")
