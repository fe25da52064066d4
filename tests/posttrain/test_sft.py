"""Samples, packed: isolated, whole, counted on their answers, each once an epoch; a run that resumes to the bit."""

import logging
from dataclasses import replace

import pytest
import torch

from fathom.checkpoint import Reader, load_weights
from fathom.config import ModelConfig
from fathom.errors import ConfigError, InputError
from fathom.model import Routing, Transformer
from fathom.posttrain.sft import SampleData, encode, train_on
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import read
from fathom.train.loss import LossConfig, compute
from fathom.train.packing import pack
from tests.posttrain.tiny import CONFIG, samples, write_model
from tests.tolerances import SHARDS_EQUAL_WHOLE


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    assert train_on(samples(), base, run_dir, CONFIG) == run_dir / "model"
    return run_dir


def bits(run_dir) -> dict[int, str]:
    return {e["step"]: e["loss_bits"] for e in read(run_dir) if e["event"] == "step"}


def loaded(directory) -> Transformer:
    model = Transformer(ModelConfig.read(directory))
    load_weights(model, directory)
    return model.requires_grad_(False)


def test_a_sample_costs_the_same_alone_and_packed(base) -> None:
    """Main and MTP loss of a packed batch are the sums of what each sample costs alone."""
    model, documents = loaded(base), encode(samples(), Tokenizer.load(base), CONFIG.row_tokens)

    def losses(rows):
        found = compute(model, pack(rows), LossConfig(balance=0.0), 1, len(rows), Routing())
        return found.main, found.mtp

    alone = [losses([[document]]) for document in documents]
    together = losses([documents[:5], documents[5:]])
    assert together[0] == pytest.approx(sum(main for main, _ in alone), rel=SHARDS_EQUAL_WHOLE)
    assert together[1] == pytest.approx(sum(mtp for _, mtp in alone), rel=SHARDS_EQUAL_WHOLE)
    other = [(prompt, answer[::-1]) for prompt, answer in documents[1:5]]
    assert losses([[documents[0], *other]])[0] != losses([documents[:5]])[0]


def test_loss_is_taken_on_thought_and_reply_alone(base) -> None:
    tokenizer = Tokenizer.load(base)
    (sample, *_) = samples()[1:]
    packed = pack([encode([sample], tokenizer, CONFIG.row_tokens)])
    counted = packed.tokens[packed.counted].tolist()
    end = counted.index(tokenizer.end_think_id)
    assert tokenizer.decode(counted[:end]) == sample.thought
    assert tokenizer.decode(counted[end + 1 : -1]) == sample.reply
    assert counted[-1] == tokenizer.eos_id
    asked = packed.tokens[~packed.counted].tolist()
    assert asked[-1] == tokenizer.think_id
    assert sample.messages[0]["content"] in tokenizer.decode(asked)


def test_an_epoch_reads_every_sample_whole_and_once(base) -> None:
    documents = encode(samples(30), Tokenizer.load(base), CONFIG.row_tokens)
    data = SampleData(documents, replace(CONFIG, epochs=2))
    for epoch in range(2):
        seen = []
        for step in range(data.epochs.steps_per_epoch):
            packed = data.batch(epoch * data.epochs.steps_per_epoch + step, 2)
            seen += [part.tolist() for part in packed.tokens.split(packed.lengths)]
        assert sorted(seen) == sorted([*prompt, *answer] for prompt, answer in documents)
    halves = data.batch(0, 1), data.batch(0, 1, first_row=1)
    assert torch.equal(torch.cat([half.tokens for half in halves]), data.batch(0, 2).tokens)


def test_a_sample_longer_than_a_row_is_left_out_and_counted(base, caplog) -> None:
    given = samples(4)
    long = replace(given[0], reply="1 2 3 " * 60)
    with caplog.at_level(logging.WARNING):
        kept = encode([*given, long], Tokenizer.load(base), CONFIG.row_tokens)
    assert len(kept) == 4
    assert "1 of 5 samples are longer than row_tokens=128" in caplog.text
    with pytest.raises(InputError, match="none of 1 samples fits"):
        encode([long], Tokenizer.load(base), CONFIG.row_tokens)


def test_loss_falls(base, tmp_path) -> None:
    train_on(samples(4), base, tmp_path, replace(CONFIG, epochs=8))
    losses = [float.fromhex(text) for text in bits(tmp_path).values()]
    assert losses[-1] < losses[0] / 2


def test_an_interrupted_run_resumes_to_the_bit(base, finished, tmp_path, monkeypatch) -> None:
    from fathom.posttrain import sft

    trainers = []
    real = sft.Trainer
    monkeypatch.setattr(sft, "Trainer", lambda *a, **k: trainers.append(real(*a, **k)) or trainers[-1])
    stop = lambda progress: trainers[-1]._interrupt() if progress.step == 3 else None  # noqa: E731
    assert train_on(samples(), base, tmp_path, CONFIG, stop) is None
    assert max(bits(tmp_path)) == 3
    assert train_on(samples(), base, tmp_path, CONFIG) == tmp_path / "model"
    assert trainers[-1].step == max(bits(finished))
    assert bits(tmp_path) == bits(finished)
    with Reader(tmp_path / "model") as ours, Reader(finished / "model") as theirs:
        assert all(torch.equal(ours.read(name), theirs.read(name)) for name in theirs.tensors)


def test_other_samples_cannot_continue_a_run(base, finished) -> None:
    with pytest.raises(ConfigError, match=r"data\.sha256"):
        train_on(samples(seed=1), base, finished, CONFIG)


def test_the_new_checkpoint_is_bfloat16_with_mtp_and_tokenizer(base, finished) -> None:
    with Reader(finished / "model") as new, Reader(base) as old:
        assert new.tensors.keys() == old.tensors.keys()
        kinds = {info.dtype for name, info in new.tensors.items() if not name.endswith("e_score_correction_bias")}
        assert kinds == {torch.bfloat16}
        mtp = "model.layers.3.eh_proj.weight"
        assert not torch.equal(new.read(mtp).float(), old.read(mtp).bfloat16().float())
    assert Tokenizer.load(finished / "model").fingerprint == Tokenizer.load(base).fingerprint


def test_the_correction_bias_moves_only_when_told(base, finished, tmp_path) -> None:
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    with Reader(finished / "model") as kept, Reader(base) as old:
        assert torch.equal(kept.read(name), old.read(name))
    train_on(samples(4), base, tmp_path, replace(CONFIG, epochs=1, bias_speed=0.01))
    with Reader(tmp_path / "model") as moved:
        assert moved.read(name).abs().max() == pytest.approx(0.01)


def test_a_warmup_longer_than_the_run_is_said(base, caplog) -> None:
    assert replace(CONFIG, micro_rows=0).recipe(base, steps=3).train.micro_rows == CONFIG.rows
    assert caplog.text == ""
    CONFIG.recipe(base, steps=2)
    assert "2 steps end within warmup_steps=2" in caplog.text


def test_the_ledger_says_what_was_read(finished, base) -> None:
    event = next(e for e in read(finished) if e["event"] == "sft")
    documents = encode(samples(), Tokenizer.load(base), CONFIG.row_tokens)
    assert event["samples"] == 12
    assert event["answer_tokens"] == sum(len(answer) for _, answer in documents)
    assert event["config"]["lr"] == CONFIG.lr
    assert 0.5 < event["fill"] <= 1.0
