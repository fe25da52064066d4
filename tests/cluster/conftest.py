"""The table of what ran together: written from what did run, on request only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.matrix import Case, Run, page, planned
from tests.cluster.mix import REQUESTS
from tests.ops.conftest import library, native

__all__ = ["library", "native"]

PAGE = Path(__file__).resolve().parents[2] / "docs/feature-matrix.md"
RAN = pytest.StashKey[list[tuple[Case, Run]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help="write docs/feature-matrix.md once all runs passed")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RAN] = []


@pytest.fixture(scope="session")
def ran(request: pytest.FixtureRequest) -> list[tuple[Case, Run]]:
    """Where a run is put down once it has passed."""
    return request.config.stash[RAN]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--write-matrix", default=False):
        return
    done = config.stash[RAN]
    if missing := planned() - set(done):
        terminalreporter.write_line(f"docs/feature-matrix.md is not written: {len(missing)} runs are missing", red=True)
        return
    PAGE.write_text(page(done, REQUESTS), encoding="utf-8")
    terminalreporter.write_line("wrote docs/feature-matrix.md")
