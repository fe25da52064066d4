"""From a directory to a model, and from free memory to a number of pages."""

import logging
from dataclasses import replace

import pytest
import torch

from fathom import ops
from fathom.engine import load
from fathom.engine.load import (
    eos_token_ids,
    free_bytes,
    load_model,
    pages_that_fit,
    read_bits,
    read_load,
    read_numerics,
)
from fathom.errors import CheckpointError, ConfigError
from fathom.model import OneAtATime, Transformer
from fathom.ops.packing import pack, unpack
from tests.engine.checkpoint import save_tiny
from tests.engine.tiny import CONFIG
from tests.ops.conftest import library, native  # noqa: F401

CPU = torch.device("cpu")


def test_a_saved_model_loads_with_or_without_its_mtp_module(tmp_path):
    save_tiny(tmp_path)
    assert load_model(tmp_path).mtp_modules == 0
    assert load_model(tmp_path, mtp=True).mtp_modules == load_model(tmp_path, mtp=None).mtp_modules == 1


def test_a_module_that_config_json_promises_but_the_files_lack_is_not_missed_unless_needed(tmp_path):
    save_tiny(tmp_path, mtp=False)
    assert load_model(tmp_path, mtp=None).mtp_modules == 0
    with pytest.raises(ConfigError, match="no MTP module"):
        load_model(tmp_path, mtp=True)


def test_bits_are_as_asked_or_as_stored(native, tmp_path):  # noqa: F811
    save_tiny(tmp_path)
    kinds = {bits: load_model(tmp_path, bits).kind for bits in ("auto", 32, 16, "8", 4)}
    assert kinds == {"auto": "f32", 32: "f32", 16: "bf16", "8": "i8", 4: "i4"}
    with pytest.raises(ConfigError, match="bits is 3; it must be one of auto, 32, 16, 8, 4"):
        read_bits(3)


@pytest.mark.parametrize(("numerics", "kind"), [("exact", OneAtATime), ("fast", Transformer)])
def test_without_kernels_plain_torch_serves(numerics, kind, tmp_path):
    saved = save_tiny(tmp_path)
    with ops.use("reference"):
        loaded = load_model(tmp_path, mtp=True, numerics=numerics)
    assert type(loaded) is kind
    plain = getattr(loaded, "model", loaded) if kind is OneAtATime else loaded
    kept = saved.state_dict()
    assert all(torch.equal(tensor, kept[name].float()) for name, tensor in plain.state_dict().items())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    with pytest.raises(ConfigError, match="exact, fast"):
        read_numerics("sloppy")
    with pytest.raises(ConfigError, match="load is 'swap'; it must be one of map, copy"):
        read_load("swap")


@pytest.mark.parametrize("bits", ["auto", 32, 16, 8, 4])
def test_without_kernels_weights_are_rounded_all_the_same(bits, tmp_path):
    saved = save_tiny(tmp_path).state_dict()["model.layers.0.self_attn.o_proj.weight"].float()
    with ops.use("reference"):
        held = load_model(tmp_path, bits).model.state_dict()["model.layers.0.self_attn.o_proj.weight"]
    kind = {"auto": "f32", 32: "f32", 16: "bf16", 8: "i8", 4: "i4"}[bits]
    assert torch.equal(held, unpack(pack(saved, kind)))


def test_a_missing_directory_and_missing_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError):
        load_model(tmp_path / "nowhere")
    save_tiny(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


def test_ends_are_those_of_config_and_tokenizer():
    assert eos_token_ids(CONFIG) == ()
    assert eos_token_ids(CONFIG, 5) == (5,)
    assert eos_token_ids(replace(CONFIG, eos_token_id=3), 5) == (3, 5)
    assert eos_token_ids(replace(CONFIG, eos_token_id=(3, 5)), 5) == (3, 5)


def test_pages_fill_the_memory_they_are_given(monkeypatch, caplog):
    page_bytes = 2 * (16 + 4) * 4 * 8  # layers x (latent + rope) x float32 x tokens
    monkeypatch.setattr(load, "free_bytes", lambda device: 10 * page_bytes)
    with caplog.at_level(logging.WARNING):
        assert pages_that_fit(CONFIG, 8, 2, 0.5, torch.float32, CPU) == 5
    assert "a request may have 40 tokens, not the model's 256" in caplog.text


def test_pages_stop_at_what_all_sequences_can_use(monkeypatch, caplog):
    monkeypatch.setattr(load, "free_bytes", lambda device: 2**40)
    assert pages_that_fit(CONFIG, 8, 2, 0.5, torch.float32, CPU) == 2 * 256 // 8
    assert caplog.text == ""


def test_no_room_for_a_page_is_an_error(monkeypatch):
    monkeypatch.setattr(load, "free_bytes", lambda device: 100)
    with pytest.raises(ConfigError, match="leaves no room"):
        pages_that_fit(CONFIG, 8, 2, 0.5, torch.float32, CPU)


def test_free_memory_is_measured():
    assert 2**20 < free_bytes(CPU) < 2**60
