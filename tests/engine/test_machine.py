"""A result says where it comes from, and how much of the machine others had."""

import subprocess

import fathom
from fathom.engine import machine as room
from fathom.engine.machine import Neighbours, commit, kernels, kind, machine, processor, threads
from tests.engine.tiny import tiny


def test_a_machine_is_described():
    found = machine(tiny())
    assert found["version"] == fathom.__version__ and found["cores"] >= 1
    assert (found["threads"], found["kernels"]) == (threads(tiny()), kernels(tiny()))
    assert kernels(tiny()) == "reference" and kind(tiny()) == "f32"
    assert processor()


def test_a_commit_is_that_of_the_tree(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "HERE", tmp_path)
    assert commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    file = tmp_path / "file"
    file.write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = commit()
    assert clean is not None and len(clean) == 40
    file.write_text("two")
    assert commit() == clean + "+changes"
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    assert commit() is None


def test_own_work_is_not_the_neighbours(monkeypatch):
    with Neighbours() as others:
        sum(range(200_000))
    assert 0.0 <= others.share <= 1.0
    taken = iter((10.0, 13.0))
    monkeypatch.setattr(room, "_others_s", lambda: next(taken))
    monkeypatch.setattr(room, "perf_counter", iter((0.0, 2.0)).__next__)
    monkeypatch.setattr(room.os, "cpu_count", lambda: 2)
    with Neighbours() as others:
        pass
    assert others.share == 0.75
