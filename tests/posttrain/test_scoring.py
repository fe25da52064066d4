"""Scoring: the kernels' numbers are the engine's to the bit, torch's derivative is the model's."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
import torch

from fathom import ops
from fathom.model import Batch, Routing, Transformer, init_weights
from fathom.posttrain.scoring import Twin, batches, computed, lay, mtp_loss, replayed
from tests.posttrain.grpo_tiny import tiny
from tests.tolerances import PACKED_EQUALS_MODEL


@dataclass(frozen=True)
class Given:
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


def texts(count: int = 7, seed: int = 1) -> list[Given]:
    rng = Random(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(tiny().config.vocab_size) for _ in range(rng.randint(low, high)))

    return [Given(some(2, 20), some(1, 30)) for _ in range(count)]


def twin() -> Twin:
    return Twin(tiny().config, tiny().state_dict(), 1)


def test_laid_rows_predict_the_answers() -> None:
    given = texts()
    laid = lay(given)
    assert laid.targets.tolist() == [i for text in given for i in text.token_ids]
    assert laid.tokens[laid.rows + 1].tolist() == laid.targets.tolist()
    assert laid.tokens[laid.answered].tolist() == laid.targets.tolist()
    assert sum(laid.lengths) == len(laid.tokens) and laid.counts == [len(text.token_ids) for text in given]


def test_batches_hold_everything_once_and_not_too_much() -> None:
    given = texts(40)
    found = list(batches(given, 80))
    assert sorted(i for members in found for i in members) == list(range(40))
    for members in found:
        size = sum(len(given[i].prompt_ids) + len(given[i].token_ids) for i in members)
        assert size <= 80 or len(members) == 1


def test_scores_do_not_depend_on_company() -> None:
    given = texts()
    together = twin().score(given)
    for text, scored in zip(given, together, strict=True):
        alone = twin().score([text])[0]
        assert torch.equal(alone.plain, scored.plain) and torch.equal(alone.policy, scored.policy)
        assert all(torch.equal(alone.experts[layer], ids) for layer, ids in scored.experts.items())


def test_scores_are_the_models() -> None:
    given = texts()
    for temperature in (1.0, 0.7):
        scored = twin().score(given, temperature)
        for text, one in zip(given, scored, strict=True):
            ids = torch.tensor([*text.prompt_ids, *text.token_ids])
            with torch.no_grad():
                logits = tiny().logits(tiny()(ids, Batch.packed([len(ids)])))[len(text.prompt_ids) - 1 : -1].double()
            targets = torch.tensor(text.token_ids)[:, None]
            expected = (logits / temperature).log_softmax(-1).gather(1, targets)[:, 0]
            assert torch.allclose(one.policy, expected, atol=20 * PACKED_EQUALS_MODEL)
            if temperature == 1.0:
                assert torch.equal(one.plain, one.policy)


def test_a_twin_keeps_the_weights_it_took() -> None:
    other = init_weights(Transformer(tiny().config), std=0.1, seed=2)
    one = twin()
    before = one.score(texts())
    assert all(torch.equal(tensor, tiny().state_dict()[name]) for name, tensor in one.tensors().items())
    one.take(other.state_dict())
    assert not torch.equal(one.score(texts())[0].plain, before[0].plain)
    assert torch.equal(one.score(texts())[0].plain, Twin(other.config, other.state_dict(), 1).score(texts())[0].plain)
    one.take(tiny().state_dict())
    assert all(torch.equal(a.plain, b.plain) for a, b in zip(one.score(texts()), before, strict=True))


def test_without_kernels_a_second_transformer_serves() -> None:
    with ops.use("reference"):
        plain = twin()
    assert not plain.exact and plain.score(texts())[0].experts == {}
    for one, other in zip(plain.score(texts()), twin().score(texts()), strict=True):
        assert torch.allclose(one.plain, other.plain, atol=20 * PACKED_EQUALS_MODEL)


def test_replay_makes_torch_take_the_kernels_experts() -> None:
    given = texts()
    scored = twin().score(given)
    routing = replayed(scored, torch.device("cpu"))
    assert set(routing.replay) == {1, 2}  # every MoE layer of the trunk
    own = Routing()
    plain, _ = computed(tiny(), lay(given), 1.0, own)
    again, _ = computed(tiny(), lay(given), 1.0, routing)
    for layer, ids in routing.replay.items():
        assert torch.equal(own.ids[layer].sort(-1).values, ids.sort(-1).values), "near ties apart, they choose alike"
        assert torch.equal(routing.ids[layer], ids)
    assert torch.allclose(plain, again, atol=20 * PACKED_EQUALS_MODEL)


def test_replay_wins_over_the_routers_choice() -> None:
    given = texts(2)
    length = sum(len(t.prompt_ids) + len(t.token_ids) for t in given)
    forced = {layer: torch.tensor([[6, 7]]).expand(length, 2) for layer in (1, 2)}
    routing = Routing(replay=forced)
    found, _ = computed(tiny(), lay(given), 1.0, routing)
    own, _ = computed(tiny(), lay(given), 1.0)
    assert torch.equal(routing.ids[1], forced[1]) and not torch.allclose(found, own, atol=1e-3)


def test_the_derivative_is_that_of_cross_entropy() -> None:
    given, model = texts(3), tiny()
    model.zero_grad()
    found, _ = computed(model, lay(given), 0.5)
    found.sum().backward()
    got = model.lm_head.weight.grad.clone()
    model.zero_grad()
    for text in given:
        ids = torch.tensor([*text.prompt_ids, *text.token_ids])
        logits = model.logits(model(ids, Batch.packed([len(ids)])))[len(text.prompt_ids) - 1 : -1]
        torch.nn.functional.cross_entropy(logits / 0.5, torch.tensor(text.token_ids), reduction="sum").neg().backward()
    assert torch.allclose(got, model.lm_head.weight.grad, atol=1e-4)
    model.zero_grad()


def test_the_mtp_loss_moves_the_module_alone() -> None:
    given, model = texts(), tiny()
    model.zero_grad()
    laid = lay(given)
    _, hidden = computed(model, laid, 1.0)
    loss, count = mtp_loss(model, hidden, laid)
    loss.backward()
    assert count == sum(len(text.token_ids) for text in given)
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved and all(name.startswith("model.layers.3.") for name in moved)
    model.zero_grad()


def test_the_mtp_loss_is_the_engines_view_of_the_module() -> None:
    """The same number as from predict_ahead, by hand."""
    given, model = texts(1), tiny()
    laid = lay(given)
    with torch.no_grad():
        hidden = model(laid.tokens, Batch.packed(laid.lengths))
        ahead = model.predict_ahead(hidden, laid.tokens.roll(-1), Batch.packed(laid.lengths))
        logprobs = model.logits(ahead).log_softmax(-1)
        begin, end = len(given[0].prompt_ids), len(laid.tokens)
        expected = -sum(float(logprobs[t - 2, laid.tokens[t]]) for t in range(max(2, begin), end))
        found, _ = mtp_loss(model, hidden, laid)
    assert found.item() == pytest.approx(expected, rel=1e-5)
