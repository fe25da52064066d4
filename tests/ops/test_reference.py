"""The reference against the plainest thing there is: loops over Python numbers, written from the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fathom.ops import reference
from tests.ops.cases import LENGTHS, ROUTE, TABLE, cases, pages, randn, rng
from tests.tolerances import REFERENCE_BY_LOOPS, SLOPES


def far(ours: Tensor, theirs: Tensor | list) -> float:
    """Largest difference, against the largest value or 1."""
    theirs = torch.as_tensor(theirs, dtype=torch.float64)
    return ((ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1.0)).item()


def test_rms_norm_by_hand() -> None:
    x, weight = randn(1, 3, 20), randn(2, 20)
    slow = []
    for row in x.tolist():
        root = math.sqrt(sum(v * v for v in row) / 20 + 1e-6)
        slow.append([v / root * w for v, w in zip(row, weight.tolist(), strict=True)])
    assert far(reference.rms_norm(x, weight, 1e-6), slow) <= REFERENCE_BY_LOOPS
    assert reference.rms_norm(x.bfloat16(), weight, 1e-6).dtype == torch.bfloat16


def test_rotate_is_complex_multiplication() -> None:
    x, angle = randn(1, 4, 3, 8), randn(2, 4, 4)
    unit = torch.polar(torch.ones(4, 4).double(), angle.double())
    turned = torch.view_as_complex(x.double().unflatten(-1, (4, 2))) * unit[:, None]
    ours = reference.rotate(x, angle.cos(), angle.sin())
    assert far(ours, torch.view_as_real(turned).flatten(-2)) <= REFERENCE_BY_LOOPS


def slow_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """One sequence; q are its last tokens. Query by query, head by head, key by key."""
    out = torch.zeros(len(q), q.shape[1], v.shape[2], dtype=torch.float64)
    for i in range(len(q)):
        for head in range(q.shape[1]):
            seen = len(k) - len(q) + i + 1
            pairs = [zip(q[i, head].tolist(), k[j, head].tolist(), strict=True) for j in range(seen)]
            score = [math.exp(sum(a * b for a, b in pair) * scale) for pair in pairs]
            for j in range(seen):
                out[i, head] += score[j] / sum(score) * v[j, head].double()
    return out


@pytest.mark.parametrize(
    ("query_lengths", "key_lengths"),
    [((3, 1, 5), (3, 1, 5)), ((1, 1), (7, 1)), ((2, 4, 1), (9, 4, 3)), ((33, 2), (33, 2)), ((1,), (1,))],
    ids=["whole", "one query", "chunks", "two widths", "one token"],
)
def test_attention_is_each_sequence_alone(query_lengths: tuple, key_lengths: tuple) -> None:
    q, k = randn(1, sum(query_lengths), 2, 6), randn(2, sum(key_lengths), 2, 6)
    v = randn(3, sum(key_lengths), 2, 4)
    ours = reference.attention(q, k, v, query_lengths, key_lengths, 0.4)
    parts = zip(q.split(query_lengths), k.split(key_lengths), v.split(key_lengths), strict=True)
    assert far(ours, torch.cat([slow_attention(*part, 0.4) for part in parts])) <= REFERENCE_BY_LOOPS


def test_absorbed_attention_equals_expanded() -> None:
    """Latents and projections drawn at random: scores in latent space are the scores of the keys they expand to."""
    latent, rope = pages(torch.float32)
    w_uk, w_uv = randn(1, 5, 16, 40) / 6, randn(2, 5, 10, 40) / 6
    q_nope, q_rope = randn(3, 3, 5, 16), randn(4, 3, 5, 12)
    absorbed = reference.mla_decode(
        torch.einsum("thn,hnl->thl", q_nope, w_uk), q_rope, latent, rope, TABLE, LENGTHS, 0.2
    )
    keys, turned = reference.gather_latent(latent, rope, TABLE, LENGTHS)
    k = torch.cat((torch.einsum("tl,hnl->thn", keys, w_uk), turned[:, None].expand(-1, 5, -1)), dim=-1)
    v = torch.einsum("tl,hvl->thv", keys, w_uv)
    expanded = reference.attention(torch.cat((q_nope, q_rope), dim=-1), k, v, (1, 1, 1), LENGTHS, 0.2)
    assert far(torch.einsum("thl,hvl->thv", absorbed, w_uv), expanded) <= REFERENCE_BY_LOOPS


def test_what_is_appended_is_gathered() -> None:
    held = pages(torch.float32)
    table, lengths = torch.tensor([[4, 2], [9, 0]], dtype=torch.int32), (11, 3)
    slots = torch.tensor([4 * 8 + i for i in range(8)] + [2 * 8 + i for i in range(3)] + [9 * 8 + i for i in range(3)])
    latent, rope = randn(1, 14, 40), randn(2, 14, 12)
    reference.append_latent(*held, latent, rope, slots)
    found = reference.gather_latent(*held, table, lengths)
    assert torch.equal(found[0], latent) and torch.equal(found[1], rope)
    untouched = [page for page in range(12) if page not in (2, 4, 9)]
    assert torch.equal(held[0][untouched], pages(torch.float32)[0][untouched])


def slow_route(affinity: list[float], bias: list[float], group_score: str, rule: dict) -> tuple[list[int], list[float]]:
    """One token: equations 12-16 of DeepSeek-V3 with lists and sorts."""
    score = torch.tensor(affinity).add(torch.tensor(bias)).tolist()  # in float32, where ties are made
    held = len(score) // rule["n_group"]
    best = {}
    for group in range(rule["n_group"]):
        ranked = sorted(score[group * held : (group + 1) * held], reverse=True)
        best[group] = torch.tensor(ranked[:2]).sum().item() if group_score == "top2" else ranked[0]
    kept = sorted(best, key=lambda group: (-best[group], group))[: rule["topk_group"]]
    allowed = [e for e in range(len(score)) if e // held in kept]
    ids = sorted(allowed, key=lambda e: (-score[e], e))[: rule["top_k"]]
    total = sum(affinity[e] for e in ids) if rule["normalise"] else 1.0
    return ids, [affinity[e] / total * rule["scaling"] for e in ids]


@pytest.mark.parametrize("group_score", ["top2", "max"])
@pytest.mark.parametrize("kind", ["random", "all negative", "one very negative", "ties", "no normalising"])
def test_route_by_hand(kind: str, group_score: str) -> None:
    affinity, bias = torch.rand(50, 16, generator=rng(1)), randn(2, 16) / 4
    rule = ROUTE | {"group_score": group_score, "normalise": kind != "no normalising"}
    if kind == "all negative":
        bias = -3.0 - torch.rand(16, generator=rng(3))
    elif kind == "one very negative":
        bias[5] = -1e4
    elif kind == "ties":  # equal experts inside a group; groups stay apart, as torch does not say which of two it keeps
        affinity = affinity.mul(3).ceil() / 3
        bias = torch.arange(4.0).repeat_interleave(4)
    ids, weights = reference.route(affinity, bias, **rule)
    for token in range(50):
        slow_ids, slow_weights = slow_route(affinity[token].tolist(), bias.tolist(), group_score, rule)
        assert ids[token].tolist() == slow_ids
        assert far(weights[token], slow_weights) <= REFERENCE_BY_LOOPS


def test_the_bias_routes_and_never_weighs() -> None:
    affinity, bias = torch.rand(50, 16, generator=rng(1)), randn(2, 16) / 4
    ids, weights = reference.route(affinity, bias, **ROUTE)
    moved_ids, moved = reference.route(affinity, bias + torch.randn(16, generator=rng(3)) / 20, **ROUTE)
    same = (ids == moved_ids).all(-1)
    assert 5 < same.sum() < 50, "some selections must change and some must not, or this shows nothing"
    assert torch.equal(weights[same], moved[same])


def test_given_experts_are_only_weighed() -> None:
    affinity, bias = torch.rand(50, 16, generator=rng(1)), randn(2, 16) / 4
    ids, weights = reference.route(affinity, bias, **ROUTE)
    same_ids, same = reference.route(affinity, bias, **ROUTE, ids=ids)
    assert same_ids is ids and torch.equal(same, weights)
    other = (ids + 1) % 16
    _, moved = reference.route(affinity, bias, **ROUTE, ids=other)
    picked = affinity.gather(-1, other)
    assert far(moved, picked / picked.sum(-1, keepdim=True) * ROUTE["scaling"]) <= REFERENCE_BY_LOOPS


def test_every_token_meets_its_own_experts() -> None:
    (x, ids, weights, gate_up, down), _ = cases(torch.float32)["experts"]
    slow = torch.zeros(x.shape, dtype=torch.float64)
    for token in range(len(x)):
        for slot, e in enumerate(ids[token].tolist()):
            if 0 <= e < len(gate_up):
                row = x[token].double()
                gate, up = gate_up[e, 0].double() @ row, gate_up[e, 1].double() @ row
                slow[token] += weights[token, slot].double() * (down[e].double() @ (gate / (1 + (-gate).exp()) * up))
    assert far(reference.experts(x, ids, weights, gate_up, down), slow) <= REFERENCE_BY_LOOPS


def test_experts_of_other_ranks_alone_add_nothing() -> None:
    (x, _, weights, gate_up, down), _ = cases(torch.float32)["experts"]
    foreign = torch.tensor([-3, 6, 99]).expand(7, 3)
    assert torch.equal(reference.experts(x, foreign, weights, gate_up, down), torch.zeros_like(x))


def test_cross_entropy_by_hand() -> None:
    (logits, targets), _ = cases(torch.float32)["cross_entropy"]
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    slow = [math.log(sum(math.exp(v) for v in row)) - row[target] for row, target in rows]
    assert far(reference.cross_entropy(logits, targets), slow) <= REFERENCE_BY_LOOPS


def test_swiglu_by_hand() -> None:
    gate, up = randn(1, 4, 6) * 5, randn(2, 4, 6)
    pairs = zip(gate.flatten().tolist(), up.flatten().tolist(), strict=True)
    slow = [g / (1 + math.exp(-g)) * u for g, u in pairs]
    assert far(reference.swiglu(gate, up).flatten(), slow) <= REFERENCE_BY_LOOPS


@pytest.mark.parametrize("shape", [(128, 128), (576, 200), (130, 576), (1, 1)])
def test_a_ragged_e4m3_weight_is_its_padded_one_cut(shape: tuple[int, int]) -> None:
    """576 = 4.5 blocks: V3's kv_a_proj_with_mqa has 512 + 64 rows."""
    rows, columns = shape
    grid = -(-rows // 128), -(-columns // 128)
    weight, scale = randn(1, *shape).to(torch.float8_e4m3fn), torch.rand(*grid, generator=rng(2)) + 0.5
    padded = torch.zeros(grid[0] * 128, grid[1] * 128)
    padded[:rows, :columns] = weight.float()
    blocks = padded.view(grid[0], 128, grid[1], 128) * scale[:, None, :, None]
    dense = blocks.view(padded.shape)[:rows, :columns]
    x = randn(3, 4, columns)
    assert torch.equal(reference.dequantise(weight, scale, torch.float32), dense)
    assert torch.equal(reference.linear(x, weight, scale), reference.linear(x, dense))


@pytest.mark.parametrize("op", ["experts", "attention", "rms_norm", "linear", "rotate", "swiglu", "cross_entropy"])
def test_gradients_are_the_slopes(op: str) -> None:
    """A step along a random direction changes the result as the gradient says. The ops compute in float32, so the step
    is a thousandth and the difference central: too coarse for gradcheck, fine for a wrong sign, row or factor."""
    arguments, named = cases(torch.float32)[op]
    answer = getattr(reference, op)
    inputs = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()]
    held = [a.clone().requires_grad_() if i in inputs else a for i, a in enumerate(arguments)]
    y = answer(*held, **named)
    pull = randn(31, *y.shape)
    (y * pull).sum().backward()
    for i in inputs:
        way = randn(40 + i, *held[i].shape)
        ends = []
        for step in (1e-3, -1e-3):
            moved = [a + step * way if j == i else a for j, a in enumerate(arguments)]
            ends.append(answer(*moved, **named).double())
        slope = ((ends[0] - ends[1]) * pull).sum() / 2e-3
        expected = (held[i].grad.double() * way).sum()
        size = (held[i].grad.double() * way).square().sum().sqrt()
        assert abs(slope - expected) <= SLOPES * size.clamp(min=1.0), f"argument {i} of {op}"
