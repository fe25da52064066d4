"""Which problems a stage reads: families by share, levels, languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from fathom import tasks
from fathom.errors import ConfigError, InputError
from fathom.tasks.task import Problem, require_level


@dataclass(frozen=True)
class Mixture:
    """Problems of some families.

    Fields: levels: family -> levels, drawn alike; if none is named, every family with all it has. shares: family -> how
            often, relative to the others; 1 if not named. chinese: share of problems worded in Chinese.
    """

    levels: dict[str, Sequence[int]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    chinese: float = 0.0

    def __post_init__(self) -> None:
        for family, levels in self.levels.items():
            try:
                task = tasks.named(family)
            except InputError as error:
                raise ConfigError(f"levels names {family!r}: {error}") from None
            if not isinstance(levels, list | tuple) or not levels:
                raise ConfigError(f"levels.{family} is {levels!r}; it must be a list of levels, such as [1, 2].")
            for level in levels:
                require_level(task, level)
        for family, share in self.shares.items():
            if family not in self.families:
                raise ConfigError(f"shares names {family!r}; the families here are {', '.join(self.families)}.")
            if share < 0:
                raise ConfigError(f"shares.{family} is {share:g}; it must be at least 0.")
        if not sum(self._weights):
            raise ConfigError("shares are 0 for every family; one must be above.")
        if not 0 <= self.chinese <= 1:
            raise ConfigError(f"chinese is {self.chinese:g}; it must be between 0 and 1.")

    @property
    def families(self) -> tuple[str, ...]:
        """The families that are drawn."""
        return tuple(self.levels or tasks.FAMILIES)

    def levels_of(self, family: str) -> tuple[int, ...]:
        """The levels of a family that are drawn."""
        return tuple(self.levels.get(family, tasks.named(family).levels))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that are drawn."""
        return tuple(name for name, share in (("en", 1 - self.chinese), ("zh", self.chinese)) if share > 0)

    def draw(self, split: str, rng: Random) -> Problem:
        """One problem of the split."""
        family = rng.choices(self.families, self._weights)[0]
        language = "zh" if rng.random() < self.chinese else "en"
        return tasks.draw(family, rng.choice(self.levels_of(family)), split, rng, language)

    @property
    def _weights(self) -> list[float]:
        return [self.shares.get(family, 1.0) for family in self.families]
