"""Families of other packages: found by name in an installed package, loaded only then, and looked at first."""

from __future__ import annotations

import sys
from random import Random

import pytest

from fathom.errors import InputError
from fathom.tasks import draw, named, plugins
from fathom.tasks.chain import Chain

MODULE = """
from fathom.tasks.chain import Chain

class Riddles(Chain):
    def __init__(self):
        super().__init__(name="riddles")

ready = Riddles()
other = Chain()
number = 7

def fails():
    raise RuntimeError("no")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a module and these entry points."""

    def install(points: str, name: str = "riddle_pack") -> None:
        (tmp_path / f"{name}.py").write_text(MODULE)
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[fathom.tasks]\n{points}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load.cache_clear()
    yield install
    plugins.load.cache_clear()
    sys.modules.pop("riddle_pack", None)


@pytest.mark.parametrize("target", ["Riddles", "ready"])
def test_a_class_or_an_instance_is_a_family(package, target):
    package(f"riddles = riddle_pack:{target}")
    task = named("riddles")
    assert isinstance(task, Chain) and task.name == "riddles" and named("riddles") is task
    problem = draw("riddles", 1, "test", Random(0))
    assert problem.family == "riddles" and task.check(problem, problem.answer)


def test_nothing_is_loaded_before_it_is_named(package):
    package("riddles = riddle_pack:Riddles\nbroken = riddle_pack:gone")
    assert "riddle_pack" not in sys.modules
    with pytest.raises(InputError, match="must be one of arithmetic.*a family of an installed package"):
        named("poetry")
    assert named("chain").name == "chain"
    assert "riddle_pack" not in sys.modules
    named("riddles")
    assert "riddle_pack" in sys.modules


def test_a_family_of_the_package_is_never_replaced(package):
    package("chain = riddle_pack:Riddles")
    assert type(named("chain")) is Chain and "riddle_pack" not in sys.modules


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gone", "cannot be loaded: AttributeError"),
        ("number", "has no sample, check, verify, slip, name, levels"),
        ("fails", "has no sample"),
        ("other", "says its name is 'chain'"),
    ],
)
def test_what_is_no_task_is_refused(package, target, message):
    package(f"riddles = riddle_pack:{target}")
    with pytest.raises(InputError, match=message):
        named("riddles")


def test_two_packages_with_one_name_are_refused(package):
    package("riddles = riddle_pack:Riddles")
    package("riddles = riddle_copy:Riddles", "riddle_copy")
    with pytest.raises(InputError, match=r"several packages \(riddle_copy, riddle_pack\)"):
        named("riddles")
