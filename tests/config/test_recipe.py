"""TOML tables become frozen dataclasses; whatever does not fit is refused with its place and the nearest right name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from fathom.config import build, nearest, read_json, read_toml, settings
from fathom.config.recipe import MAX_FILE_BYTES
from fathom.errors import ConfigError


@dataclass(frozen=True)
class Optimiser:
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Run:
    steps: int
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(1e-3))
    schedule: Literal["wsd", "cosine"] = "wsd"
    out: Path | None = None
    families: tuple[str, ...] = ()
    bf16: bool = False
    stop: int | tuple[int, ...] | None = None
    extra: dict[str, int] = field(default_factory=dict)
    note: Any = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1.")


def test_nested_tables_are_built_and_checked() -> None:
    table = {
        "steps": 10, "optimiser": {"lr": 1, "betas": [0, 0.5]}, "schedule": "cosine", "out": "runs/a",
        "families": ["sorting"], "stop": [1, 2], "extra": {"a": 1}, "note": [1, "b"],
    }  # fmt: skip
    run = build(Run, table, "nano.toml")
    assert run == Run(
        10, Optimiser(1.0, (0.0, 0.5)), "cosine", Path("runs/a"), ("sorting",), False, (1, 2), {"a": 1}, [1, "b"]
    )
    assert type(run.optimiser.lr) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stpes": 10}, r"nano.toml: unknown key 'stpes' \(did you mean 'steps'\?\)"),
        ({}, "nano.toml: steps must be given"),
        ({"steps": True}, "nano.toml: steps is True; it must be a whole number"),
        ({"steps": 1.0}, "steps is 1.0; it must be a whole number"),
        ({"steps": 0}, "nano.toml: steps is 0; it must be at least 1"),
        ({"steps": 1, "optimiser": {"lr": "big"}}, "nano.toml: optimiser: lr is 'big'; it must be a finite number"),
        ({"steps": 1, "optimiser": {"lr": float("nan")}}, "lr is nan"),
        ({"steps": 1, "optimiser": {"lr": 1.0, "betas": [0.9]}}, "betas has 1 items; it must have 2"),
        ({"steps": 1, "optimiser": {"lr": 1.0, "beta": [0.9]}}, r"unknown key 'beta' \(did you mean 'betas'\?\)"),
        ({"steps": 1, "optimiser": 3}, "optimiser is 3; it must be a table"),
        ({"steps": 1, "schedule": "linear"}, "schedule is 'linear'; it must be one of 'wsd', 'cosine'"),
        ({"steps": 1, "families": "sorting"}, "families is 'sorting'; it must be a list"),
        ({"steps": 1, "families": ["a", 2]}, r"families\[1\] is 2; it must be a text"),
        ({"steps": 1, "bf16": 1}, "bf16 is 1; it must be true or false"),
        ({"steps": 1, "stop": "x"}, "stop is 'x'; it must be a whole number or a list"),
        ({"steps": 1, "out": 3}, "out is 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(table: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Run, table, "nano.toml")


def test_overrides_change_single_values(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 5\n[train]\nlr = 1.0\n")
    table = read_toml(
        file, ["train.lr=3e-4", "train.name=nano-2", "new.deep.list=[1, 2]", "steps = 7", 'note="a b"', "on=true"]
    )
    assert table == {
        "steps": 7, "train": {"lr": 3e-4, "name": "nano-2"}, "new": {"deep": {"list": [1, 2]}}, "note": "a b",
        "on": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "override", ["train.lr", "=3", "a..b=1", "steps.x=1", "a=[1,", "a=", 'a="x', "a b=1", "a=1\nb=2"]
)
def test_a_bad_override_is_refused(tmp_path: Path, override: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 5\n")
    with pytest.raises(ConfigError, match="--set"):
        read_toml(file, [override])


def test_settings_are_overrides_of_one_section() -> None:
    assert settings(Optimiser, "optim", ["optim.lr=3e-4", "optim.betas=[0.8, 0.9]"]) == Optimiser(3e-4, (0.8, 0.9))
    with pytest.raises(ConfigError, match=r"'train' is no section here; write optim\.key=value"):
        settings(Optimiser, "optim", ["train.lr=1.0"])
    with pytest.raises(ConfigError, match="--set optim: lr must be given"):
        settings(Optimiser, "optim", [])


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 5")
    with pytest.raises(ConfigError, match="broken.toml is not valid TOML"):
        read_toml(broken)
    with pytest.raises(ConfigError, match="absent.toml cannot be read: No such file"):
        read_toml(tmp_path / "absent.toml")
    large = tmp_path / "large.json"
    large.write_text("[" + " " * MAX_FILE_BYTES + "]")
    with pytest.raises(ConfigError, match="large.json is 4,194,306 bytes"):
        read_json(large)


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("lr", ["steps"]) == ""
    assert nearest("step", ["steps"]) == " (did you mean 'steps'?)"
