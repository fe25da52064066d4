"""Path-star: a graph of arms, traces that walk true edges, one right next node."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from fathom.tasks.pathstar import ARMS, STEPS, PathStar
from fathom.tasks.task import Problem
from tests.tasks.hostile import wrong_texts
from tests.tasks.two_languages import assert_family_holds

TASK = PathStar()
KEY = "pathstar B K P>D H>R B>P B>H D>K R>S"
PROBLEM = Problem("pathstar", 1, KEY, "", "K<D\nD<P\nP<B", "The next node is P.", "P")


@pytest.mark.parametrize("level", TASK.levels)
def test_the_family_holds_in_both_languages(level):
    assert_family_holds(TASK, level)


@pytest.mark.parametrize("level", TASK.levels)
def test_the_graph_is_a_star_and_the_trace_walks_it_back(level):
    rng = Random(level)
    for _ in range(200):
        sample = TASK.sample(rng, level)
        _, centre, target, *edges = sample.key.split(" ")
        assert sorted(re.findall(r"[A-Z]>[A-Z]", sample.prompt)) == edges
        pairs = [edge.split(">") for edge in edges]
        leaves = Counter(one for one, _ in pairs)
        assert all(count == 1 for node, count in leaves.items() if node != centre)
        assert len({two for _, two in pairs} - {centre}) == len(pairs)  # one edge into each node, none into the centre
        assert ARMS[level][0] <= leaves[centre] <= ARMS[level][1]
        node = target
        lines = sample.trace.split("\n")
        assert STEPS[level][0] <= len(lines) <= STEPS[level][1]
        for line in lines:
            after, before = line.split("<")
            assert after == node
            assert [before, after] in pairs
            node = before
        assert (node, sample.answer) == (centre, after)
        assert target not in leaves


def test_the_order_of_the_edges_does_not_tell_the_answer():
    rng = Random(0)
    firsts = sum(
        (sample := TASK.sample(rng, 2)).prompt.find(f">{sample.answer}")
        < min(
            sample.prompt.find(edge) for edge in sample.key.split(" ")[3:] if edge.startswith(sample.key.split(" ")[1])
        )
        + 2
        for _ in range(600)
    )
    assert firsts == pytest.approx(200, abs=45)  # of three arms, the right one is named first in a third


def test_known_tests_of_an_answer():
    assert TASK.verify(PROBLEM, "P") == "B>P\nP>D\nD>K\nok"
    assert TASK.verify(PROBLEM, "H") == "B>H\nH>R\nR>S\nno"
    assert TASK.verify(PROBLEM, "D") == TASK.verify(PROBLEM, "Z") == TASK.verify(PROBLEM, "left") == "no"


def test_a_slip_changes_arms_once():
    rng = Random(3)
    edges = {tuple(edge.split(">")) for edge in KEY.split(" ")[3:]}
    for _ in range(50):
        trace, answer = TASK.slip(rng, PROBLEM)
        steps = [tuple(line.split("<")[::-1]) for line in trace.split("\n")]
        assert steps[0][1] == "K" and steps[-1] == ("B", answer) and answer == "H"
        assert [step in edges for step in steps].count(False) == 1


@pytest.mark.parametrize("text", ["P", "P.", "The next node is P."])
def test_right_forms(text):
    assert TASK.check(PROBLEM, text)


@pytest.mark.parametrize("text", ["H", "D", "K", "B", "B>P", "答案：下一个节点是P。"])
def test_wrong_forms(text):
    assert not TASK.check(PROBLEM, text)


def test_hostile_forms():
    for text in wrong_texts(PROBLEM):
        assert not TASK.check(PROBLEM, text), text[:80]


def test_the_checker_does_not_trust_the_solver():
    assert not TASK.check(Problem("pathstar", 1, KEY, "", "", "", "H"), "H")
