"""FATHOM_OPS and FATHOM_CACHE are read, checked, and have defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from fathom.config import cache_dir, ops_choice
from fathom.errors import ConfigError


def test_ops_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATHOM_OPS", raising=False)
    assert ops_choice() == "auto"
    monkeypatch.setenv("FATHOM_OPS", "reference")
    assert ops_choice() == "reference"
    monkeypatch.setenv("FATHOM_OPS", "gpu")
    with pytest.raises(ConfigError, match="FATHOM_OPS is 'gpu'; it must be one of auto, reference, cpu\\."):
        ops_choice()


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FATHOM_CACHE", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "fathom"
    monkeypatch.setenv("FATHOM_CACHE", "~/kernels")
    assert cache_dir() == tmp_path / "kernels"
