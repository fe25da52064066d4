"""DeepSeekMoE: routing as published, stacked experts under their checkpoint names."""

from dataclasses import replace

import pytest
import torch

from fathom.layout import Shard
from fathom.model import Routing
from fathom.model.comm import Alone
from fathom.model.layers import Storage
from fathom.model.moe import Gate, MoE
from tests.model.tiny import CONFIG
from tests.tolerances import EXPERTS_BY_LOOP


def moe(config=CONFIG):
    torch.manual_seed(0)
    module = MoE(config, Shard.whole(config), Alone(), Storage())
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3)
    return module.requires_grad_(False)


def slow_choice(scores: list[float], bias: list[float], config) -> dict[int, float]:
    """One token's experts and weights by equations 12-16, in plain Python."""
    biased = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(scores) // config.n_group
    groups = [biased[g * size : (g + 1) * size] for g in range(config.n_group)]
    best = sorted(range(config.n_group), key=lambda g: -sum(sorted(groups[g])[-2:]))[: config.topk_group]
    allowed = [e for e in range(len(scores)) if e // size in best]
    chosen = sorted(allowed, key=lambda e: -biased[e])[: config.num_experts_per_tok]
    total = sum(scores[e] for e in chosen)
    return {e: scores[e] / total * config.routed_scaling_factor for e in chosen}


@pytest.mark.parametrize("shift", [0.0, -10.0, 3.0])
def test_gate_equals_a_slow_reference(shift) -> None:
    gate = Gate(CONFIG, Storage())
    torch.manual_seed(1)
    gate.weight.data.normal_(0, 0.5)
    gate.e_score_correction_bias.normal_(shift, 0.5)
    x = torch.randn(200, 32)
    ids, weights, affinity = gate(x)
    for row in range(200):
        expected = slow_choice(affinity[row].tolist(), gate.e_score_correction_bias.tolist(), CONFIG)
        got = dict(zip(ids[row].tolist(), weights[row].tolist(), strict=True))
        assert got.keys() == expected.keys()
        assert got == pytest.approx(expected, abs=1e-6)
    assert weights.sum(-1).sub(2.5).abs().max() < 1e-5


def test_the_output_is_the_weighted_experts_plus_the_shared_ones_unscaled() -> None:
    module = moe()
    x = torch.randn(9, 32)
    ids, weights, _ = module.gate(x)
    tensors = module.experts.state_dict()
    rows = []
    for row in range(9):
        y = module.shared_experts(x[row : row + 1])[0]
        for expert, weight in zip(ids[row].tolist(), weights[row], strict=True):
            gate, up, down = (tensors[f"{expert}.{part}_proj.weight"] for part in ("gate", "up", "down"))
            y = y + weight * (down @ (torch.nn.functional.silu(gate @ x[row]) * (up @ x[row])))
        rows.append(y)
    assert (module(x, layer=1) - torch.stack(rows)).abs().max() <= EXPERTS_BY_LOOP


def test_state_dict_shows_experts_as_views_of_the_stack() -> None:
    module = moe()
    names = [name for name in module.state_dict() if name.startswith("experts.")]
    assert len(names) == 8 * 3
    module.state_dict()["experts.5.up_proj.weight"].fill_(7.0)
    assert (module.experts.gate_up[5, 1] == 7.0).all()
    assert not (module.experts.gate_up[5, 0] == 7.0).any()


def test_state_dict_round_trip_and_its_complaints() -> None:
    module, other = moe(), moe(CONFIG)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(tensors)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=r"experts\.3\.down_proj\.weight"):
        other.load_state_dict({k: v for k, v in tensors.items() if k != "experts.3.down_proj.weight"})
    with pytest.raises(RuntimeError, match=r"experts\.8\.down_proj\.weight"):
        other.load_state_dict(tensors | {"experts.8.down_proj.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="it must be"):
        other.load_state_dict(tensors | {"experts.3.down_proj.weight": torch.zeros(3, 3)})


def test_routing_records_what_was_chosen() -> None:
    module, routing = moe(), Routing()
    module(torch.randn(50, 32), 2, routing)
    assert routing.counts(8)[2].sum() == 50 * CONFIG.num_experts_per_tok


def test_a_replayed_choice_is_weighed_and_not_made() -> None:
    module, x = moe(), torch.randn(50, 32)
    own, again = Routing(), None
    expected = module(x, 2, own)
    again = Routing(replay={2: own.ids[2].flip(-1)})  # the same experts, in another order
    assert torch.allclose(module(x, 2, again), expected, atol=1e-5)
    other = Routing(replay={2: torch.tensor([[6, 1]]).expand(50, 2)})
    found = module(x, 2, other)
    assert torch.equal(other.ids[2], other.replay[2]) and not torch.allclose(found, expected, atol=1e-3)
    assert torch.equal(module(x, 1, other), expected), "another layer's replay is not this one's"


def test_v2_routing_has_no_bias_and_no_normalising() -> None:
    v2 = {"scoring_func": "softmax", "topk_method": "group_limited_greedy", "norm_topk_prob": False}
    config = replace(CONFIG, **v2, routed_scaling_factor=16.0)
    gate = Gate(config, Storage())
    gate.weight.data.normal_(0, 0.5)
    _, weights, affinity = gate(torch.randn(20, 32))
    assert gate.e_score_correction_bias is None
    assert torch.allclose(affinity.sum(-1), torch.ones(20))
    assert (weights.sum(-1) < 16.0).all()
