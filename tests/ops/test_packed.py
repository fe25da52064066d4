"""Who runs a packed model: native kernels where there are any, nobody where there are none, and never silently."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom import ops
from fathom.errors import ConfigError
from fathom.model.rope import Rotary
from fathom.ops import dispatch
from fathom.ops.cpu import build, structs
from fathom.ops.cpu.native import Library
from fathom.ops.packed import MOST_EXPERTS, PackedModel, Weights, open_packed
from tests.model.packing import pack_model
from tests.model.tiny import CONFIG, model

WARNING = "no native kernels ({}): plain torch computes, one token at a time and many times slower"
PROJECTION = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def undecided() -> Iterator[None]:
    """As in a new process: nobody has looked for kernels yet."""
    dispatch._load_library.cache_clear()
    yield
    dispatch._load_library.cache_clear()


def weights() -> Weights:
    return pack_model(model(), "bf16")


def opened(held: Weights, threads: int = 1) -> PackedModel | None:
    return open_packed(CONFIG, held, Rotary(CONFIG)(torch.arange(CONFIG.max_position_embeddings)), threads)


def test_more_experts_than_the_kernels_hold_are_refused(native: Library) -> None:
    """They choose with arrays of a fixed size."""
    route = (Path(build.__file__).parent / "route.h").read_text()
    assert f"#define MOST_EXPERTS {MOST_EXPERTS} " in route
    many = replace(CONFIG, n_routed_experts=MOST_EXPERTS + CONFIG.n_group)
    with ops.use("cpu"), pytest.raises(ConfigError, match="FATHOM_OPS=reference runs the model without them"):
        open_packed(many, {}, Rotary(CONFIG)(torch.arange(4)), 1)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("fathom.ops")]


def test_the_kernels_of_this_processor_are_chosen(
    native: Library, undecided: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        found = [opened(weights(), threads) for threads in (1, 2)]
    assert [(each.name, each.threads) for each in found if each] == [(native.name, 1), (native.name, 2)]
    assert messages(caplog) == []


def test_it_computes(native: Library) -> None:
    with ops.use("auto"):
        packed = opened(weights())
    assert packed is not None
    latent, rope = torch.zeros(4, 1, 16, CONFIG.kv_lora_rank), torch.zeros(4, 1, 16, CONFIG.qk_rope_head_dim)
    chosen = torch.full((4, 5, CONFIG.num_experts_per_tok), -1)
    table = torch.zeros(1, 1, dtype=torch.int32)
    hidden = packed.forward(torch.arange(5), torch.arange(5), (5,), table, latent, rope, chosen=chosen)
    assert hidden.shape == (5, CONFIG.hidden_size) and hidden.isfinite().all()
    assert packed.logits(hidden).shape == (5, CONFIG.vocab_size)
    assert latent[:3, 0, :5].abs().sum(-1).all() and not latent[:, 0, 5:].any() and not latent[3].any()
    assert (chosen[1:3] >= 0).all() and (chosen[1:3] < CONFIG.n_routed_experts).all()
    assert packed.space_bytes(64) > packed.space_bytes(1) > 0


def test_nobody_runs_it_when_the_reference_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), ops.use("reference"):
        assert opened(weights()) is None
    assert messages(caplog) == [], "it was asked for: nothing to warn of"


def test_without_a_compiler_nobody_runs_it_and_that_is_said_once(
    undecided: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "find", lambda: None)
    monkeypatch.setattr(build, "compiler", lambda: None)
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        assert [opened(weights()) for _ in range(3)] == [None] * 3
    assert messages(caplog) == [WARNING.format("no C compiler (cc, gcc or clang) on the PATH")]


def test_kernels_that_compute_wrongly_are_refused(
    native: Library, undecided: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fathom.ops.cpu.native.unpack", lambda matrix: ops.packing.unpack(matrix) * 1.01)
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        assert opened(weights()) is None
    assert messages(caplog) == [WARNING.format("f32 products differ: the kernels were compiled wrongly")]


def test_a_library_of_another_version_is_refused(
    native: Library, undecided: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(structs, "ABI_VERSION", -1)
    with caplog.at_level(logging.WARNING), ops.use("auto"):
        assert opened(weights()) is None
    (said,) = messages(caplog)
    assert "speaks ABI" in said and "this code -1; delete it" in said


@pytest.mark.parametrize("fault", ["missing", "plain", "strided"])
def test_weights_that_the_kernels_would_misread_are_refused(fault: str, native: Library) -> None:
    held = dict(weights())
    if fault == "missing":
        del held[PROJECTION]
    elif fault == "plain":
        held[PROJECTION] = torch.zeros(CONFIG.hidden_size, CONFIG.num_attention_heads * CONFIG.v_head_dim)
    else:
        held[PROJECTION] = replace(held[PROJECTION], data=held[PROJECTION].data.transpose(0, 1))
    with ops.use("auto"), pytest.raises((KeyError, AssertionError), match="o_proj|packed, not strided"):
        opened(held)
