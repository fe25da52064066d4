"""A group is described in full before anything is started."""

import pytest

from fathom.engine import crewconfig
from fathom.engine.crewconfig import CrewConfig
from fathom.errors import ConfigError
from fathom.layout import Layout


def test_processors_are_shared_out_over_the_ranks_of_this_host(monkeypatch) -> None:
    monkeypatch.setattr(crewconfig.os, "cpu_count", lambda: 8)
    assert CrewConfig("nano", Layout(tp=2)).threads_each == 4
    assert CrewConfig("nano", Layout(dp=4, tp=4), ranks_here=2, token="x" * 16).threads_each == 4
    assert CrewConfig("nano", Layout(dp=4, tp=4)).threads_each == 1
    assert CrewConfig("nano", Layout(tp=2), threads=3).threads_each == 3


@pytest.mark.parametrize("here", [0, 3])
def test_no_more_ranks_are_here_than_there_are(here: int) -> None:
    with pytest.raises(ConfigError, match=f"ranks_here is {here}; it must be from 1 to 2"):
        CrewConfig("nano", Layout(tp=2), ranks_here=here, token="x" * 16)


def test_ranks_elsewhere_must_know_something() -> None:
    with pytest.raises(ConfigError, match="need a token"):
        CrewConfig("nano", Layout(tp=2), ranks_here=1)
    assert CrewConfig("nano", Layout(tp=2), ranks_here=2).here == 2
