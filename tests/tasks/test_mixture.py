"""What is drawn: families by share, levels and languages as asked."""

from collections import Counter
from random import Random

import pytest

from fathom import tasks
from fathom.errors import ConfigError, InputError
from fathom.tasks.mixture import Mixture

SUMS = Mixture({"arithmetic": (2,)})


def drawn(mixture: Mixture, n: int = 400, split: str = "train"):
    rng = Random(5)
    return [mixture.draw(split, rng) for _ in range(n)]


def test_families_come_by_share_and_levels_alike() -> None:
    mixture = Mixture({"arithmetic": (2, 3), "sorting": (1,), "chain": (1,)}, {"arithmetic": 3.0, "chain": 0.0})
    problems = drawn(mixture)
    families = Counter(problem.family for problem in problems)
    assert set(families) == {"arithmetic", "sorting"}
    assert 270 <= families["arithmetic"] <= 330  # 300 +- 3.5 standard deviations
    levels = Counter(p.level for p in problems if p.family == "arithmetic")
    assert set(levels) == {2, 3} and min(levels.values()) > 110


def test_without_names_every_family_and_level_comes() -> None:
    mixture = Mixture()
    assert mixture.families == tuple(tasks.FAMILIES)
    assert mixture.levels_of("chain") == tasks.FAMILIES["chain"].levels
    assert {problem.family for problem in drawn(mixture, 200)} == set(tasks.FAMILIES)


def test_languages_come_by_share_and_splits_are_kept() -> None:
    only = Mixture(SUMS.levels, chinese=1.0)
    assert {p.language for p in drawn(only, 20)} == {"zh"} == set(only.languages)
    assert {p.language for p in drawn(SUMS, 20)} == {"en"} == set(SUMS.languages)
    assert Mixture(chinese=0.5).languages == ("en", "zh")
    assert {tasks.split_of(p.key) for p in drawn(only, 20, "test")} == {"test"}


def test_equal_generators_draw_equal_problems() -> None:
    assert drawn(Mixture(chinese=0.5), 20) == drawn(Mixture(chinese=0.5), 20)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"levels": {"poetry": (1,)}}, "poetry"),
        ({"levels": {"chain": ()}}, r"levels\.chain"),
        ({"shares": {"poetry": 1.0}}, "poetry"),
        ({"levels": {"chain": (1,)}, "shares": {"sorting": 1.0}}, "sorting"),
        ({"shares": {"chain": -1.0}}, r"shares\.chain is -1"),
        ({"levels": {"chain": (1,)}, "shares": {"chain": 0.0}}, "one must be above"),
        ({"chinese": 1.5}, "chinese is 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Mixture(**options)


def test_levels_that_a_family_lacks_are_refused() -> None:
    with pytest.raises(InputError, match="chain has the levels"):
        Mixture({"chain": (99,)})
