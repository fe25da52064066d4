"""Which host this is, and what its ranks are: said by options, or by a launcher where they say nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fathom.cli import serve
from fathom.cli.hosts import PORT, Hosts, hosts_of, read_layout
from fathom.config import Host
from fathom.errors import ConfigError, WorkerError
from fathom.layout import Layout

GIVEN = ("--nnodes", "2", "--node-rank", "1", "--master", "10.0.0.7:29400", "--group-secret", "file")


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture(autouse=True)
def launcher(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    """What a launcher says, if there is one in the list."""
    said: list[Host] = []
    monkeypatch.setattr("fathom.config.launched_host", lambda: said[0] if said else None)
    return said


def test_options_say_which_host_this_is(launcher: list[Host]) -> None:
    launcher.append(Host(9, 5, "elsewhere"))
    assert hosts_of(options(*GIVEN)) == Hosts(2, 1, "10.0.0.7", 29400, Path("file"))
    assert hosts_of(options(*GIVEN, "--master", "[fd00::7]:1")) == Hosts(2, 1, "fd00::7", 1, Path("file"))
    assert hosts_of(options("--nnodes", "1")) is None


def test_a_launcher_says_it_where_options_do_not(launcher: list[Host]) -> None:
    assert hosts_of(options()) is None
    launcher.append(Host(4, 3, "node0"))
    assert hosts_of(options("--group-secret", "s")) == Hosts(4, 3, "node0", PORT, Path("s"))
    assert hosts_of(options("--group-secret", "s", "--master", "ib0:7")) == Hosts(4, 3, "ib0", 7, Path("s"))
    assert hosts_of(options("--nnodes", "1")) is None, "who wants one host gets one"
    launcher[0] = Host(4, 3)
    with pytest.raises(ConfigError, match="master is ''; it must be HOST:PORT"):
        hosts_of(options("--group-secret", "s"))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (("--node-rank", "2"), "node-rank is 2; with 2 hosts it must be from 0 to 1"),
        (("--node-rank", "-1"), "node-rank is -1"),
        (("--master", "10.0.0.7"), "master is '10.0.0.7'"),
        (("--master", "10.0.0.7:0"), "master is"),
        (("--master", ":29400"), "master is"),
    ],
)
def test_what_makes_no_sense_is_refused(given: tuple[str, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        hosts_of(options(*GIVEN, *given))


@pytest.mark.parametrize(
    ("left_out", "match"), [("--node-rank", "node-rank is None"), ("--group-secret", "need --group-secret FILE")]
)
def test_what_is_missing_is_named(left_out: str, match: str) -> None:
    at = GIVEN.index(left_out)
    with pytest.raises(ConfigError, match=match):
        hosts_of(options(*GIVEN[:at], *GIVEN[at + 2 :]))


def test_ranks_are_shared_out_evenly() -> None:
    host = Hosts(3, 1, "h", 1, Path("s"))
    assert list(host.ranks(6)) == [2, 3]
    for uneven in (4, 2):
        with pytest.raises(ConfigError, match=f"{uneven} ranks do not divide among 3 hosts"):
            host.ranks(uneven)


def test_a_layout_is_read_from_its_degrees() -> None:
    assert read_layout("tp=2, ep=2") == Layout(tp=2, ep=2) and read_layout("pp=2,dp=4") == Layout(pp=2, dp=4)
    for text, match in (("tp", "known: pp, dp, tp, ep"), ("tp=two", "layout is 'tp=two'"), ("xp=2", "xp")):
        with pytest.raises(ConfigError, match=match):
            read_layout(text)


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_host_0_asks_for_ranks_elsewhere(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", "0123456789abcdef")
    given = ("--nnodes", "2", "--node-rank", "0", "--master", "node0:7", "--group-secret", str(secret))
    ranks = serve.configured(options("--layout", "dp=4,ep=4", *given)).ranks
    assert ranks is not None
    assert (ranks.host, ranks.port, ranks.here, ranks.secret) == ("node0", 7, 2, str(secret))
    with pytest.raises(ConfigError, match="2 hosts can share one replica"):
        serve.configured(options("--layout", "tp=2", "--replicas", "2", *given))


@pytest.mark.parametrize(
    ("text", "mode", "match"),
    [
        ("0123456789abcdef", 0o644, "has mode 644"),
        ("short", 0o600, "5 characters"),
        ("0123456789\nabcdef", 0o600, "one line"),
    ],
)
def test_a_bad_secret_on_another_host_starts_no_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, match: str
) -> None:
    monkeypatch.setattr("fathom.engine.join.join", lambda *_: pytest.fail("it must not come to that"))
    secret = written(tmp_path / "secret", text, mode)
    args = options("--layout", "tp=2", *GIVEN[:-1], str(secret), "--no-browser")
    with pytest.raises(ConfigError, match=match):
        serve.run(args)


def test_another_host_lends_its_ranks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lent: list[tuple[object, ...]] = []
    monkeypatch.setattr("fathom.engine.join.join", lambda *given: lent.append(given))
    secret = written(tmp_path / "secret", "0123456789abcdef\n")
    args = options("--layout", "dp=4,ep=4", *GIVEN[:-1], str(secret))
    assert serve.run(args) == 0
    assert lent == [("10.0.0.7", 29400, range(2, 4), "0123456789abcdef")]
    assert "ranks 2 to 3 for 10.0.0.7:29400" in capsys.readouterr().err

    def fails(*_: object) -> None:
        raise WorkerError("rank 2 ended")

    monkeypatch.setattr("fathom.engine.join.join", fails)
    with pytest.raises(WorkerError):
        serve.run(args)
