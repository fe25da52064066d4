"""Who answers, and that a fall to the reference is never silent."""

from __future__ import annotations

import logging
import sys
import types

import pytest
import torch

from fathom import ops
from fathom.errors import ConfigError
from fathom.ops import dispatch, reference
from tests.ops.cases import randn


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A backend that doubles every norm, in the place of the real one."""
    module = types.ModuleType("fathom_test_backend")
    module.load = lambda: {"rms_norm": lambda x, weight, eps: x * 2}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", module.__name__)
    dispatch._backend.cache_clear()
    yield module
    dispatch._backend.cache_clear()


def test_the_backend_answers_and_use_overrides_it(backend: types.ModuleType) -> None:
    x, weight = randn(1, 2, 8), randn(2, 8)
    with ops.use("cpu"):
        assert torch.equal(ops.rms_norm(x, weight, 1e-6), x * 2)
        with ops.use("reference"):
            assert torch.equal(ops.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
        assert torch.equal(ops.rms_norm(x, weight, 1e-6), x * 2)


@pytest.mark.parametrize("trained", ["x", "weight"])
def test_what_needs_a_gradient_goes_to_the_reference(trained: str, backend: types.ModuleType) -> None:
    tensors = {"x": randn(1, 2, 8), "weight": randn(2, 8)}
    tensors[trained].requires_grad_()
    with ops.use("cpu"):
        ops.rms_norm(**tensors, eps=1e-6).sum().backward()
        assert tensors[trained].grad.abs().sum() > 0
        with torch.no_grad():
            assert torch.equal(ops.rms_norm(**tensors, eps=1e-6), tensors["x"] * 2)


@pytest.mark.parametrize("error", [RuntimeError, OSError, ImportError])
def test_a_backend_that_cannot_load_is_said_once(
    error: type[Exception], backend: types.ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> dict:
        raise error("no C compiler")

    backend.load = load
    x, weight = randn(1, 2, 8), randn(2, 8)
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        for _ in range(3):
            assert torch.equal(ops.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
        rows = ops.describe()
    assert [record.getMessage() for record in caplog.records] == ["ops: reference on cpu (no C compiler)"]
    assert {(row["answers"], row["why"]) for row in rows[:-1]} == {("reference", "no C compiler")}


def test_describe_names_who_answers_every_op(backend: types.ModuleType) -> None:
    with ops.use("cpu"):
        rows = {row["op"]: row for row in ops.describe()}
    assert list(rows) == [*dispatch.OPS, dispatch.PACKED]
    assert rows["rms_norm"]["answers"] == "cpu" and rows["rms_norm"]["why"] == ""
    assert rows["linear"]["answers"] == "reference" and rows["linear"]["why"]


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of auto, reference, cpu"), ops.use("cuda"):
        pass


def test_packed_models_fall_back_once_and_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fathom.ops.cpu import build

    def no_compiler() -> None:
        raise build.Unavailable("no C compiler")

    monkeypatch.setattr(build, "ensure", no_compiler)
    dispatch._load_library.cache_clear()
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        assert dispatch.library() is None and dispatch.library() is None
        row = ops.describe()[-1]
    dispatch._load_library.cache_clear()
    assert [record.getMessage() for record in caplog.records if "native kernels" in record.getMessage()] == [
        "no native kernels (no C compiler): plain torch computes, one token at a time and many times slower"
    ]
    assert (row["op"], row["answers"], row["why"]) == (dispatch.PACKED, "reference", "no C compiler")


def test_the_reference_can_be_asked_for() -> None:
    with ops.use("reference"):
        assert dispatch.library() is None
