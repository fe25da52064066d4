"""Path-star graphs: arms that leave one centre; which node after the centre lies on the way to a target.

    K<D        D leads to K: from the target back, since each node has only one that leads to it
    D<P
    P<B        B is the centre: the way to K begins with P

From the centre every arm looks alike, so the next node is a guess unless the target is followed back first
(Bachmann and Nagarajan, arXiv:2403.06963).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from fathom.tasks.task import NO, OK, Problem, require_language, require_level, stated, wording

ARMS = {1: (2, 2), 2: (3, 3), 3: (3, 4), 4: (4, 5)}  # level -> fewest and most arms
STEPS = {1: (2, 3), 2: (3, 4), 3: (4, 5), 4: (5, 5)}  # level -> fewest and most edges of an arm
NODES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TEMPLATES = {
    "en": (
        "Edges: {edges}. Start at {centre}. Which node comes next on the way to {target}?",
        "Given the edges {edges}, what is the first step from {centre} to {target}?",
        "In the graph {edges}, go from {centre} to {target}. Which node do you visit first?",
        "Edges: {edges}. From {centre} to {target}: next node?",
        "How do I leave {centre} to reach {target}? Edges: {edges}",
    ),
    "zh": (
        "边：{edges}。从{centre}到{target}，下一个节点是？",
        "图的边有{edges}。从{centre}走到{target}，先到哪个节点？",
        "从{centre}去{target}，第一步到哪里？边：{edges}",
        "已知边{edges}，求{centre}到{target}的第一步。",
    ),
}
REPLIES = {"en": "The next node is {}.", "zh": "下一个节点是{}。"}
ANSWER = re.compile(r"[A-Z]")


@dataclass(frozen=True)
class PathStar:
    """Two to five arms of two to five edges; all edges point away from the centre."""

    name: str = "pathstar"
    levels: tuple[int, ...] = (1, 2, 3, 4)

    def sample(self, rng: Random, level: int, language: str = "en") -> Problem:
        require_level(self, level)
        require_language(language)
        count, length = rng.randint(*ARMS[level]), rng.randint(*STEPS[level])
        centre, *nodes = rng.sample(NODES, 1 + count * length)
        arms = [[centre, *nodes[start : start + length]] for start in range(0, len(nodes), length)]
        edges = [f"{one}>{two}" for arm in arms for one, two in zip(arm, arm[1:], strict=False)]
        key = f"{self.name} {centre} {arms[0][-1]} {' '.join(sorted(edges))}"
        rng.shuffle(edges)
        prompt = wording(rng).choice(TEMPLATES[language])
        return Problem(
            family=self.name,
            level=level,
            key=key,
            prompt=prompt.format(edges=" ".join(edges), centre=centre, target=arms[0][-1]),
            trace="\n".join(_back(arms[0])),
            reply=REPLIES[language].format(arms[0][1]),
            answer=arms[0][1],
            language=language,
        )

    def check(self, problem: Problem, text: str) -> bool:
        answer = stated(text, REPLIES, ANSWER)
        if answer is None:
            return False
        # Grows the set of what the answer reaches, unlike the solver, which comes from the other end.
        centre, target, edges = _graph(problem)
        if (centre, answer) not in edges:
            return False
        reached: set[str] = set()
        more = {answer}
        while more:
            reached |= more
            more = {two for one, two in edges if one in reached} - reached
        return target in reached

    def verify(self, problem: Problem, answer: str) -> str:
        """Walks from the centre over the answer to the end of the arm."""
        centre, target, edges = _graph(problem)
        after = {one: two for one, two in edges if one != centre}
        claimed = stated(answer, REPLIES, ANSWER)
        if claimed is None or (centre, claimed) not in edges:
            return NO
        node = claimed
        lines = [f"{centre}>{node}"]
        while node in after:
            lines.append(f"{node}>{after[node]}")
            node = after[node]
        return "\n".join([*lines, OK if node == target else NO])

    def slip(self, rng: Random, problem: Problem) -> tuple[str, str] | None:
        """On the way back, one step goes to a node of another arm."""
        centre, target, edges = _graph(problem)
        before = {two: one for one, two in edges}
        right = _walk(before, target, centre)
        others = sorted(before.keys() - set(right))
        start = rng.randint(1, len(right) - 1)
        path = [*_walk(before, rng.choice(others), centre), *right[start:]]
        return "\n".join(_back(path)), path[1]


def _graph(problem: Problem) -> tuple[str, str, set[tuple[str, str]]]:
    """Centre, target and edges."""
    _, centre, target, *edges = problem.key.split(" ")
    return centre, target, {(edge[0], edge[2]) for edge in edges}


def _walk(before: dict[str, str], node: str, centre: str) -> list[str]:
    """The nodes from the centre to this one."""
    path = [node]
    while path[0] != centre:
        path.insert(0, before[path[0]])
    return path


def _back(path: list[str]) -> list[str]:
    """The reasoning: from the end of a path to its first node, line by line."""
    return [f"{two}<{one}" for one, two in zip(path[-2::-1], path[:0:-1], strict=True)]
