"""Progress stays on one line and ends it."""

from __future__ import annotations

import pytest

from fathom.cli.progress import count_line, progress_line


def test_bytes_are_shown_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress_line("packing")
    for done in range(0, 3_000_001, 1_000_000):
        show(done, 3_000_000)
    printed = capsys.readouterr().err
    assert printed.startswith("\rpacking ") and printed.endswith("(100%)\n") and printed.count("\n") == 1
    assert printed.count("\r") == 2  # the calls between came too soon


def test_counts_are_shown_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    show = count_line("calibrating: layer")
    for done in (1, 2):
        show(done, 2)
    assert capsys.readouterr().err == "\rcalibrating: layer 1 of 2\rcalibrating: layer 2 of 2\n"
