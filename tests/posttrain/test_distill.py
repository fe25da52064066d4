"""Divergences by hand and against autograd; a store of the teacher's numbers; a student that moves towards it."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import kl_div

from fathom.checkpoint import Reader, load_weights
from fathom.config import ModelConfig
from fathom.errors import ConfigError, InputError
from fathom.model import Batch, Routing, Transformer
from fathom.posttrain.distill import (
    DistillConfig,
    Store,
    StoreConfig,
    Taught,
    TaughtData,
    buckets,
    criterion,
    distill,
    divergence,
    store,
)
from fathom.tokenizer import Tokenizer
from fathom.train.data import DataConfig, train_tokenizer
from fathom.train.ledger import read
from fathom.train.loss import LossConfig, compute, next_token
from tests.posttrain.tiny import CONFIG, samples, write_model

SETTINGS = DistillConfig(**{name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {"lr": 3e-3})
KEEP = StoreConfig(top_k=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return write_model(root / "teacher", seed=1), write_model(root / "student", seed=2, num_hidden_layers=2)


@pytest.fixture(scope="module")
def kept(models, tmp_path_factory):
    return store(models[0], samples(), tmp_path_factory.mktemp("store") / "teacher", KEEP)


def loaded(directory) -> Transformer:
    model = Transformer(ModelConfig.read(directory))
    load_weights(model, directory)
    return model.requires_grad_(False)


# --- the mathematics -------------------------------------------------------------------------------------------------

TEACHER, STUDENT = [0.5, 0.3, 0.15, 0.05], [0.4, 0.2, 0.3, 0.1]
IDS = torch.tensor([[0, 1]])


def log(values) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64).log()


def test_buckets_are_the_named_tokens_and_the_rest() -> None:
    assert buckets(log(STUDENT) + 3.0, IDS).exp().tolist()[0] == pytest.approx([0.4, 0.2, 0.4], abs=1e-12)
    everything = torch.tensor([[2, 0, 1, 3]])
    assert buckets(log(STUDENT), everything).exp().tolist()[0] == pytest.approx([0.3, 0.4, 0.2, 0.1], abs=1e-12)


def test_a_rest_too_small_for_float32_beside_one_keeps_its_digits() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0]])
    assert buckets(logits, torch.tensor([[0]]))[0, 1].item() == pytest.approx(math.log(2) - 50, abs=1e-5)


def test_divergences_by_hand() -> None:
    """Buckets are (.5 .3 .2) and (.4 .2 .4)."""
    teacher, student = buckets(log(TEACHER), IDS), buckets(log(STUDENT), IDS)
    forward = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.4)
    reverse = 0.4 * math.log(0.4 / 0.5) + 0.2 * math.log(0.2 / 0.3) + 0.4 * math.log(0.4 / 0.2)
    assert divergence(teacher, student).item() == pytest.approx(forward, abs=1e-6)
    assert divergence(teacher, student, "reverse").item() == pytest.approx(reverse, abs=1e-6)
    assert (forward, reverse) == (pytest.approx(0.09458187), pytest.approx(0.10690843))


def test_with_every_token_named_it_is_the_whole_divergence_and_with_fewer_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(30, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    for kind, (p, q) in {"forward": (teacher, student), "reverse": (student, teacher)}.items():
        theirs = kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        order = teacher.argsort(descending=True)
        found = [divergence(buckets(teacher, order[:, :k]), buckets(student, order[:, :k]), kind) for k in range(1, 10)]
        assert torch.allclose(found[-1], theirs, atol=1e-12)
        assert all((less <= more + 1e-12).all() for less, more in zip(found, found[1:], strict=False))
        assert (found[0] >= -1e-12).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_forward_gradient_by_hand(temperature) -> None:
    """Of a named token q_i - p_i, of any other q_i - q_i p_rest / q_rest; T^2 / T of it."""
    teacher = buckets(log(TEACHER), IDS)
    logits = (temperature * log(STUDENT)).requires_grad_()
    (temperature**2 * divergence(teacher, buckets(logits / temperature, IDS))).sum().backward()
    expected = [0.4 - 0.5, 0.2 - 0.3, 0.3 - 0.3 * 0.2 / 0.4, 0.1 - 0.1 * 0.2 / 0.4]
    assert logits.grad[0].tolist() == pytest.approx([temperature * value for value in expected], abs=1e-9)


def test_the_reverse_gradient_by_hand() -> None:
    """q_i (log ratio of its bucket - divergence): the derivative of sum q log(q / p) through a softmax."""
    teacher = buckets(log(TEACHER), IDS)
    logits = log(STUDENT).requires_grad_()
    found = divergence(teacher, buckets(logits, IDS), "reverse").sum()
    found.backward()
    ratios = [math.log(0.4 / 0.5), math.log(0.2 / 0.3), math.log(0.4 / 0.2), math.log(0.4 / 0.2)]
    expected = [q * (ratio - found.item()) for q, ratio in zip(STUDENT, ratios, strict=True)]
    assert logits.grad[0].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_a_student_that_agrees_costs_nothing_and_gets_no_gradient(kind) -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    ids = logits.topk(3).indices
    found = divergence(buckets(logits.detach(), ids), buckets(logits, ids), kind)
    found.sum().backward()
    assert found.abs().max() < 1e-12
    assert logits.grad.abs().max() < 1e-12


def taught() -> Taught:
    """A document of two asked and two answered tokens."""
    counted = torch.tensor([False, False, True, True])
    logprobs = torch.cat([buckets(log(TEACHER), IDS), buckets(log([0.7, 0.1, 0.1, 0.1]), IDS)]).float()
    return Taught(torch.tensor([3, 1, 2, 0]), counted, (4,), 1, ids=IDS.repeat(2, 1), logprobs=logprobs)


def test_a_prediction_is_compared_with_what_the_teacher_thought_of_that_token() -> None:
    logits = log(STUDENT).float().repeat(2, 1)
    costs = criterion(DistillConfig(), 1.0)(taught(), logits, torch.tensor([2, 3]))
    second = 0.7 * math.log(0.7 / 0.4) + 0.1 * math.log(0.1 / 0.2) + 0.2 * math.log(0.2 / 0.4)
    assert costs.tolist() == pytest.approx([0.09458187, second], abs=1e-6)
    alone = criterion(DistillConfig(), 1.0)(taught(), logits[:1], torch.tensor([3]))
    assert alone.item() == pytest.approx(second, abs=1e-6)


def test_cross_entropy_is_mixed_in_by_its_share() -> None:
    logits = log(STUDENT).float()
    cost = criterion(DistillConfig(cross_entropy=0.25), 1.0)(taught(), logits, torch.tensor([2]))
    assert cost.item() == pytest.approx(0.75 * 0.09458187 - 0.25 * math.log(0.3), abs=1e-6)
    pure = criterion(DistillConfig(cross_entropy=1.0), 1.0)(taught(), logits, torch.tensor([2]))
    assert pure.item() == pytest.approx(next_token(taught(), logits, torch.tensor([2])).item(), abs=1e-6)


# --- the store -------------------------------------------------------------------------------------------------------


def test_the_store_holds_the_teachers_likeliest_tokens_and_the_rest(models, kept) -> None:
    teacher, tokenizer = loaded(models[0]), Tokenizer.load(models[0])
    opened = Store(kept)
    assert len(opened.documents) == 12
    for index, sample in enumerate(samples()[:4]):
        prompt, answer = sample.encode(tokenizer)
        assert opened.documents[index] == (prompt, answer)
        tokens = torch.tensor([*prompt, *answer])
        p = teacher.logits(teacher(tokens, Batch.packed([len(tokens)])))[len(prompt) - 1 : -1].softmax(-1)
        ids, logprobs = opened.targets(index)
        values, order = p.topk(4)
        assert torch.equal(ids, order)
        assert torch.allclose(logprobs[:, :4].exp(), values, atol=1e-6)
        assert torch.allclose(logprobs[:, 4].exp(), 1 - values.sum(-1), atol=1e-5)


def test_shards_groups_and_rounding_change_nothing_else(models, kept, tmp_path) -> None:
    small = replace(KEEP, shard_positions=40, batch_tokens=60)
    whole, cut = Store(kept), Store(store(models[0], samples(), tmp_path / "cut", small))
    rounded = Store(store(models[0], samples(), tmp_path / "rounded", replace(KEEP, dtype="bfloat16")))
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    assert cut.documents == whole.documents == rounded.documents
    for index in range(12):
        assert torch.equal(cut.targets(index)[0], whole.targets(index)[0])
        assert torch.allclose(cut.targets(index)[1], whole.targets(index)[1], atol=1e-5)
        assert (rounded.targets(index)[1] - whole.targets(index)[1]).abs().max() < 0.05
        assert rounded.targets(index)[1].exp().sum(-1).sub(1).abs().max() < 1e-6


def test_the_stored_temperature_softens_the_rest_too(models, tmp_path) -> None:
    opened = Store(store(models[0], samples(1), tmp_path / "warm", replace(KEEP, temperature=3.0)))
    prompt, answer = opened.documents[0]
    teacher, tokens = loaded(models[0]), torch.tensor([*prompt, *answer])
    logits = teacher.logits(teacher(tokens, Batch.packed([len(tokens)])))[len(prompt) - 1 : -1]
    warm = (logits / 3.0).softmax(-1)
    ids, logprobs = opened.targets(0)
    assert torch.allclose(logprobs[:, 4].exp(), 1 - warm.gather(-1, ids).sum(-1), atol=1e-5)
    assert opened.temperature == 3.0


def test_a_store_is_made_once_and_never_mistaken_for_another(models, kept) -> None:
    before = (kept / "manifest.json").stat().st_mtime_ns
    assert store(models[0], samples(), kept, KEEP) == kept
    assert (kept / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="holds a store whose sha256"):
        store(models[0], samples(seed=5), kept, KEEP)
    with pytest.raises(ConfigError, match="holds a store whose config"):
        store(models[0], samples(), kept, replace(KEEP, top_k=5))
    with pytest.raises(InputError, match=r"holds no store\.json"):
        Store(kept.parent)


# --- the student -----------------------------------------------------------------------------------------------------


def test_the_teacher_has_nothing_to_learn_from_itself(models, kept) -> None:
    data = TaughtData(Store(kept), SETTINGS)
    model = loaded(models[0]).requires_grad_(True)
    batch = data.batch(0, 2)
    cost = criterion(SETTINGS, 1.0)
    losses = compute(model, batch, LossConfig(mtp=0.0, balance=0.0), 1, batch.rows, Routing(), cost)
    losses.total.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1e9)
    other = compute(loaded(models[0]), batch, LossConfig(mtp=0.0, balance=0.0), 1, batch.rows, Routing())
    assert losses.main < 1e-5 * other.main
    assert norm < 1e-2


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_a_smaller_student_moves_towards_the_teacher(models, kept, tmp_path, kind) -> None:
    out = distill(models[1], kept, tmp_path, replace(SETTINGS, epochs=4, divergence=kind))
    assert out == tmp_path / "model"
    losses = [e["loss"] for e in read(tmp_path) if e["event"] == "step"]
    assert losses[-1] < 0.7 * losses[0]
    data, cost = TaughtData(Store(kept), SETTINGS), criterion(SETTINGS, 1.0)
    before, after = (
        compute(loaded(path), data.batch(0, 2), LossConfig(), 1, 2, Routing(), cost) for path in (models[1], out)
    )
    assert after.main < 0.8 * before.main
    assert after.mtp < before.mtp


def test_an_interrupted_run_resumes_to_the_bit_and_another_loss_is_refused(models, kept, tmp_path, monkeypatch) -> None:
    from fathom.posttrain import distill as module

    trainers = []
    real = module.Trainer
    monkeypatch.setattr(module, "Trainer", lambda *a, **k: trainers.append(real(*a, **k)) or trainers[-1])
    whole = distill(models[1], kept, tmp_path / "whole", SETTINGS)
    stop = lambda progress: trainers[-1]._interrupt() if progress.step == 3 else None  # noqa: E731
    assert distill(models[1], kept, tmp_path / "cut", SETTINGS, stop) is None
    with pytest.raises(ConfigError, match=r"data\.divergence"):
        distill(models[1], kept, tmp_path / "cut", replace(SETTINGS, divergence="reverse"))
    resumed = distill(models[1], kept, tmp_path / "cut", SETTINGS)
    with Reader(whole) as ours, Reader(resumed) as theirs:
        assert all(torch.equal(ours.read(name), theirs.read(name)) for name in ours.tensors)


def test_another_vocabulary_is_refused(models, kept, tmp_path) -> None:
    other = write_model(tmp_path / "other")
    train_tokenizer(DataConfig(vocab_size=320, tokenizer_documents=50), seed=9).save(other)
    with pytest.raises(ConfigError, match="have different tokenizers"):
        distill(other, kept, tmp_path / "run", SETTINGS)


def test_settings_out_of_range_are_refused(models, tmp_path) -> None:
    with pytest.raises(ConfigError, match="cross_entropy is 2"):
        DistillConfig(cross_entropy=2.0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        StoreConfig(temperature=0.0)
    with pytest.raises(ConfigError, match="dtype is 'int8'"):
        StoreConfig(dtype="int8")
    with pytest.raises(ConfigError, match="top_k is 5000"):
        store(models[0], samples(1), tmp_path / "store", StoreConfig(top_k=5000))
