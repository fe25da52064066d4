"""Faults as data: a file is read strictly, and they strike at the same moments every time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fathom.config.faults import Chances, Fault, faults_of, read_faults
from fathom.errors import ConfigError

MOMENTS = [(op, layer, step) for step in range(6) for layer in range(3) for op in ("dispatch", "combine")]


def struck(fault: Fault, rank: int = 0, token_ids: tuple[int, ...] = ()) -> list[tuple[str, int, int]]:
    chances = Chances([fault], rank)
    return [moment for moment in MOMENTS if chances.due(*moment, token_ids)]


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    first = '[[fault]]\nkind = "kill"\nop = "combine"\nrank = 1\nstep = 9\n'
    file.write_text(first + '[[fault]]\nkind = "delay"\nlives = []\n')
    kill, delay = read_faults(file)
    assert kill == Fault("kill", "combine", 1, step=9) and delay == Fault("delay", lives=())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('kind = "kil"', "it must be one of 'kill'"),
        ('kind = "kill"\nopp = "combine"', "did you mean 'op'"),
        ('kind = "kill"\nop = "combin"', "it must be one of 'any'"),
        ('kind = "kill"\nrank = -1', "rank is -1"),
        ('kind = "kill"\nevery = 0', "every is 0"),
        ('kind = "kill"\nprobability = 0', "probability is 0.0"),
        ('kind = "delay"\ndelay_s = 0', "delay_s is 0.0 s"),
        ('kind = "corrupt"\nop = "compute"', "sends nothing to corrupt"),
        ("", "kind must be given"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(f"[[fault]]\n{line}\n")
    with pytest.raises(ConfigError, match=said):
        read_faults(file)


def test_conditions_hold_together() -> None:
    assert struck(Fault("kill")) == MOMENTS[:1]
    assert struck(Fault("kill", times=0)) == MOMENTS
    assert struck(Fault("kill", "combine", layer=1, step=4)) == [("combine", 1, 4)]
    assert struck(Fault("kill", "combine", every=4, times=2)) == [("combine", 0, 1), ("combine", 1, 2)]
    assert struck(Fault("kill", rank=1)) == [] and struck(Fault("kill", rank=1), rank=1) == MOMENTS[:1]


def test_a_token_brings_it_on() -> None:
    assert struck(Fault("kill", token_id=7), token_ids=(5, 6)) == []
    assert struck(Fault("kill", token_id=7), token_ids=(5, 7)) == MOMENTS[:1]


def test_chance_is_the_same_each_time_and_another_for_each_rank_and_seed() -> None:
    def fault(seed: int) -> Fault:
        return Fault("raise", probability=0.4, times=0, seed=seed)

    first = struck(fault(1))
    assert first == struck(fault(1)) and 5 < len(first) < 25
    assert first != struck(fault(2)) and first != struck(fault(1), rank=1)


def test_lives_and_workers() -> None:
    first, always, other = Fault("kill"), Fault("kill", lives=()), Fault("kill", lives=(2,), worker="main-1")
    faults = (first, always, other)
    assert faults_of(faults, "main-0", 0) == (first, always)
    assert faults_of(faults, "main-1", 2) == (always, other)
    assert faults_of(faults, "main-0", 2) == (always,)


def test_they_travel() -> None:
    fault = Fault("corrupt", "rows", 1, token_id=3, lives=(1, 2))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fault), type=Fault) == fault
