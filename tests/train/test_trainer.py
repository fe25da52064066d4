"""The loop: resumes to the bit, refuses to mix runs, stops on a loss that is not a number, exports for transformers."""

import json
import shutil
from dataclasses import replace
from random import Random

import pytest
import torch

from fathom.checkpoint import load_weights
from fathom.config import PACKED_METHOD, ModelConfig
from fathom.errors import CheckpointError, ConfigError, TrainingError
from fathom.model import Batch, Transformer
from fathom.tokenizer import Tokenizer
from fathom.train import trainer as module
from fathom.train.ledger import read
from fathom.train.packing import Packed, pack
from fathom.train.trainer import Trainer
from tests.tolerances import ORACLE_LOGITS
from tests.train.tiny import RECIPE


def bits(run_dir) -> dict[int, str]:
    return {e["step"]: e["loss_bits"] for e in read(run_dir) if e["event"] == "step"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    Trainer(RECIPE, run_dir).run()
    return run_dir


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(finished, tmp_path) -> None:
    short = Trainer(RECIPE, tmp_path)
    short.run(lambda progress: short._interrupt() if progress.step == 3 else None)
    assert max(bits(tmp_path)) == 3
    resumed = Trainer(RECIPE, tmp_path)
    assert resumed.step == 3
    resumed.run()
    assert bits(tmp_path) == bits(finished)
    a, b = (torch.cat([p.flatten() for p in _load(d).parameters()]) for d in (finished, tmp_path))
    assert torch.equal(a, b)


def _load(run_dir) -> Transformer:
    model = Transformer(ModelConfig.read(run_dir / "model"))
    load_weights(model, run_dir / "model")
    return model.eval().requires_grad_(False)


def test_micro_batches_do_not_change_the_step(finished, tmp_path) -> None:
    """Same rows in one piece: equal up to the order of addition, and the routing counts exactly."""
    whole = Trainer(replace(RECIPE, train=replace(RECIPE.train, micro_rows=2)), tmp_path)
    pieces = Trainer(RECIPE, tmp_path / "pieces")
    a, b = whole._one_step(), pieces._one_step()
    assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)  # bf16 activations
    assert a["max_violation"] == pytest.approx(b["max_violation"], abs=0.2)


def test_loss_falls(finished) -> None:
    losses = [float.fromhex(x) for x in bits(finished).values()]
    assert losses[-1] < losses[0] - 0.3


def test_the_ledger_says_what_the_run_was(finished) -> None:
    events = read(finished)
    assert [e["event"] for e in events if e["event"] != "step"] == ["start", "save", "save", "save", "export"]
    assert events[0]["recipe"]["train"]["steps"] == 6
    assert {"loss", "mtp_accuracy", "max_violation", "tokens_per_s", "mfu", "eta_s"} <= events[1].keys()


def test_another_recipe_cannot_continue_this_run(finished) -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr is 0\.5, but"):
        Trainer(replace(RECIPE, optim=replace(RECIPE.optim, lr=0.5)), finished)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_state(tmp_path, monkeypatch) -> None:
    run = Trainer(RECIPE, tmp_path)
    real = module.compute

    def poisoned(*args):
        losses = real(*args)
        if run.step == 4:
            losses.main = float("nan")
        return losses

    monkeypatch.setattr(module, "compute", poisoned)
    with pytest.raises(TrainingError, match="step 4: loss is nan"):
        run.run()
    assert Trainer(RECIPE, tmp_path).step == 4


def begun(finished, directory, **model) -> Trainer:
    """A run that begins with what another has made."""
    train = replace(RECIPE.train, init=str(finished / "model"))
    return Trainer(replace(RECIPE, model=model, train=train), directory)


def test_a_run_begins_with_a_checkpoint(finished, tmp_path) -> None:
    run, base = begun(finished, tmp_path), _load(finished)
    assert run.config == base.config
    assert run.tokenizer.fingerprint == Tokenizer.load(finished / "model").fingerprint
    theirs = dict(base.named_parameters()) | dict(base.named_buffers())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in run._own_tensors().items())
    assert theirs["model.layers.1.mlp.gate.e_score_correction_bias"].abs().max() > 0


def test_the_model_table_changes_what_the_checkpoint_says(finished, tmp_path) -> None:
    run = begun(finished, tmp_path, max_position_embeddings=512)
    assert run.config == replace(_load(finished).config, max_position_embeddings=512)
    with pytest.raises(CheckpointError, match="shape"):
        begun(finished, tmp_path, intermediate_size=64)


def test_a_checkpoint_keeps_how_it_is_sampled(finished, tmp_path) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.5}')
    begun(tmp_path, tmp_path / "run").export(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text()) == {"temperature": 0.5}


def test_mtp_modules_that_were_not_published_are_left_out_and_said(finished, tmp_path, caplog) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_nextn_predict_layers": 2}))
    assert begun(tmp_path, tmp_path / "run").config.num_nextn_predict_layers == 1
    assert "holds 1 of 2 MTP modules" in caplog.text


def test_packed_weights_are_not_trained(finished, tmp_path) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    table = {"quantization_config": {"quant_method": PACKED_METHOD, "bits": 8}}
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | table))
    with pytest.raises(ConfigError, match="packed at 8 bits"):
        begun(tmp_path, tmp_path / "run")


class Alternating:
    """One row of ten tokens in even steps, two rows of ten and six in odd ones."""

    row_tokens = 10

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary, self.facts = vocabulary, {"seed": seed}

    def batch(self, step: int, rows: int, first_row: int = 0) -> Packed:
        rng = Random(f"{self.facts['seed']}/{step}")
        made = [[([1], [rng.randrange(self.vocabulary) for _ in range(n)])] for n in (9, 5)[: 1 + step % 2]]
        return pack(made[first_row : first_row + rows])


def test_rows_come_from_any_source_and_a_step_may_have_fewer(tmp_path) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=2))
    run = Trainer(recipe, tmp_path, source=Alternating(300, seed=1))
    assert [run._one_step()["tokens"] for _ in range(2)] == [10, 16]
    assert run.described["data"] == {"seed": 1}
    run._save()
    with pytest.raises(ConfigError, match=r"data\.seed is 2, but"):
        Trainer(recipe, tmp_path, source=Alternating(300, seed=2))


def test_a_step_without_an_answer_costs_nothing(tmp_path, monkeypatch) -> None:
    run = Trainer(replace(RECIPE, train=replace(RECIPE.train, steps=2)), tmp_path)
    monkeypatch.setattr(run.data, "batch", lambda step, rows, first_row: pack([[(range(1, 9), [])]] * rows))
    assert run._one_step()["loss"] == 0
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())


def test_ours_loads_in_transformers_and_gives_our_logits(finished) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.DeepseekV3ForCausalLM.from_pretrained(finished / "model", dtype=torch.float32).eval()
    ours = _load(finished)
    tokens = torch.randint(0, ours.config.vocab_size, (40,))
    with torch.inference_mode():
        difference = theirs(tokens[None]).logits[0] - ours.logits(ours(tokens, Batch.packed([40])))
    assert difference.abs().max() <= ORACLE_LOGITS


def test_exported_mtp_modules_carry_embedding_and_head(finished) -> None:
    from fathom import cost
    from fathom.checkpoint import Reader

    reader = Reader(finished / "model")
    config = ModelConfig.read(finished / "model")
    assert {name: tuple(info.shape) for name, info in reader.tensors.items()} == {
        name: tuple(shape) for name, shape, _ in cost.tensors(config)
    }
