"""The compiled kernels, once for all tests. Without a compiler the tests skip and say so; under CI they fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fathom.ops.cpu import build
from fathom.ops.cpu.native import Library


@pytest.fixture(scope="session")
def library() -> Path:
    try:
        return build.ensure()
    except build.Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"no native kernels: {error}")
        pytest.skip(f"no native kernels: {error}")


@pytest.fixture(scope="session")
def native(library: Path) -> Library:
    """The variant that serves on this machine."""
    return Library(library)


@pytest.fixture(scope="session", params=list(build.variants()))
def variant(request: pytest.FixtureRequest, library: Path) -> Library:
    """Each variant that this machine can run."""
    try:
        return Library(library, request.param)
    except build.Unavailable as error:
        pytest.skip(str(error))
