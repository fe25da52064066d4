"""Which row predicts which token, and the balance loss at its known points."""

import pytest
import torch

from fathom.model import Batch, Routing
from fathom.train.loss import LossConfig, balance_loss, compute, predictions
from fathom.train.packing import Packed
from tests.model.tiny import CONFIG, model


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_predictions_stay_inside_their_document(ahead) -> None:
    lengths = [1, 5, 2, 9, 3]
    tokens = torch.arange(100, 100 + sum(lengths))
    counted = torch.rand(len(tokens), generator=torch.Generator().manual_seed(0)) < 0.6
    last = torch.tensor(lengths).cumsum(0) - 1
    expected = []
    start = 0
    for n in lengths:  # by hand: row i of a document predicts token i + ahead of the same document
        expected += [(start + i, 100 + start + i + ahead) for i in range(n - ahead) if counted[start + i + ahead]]
        start += n
    rows, targets = predictions(tokens, counted, last, ahead)
    assert list(zip(rows.tolist(), targets.tolist(), strict=True)) == expected


def even_routing(rows: int, tokens: int, experts: int, top_k: int) -> Routing:
    routing = Routing()
    ids = (torch.arange(rows * tokens * top_k) % experts).view(-1, top_k)
    routing.add(1, ids, torch.full((rows * tokens, experts), 0.5, requires_grad=True))
    return routing


def test_balance_loss_is_one_per_row_and_layer_when_balanced() -> None:
    assert balance_loss(even_routing(3, 8, 8, 2), rows=3, top_k=2).item() == pytest.approx(3.0, abs=1e-6)


def test_balance_loss_is_experts_over_k_when_one_expert_takes_all_affinity() -> None:
    affinity = torch.zeros(8, 4)
    affinity[:, 2] = 1.0
    routing = Routing()
    routing.add(1, torch.full((8, 1), 2), affinity)
    assert balance_loss(routing, rows=1, top_k=1).item() == pytest.approx(4.0)


def test_balance_loss_of_unequal_rows_is_the_sum_of_each_row_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    affinity = torch.rand(12, 4, generator=generator)
    ids = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(12)])
    together, alone = Routing(), 0.0
    together.add(1, ids, affinity)
    for rows in (slice(0, 3), slice(3, 8), slice(8, 12)):
        routing = Routing()
        routing.add(1, ids[rows], affinity[rows])
        alone += balance_loss(routing, 1, 2).item()
    assert balance_loss(together, (3, 5, 4), 2).item() == pytest.approx(alone, rel=1e-6)


def test_balance_gradient_pushes_affinity_off_the_busy_expert() -> None:
    affinity = torch.full((8, 4), 0.5, requires_grad=True)
    routing = Routing()
    routing.add(1, torch.full((8, 1), 2), affinity)
    balance_loss(routing, rows=1, top_k=1).backward()
    assert (affinity.grad[:, 2] > 0).all()
    assert (affinity.grad[:, [0, 1, 3]] < 0).all()


def packed(lengths=(7, 9)):
    torch.manual_seed(3)
    tokens = torch.randint(0, CONFIG.vocab_size, (sum(lengths),))
    counted = torch.arange(sum(lengths)) % 3 > 0
    return Packed(tokens, counted, lengths, rows=2 if lengths == (8, 8) else 1)


def test_the_parts_equal_a_loop_over_documents() -> None:
    whole, data = model(), packed()
    losses = compute(whole, data, LossConfig(mtp=0.3, balance=0.0), 1, 1, Routing())
    main = mtp = 0.0
    for tokens, counted in zip(data.tokens.split(data.lengths), data.counted.split(data.lengths), strict=True):
        hidden = whole(tokens, Batch.packed([len(tokens)]))
        logp = whole.logits(hidden).log_softmax(-1)
        main -= sum(logp[i, tokens[i + 1]].item() for i in range(len(tokens) - 1) if counted[i + 1])
        following = torch.cat((tokens[1:], tokens[:1]))  # the last row's is never used
        logp = whole.logits(whole.predict_ahead(hidden, following, Batch.packed([len(tokens)]))).log_softmax(-1)
        mtp -= sum(logp[i, tokens[i + 2]].item() for i in range(len(tokens) - 2) if counted[i + 2])
    assert losses.main == pytest.approx(main, rel=1e-5)
    assert losses.mtp == pytest.approx(mtp, rel=1e-5)
    assert losses.total.item() == pytest.approx(main + 0.3 * mtp, rel=1e-5)


def test_guesses_in_a_row_are_what_drafting_from_every_place_would_give() -> None:
    whole, data = model(), packed((5, 8, 6))
    losses = compute(whole, data, LossConfig(mtp=1.0, balance=0.0, mtp_depth=3), 1, 1, Routing())
    mtp = 0.0
    for tokens, counted in zip(data.tokens.split(data.lengths), data.counted.split(data.lengths), strict=True):
        batch, count = Batch.packed([len(tokens)]), len(tokens)
        following = torch.cat((tokens[1:], tokens[:1]))  # the last row's is never used
        before = hidden = whole(tokens, batch)
        for _ in range(3):
            after = whole.predict_ahead(before, following, batch)
            logp = whole.logits(after).log_softmax(-1)
            mtp -= sum(logp[i, tokens[i + 2]].item() for i in range(count - 2) if counted[i + 2]) / 3
            before = torch.stack([hidden[0], *(after[i] for i in range(count - 1))])
    assert losses.mtp == pytest.approx(mtp, rel=1e-5)
    assert losses.total.item() == pytest.approx(losses.main + mtp, rel=1e-5)


def test_one_guess_counts_as_it_did_and_the_balance_is_that_of_the_first() -> None:
    routings = Routing(), Routing()
    one, two = (
        compute(model(), packed(), LossConfig(mtp_depth=depth), 1, 1, routing)
        for depth, routing in zip((1, 2), routings, strict=True)
    )
    assert one.balance == two.balance and one.mtp_correct == two.mtp_correct and one.mtp != two.mtp
    assert all((routings[0].ids[layer] == routings[1].ids[layer]).all() for layer in routings[0].ids)


def test_mtp_can_be_left_out() -> None:
    losses = compute(model(), packed(), LossConfig(mtp=0.0), 1, 1, Routing())
    assert losses.mtp == 0.0
