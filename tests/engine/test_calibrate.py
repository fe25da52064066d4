"""Calibration walks the model layer by layer, and what it rounds harms the model less than rounding to nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fathom.checkpoint import Reader, load_packed, save_weights, unpacked
from fathom.checkpoint.pack import Plain
from fathom.config import ModelConfig
from fathom.cost import kind_for, single_matrices
from fathom.engine.calibrate import calibrate
from fathom.model import Batch, Transformer, init_weights
from tests.engine.tiny import CONFIG

WIDER = replace(CONFIG, num_nextn_predict_layers=1, hidden_size=64, moe_intermediate_size=48)


def written(directory: Path, config: ModelConfig) -> Path:
    model = init_weights(Transformer(config), std=0.2, seed=3)
    save_weights(directory, model.state_dict(), config.to_dict())
    return directory


def text(config: ModelConfig, count: int, seed: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(config.vocab_size, (20 + i % 7,), generator=draw).tolist() for i in range(count)]


def loaded(weights: dict, config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.load_state_dict(unpacked(weights, config))
    return model


@torch.inference_mode()
def states(model: Transformer, documents: list[list[int]]) -> torch.Tensor:
    tokens, batch = torch.tensor(sum(documents, [])), Batch.packed([len(each) for each in documents])
    hidden = model(tokens, batch)
    return torch.cat((hidden, model.predict_ahead(hidden, tokens.roll(-1), batch)))


def test_every_matrix_of_4_bits_is_made(tmp_path: Path) -> None:
    directory = written(tmp_path / "m", WIDER)
    calls: list[tuple[int, int]] = []
    with Reader(directory) as reader:
        plain = Plain(reader, WIDER)
        found = calibrate(plain, text(WIDER, 8, 0), progress=lambda *call: calls.append(call))
    nearest = load_packed(directory, WIDER, kind="i4")
    assert found.keys() == {name for name, matrix, _ in single_matrices(WIDER) if kind_for(WIDER, matrix, "i4") == "i4"}
    for name, matrix in found.items():
        other = nearest[name]
        assert (matrix.kind, matrix.rows, matrix.columns, matrix.group, matrix.data.shape, matrix.scale.shape) == (
            other.kind, other.rows, other.columns, other.group, other.data.shape, other.scale.shape,
        )  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_model_is_nearer_to_itself_than_with_rounding_to_nearest(tmp_path: Path) -> None:
    directory = written(tmp_path / "m", WIDER)
    with Reader(directory) as reader:
        made = calibrate(Plain(reader, WIDER), text(WIDER, 60, 0))
    nearest = load_packed(directory, WIDER, kind="i4")
    original = loaded(load_packed(directory, WIDER), WIDER)
    fresh = text(WIDER, 20, 1)
    exact = states(original, fresh)
    errors = [
        float((states(loaded(weights, WIDER), fresh) - exact).square().mean()) for weights in (nearest, nearest | made)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_what_a_matrix_meets_does_not_depend_on_how_text_is_split(tmp_path: Path, monkeypatch) -> None:
    directory = written(tmp_path / "m", WIDER)
    documents = text(WIDER, 12, 2)
    made = []
    for size in (4096, 30):
        monkeypatch.setattr("fathom.engine.calibrate.BATCH_TOKENS", size)
        with Reader(directory) as reader:
            made.append(calibrate(Plain(reader, WIDER), documents))
    name = "model.layers.0.self_attn.q_a_proj.weight"  # the first: nothing rounded comes before it
    assert torch.equal(made[0][name].scale, made[1][name].scale)
    assert (made[0][name].data != made[1][name].data).float().mean() < 0.01
