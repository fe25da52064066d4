"""The packed model against the plain one, and every way in which a token might notice its company."""

from __future__ import annotations

from array import array
from random import Random

import pytest
import torch

from fathom.checkpoint.pack import own_part
from fathom.layout import Layout, Shard
from fathom.layout.rows import here, owned
from fathom.model import Batch, LatentCache, PackedTransformer, Routing, Transformer
from fathom.model.rope import Rotary
from fathom.ops.cpu import build
from fathom.ops.cpu.native import Library, NativeModel
from fathom.ops.packed import Weights
from fathom.ops.packing import pack, unpack
from fathom.parallel.comm import Ranks
from fathom.parallel.groups import Groups
from tests.model.packing import open_model, pack_model
from tests.model.tiny import CONFIG, model
from tests.parallel.threads import World, in_memory
from tests.tolerances import PACKED_EQUALS_MODEL, ROUNDED_ACTIVATIONS

__all__ = ["in_memory"]

pytestmark = pytest.mark.usefixtures("native")
KINDS = ["f32", "bf16", "f8", "i8", "i4"]
VARIANTS = {
    "v3": {},
    "without query latents": {"q_lora_rank": None},
    "softmax, greedy, one shared": {
        "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
        "norm_topk_prob": False,
    },
    "groups by their best": {"scoring_func": "softmax", "topk_method": "group_limited_greedy"},
    "no shared experts": {"n_shared_experts": None},
}  # fmt: skip
LENGTHS = [37, 1, 90, 16]


def batch_of(lengths: list[int], contexts: list[int], page_tokens: int) -> Batch:
    tables, page = [], 0
    for length, context in zip(lengths, contexts, strict=True):
        count = -(-(length + context) // page_tokens)
        tables.append(list(range(page, page + count)))
        page += count
    return Batch.paged(lengths, contexts, tables, page_tokens)


def tokens_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def with_weights_of(plain: Transformer, kind: str) -> Transformer:
    """`plain` with each projection as its packed form stands for it."""
    config = plain.config
    for name, module in plain.named_modules():
        if hasattr(module, "gate_up"):
            for matrix in (*module.gate_up.data.flatten(0, 1), *module.down.data):
                matrix.copy_(unpack(pack(matrix, kind)))
        elif name.endswith("kv_b_proj"):  # packed per head, the keys' half turned over
            for head in module.weight.data.unflatten(0, (config.num_attention_heads, -1)):
                keys, values = head.split([config.qk_nope_head_dim, config.v_head_dim])
                keys.copy_(unpack(pack(keys.T, kind)).T)
                values.copy_(unpack(pack(values, kind)))
        elif type(module).__name__ == "Linear":
            module.weight.data.copy_(unpack(pack(module.weight.data, kind)))
    return plain


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_and_logits_are_the_plain_models(variant: str, kind: str) -> None:
    plain = model(**VARIANTS[variant])
    packed = open_model(plain, kind, threads=2)
    with torch.inference_mode():
        plain = with_weights_of(plain, kind)
        tokens, batch = tokens_of(sum(LENGTHS)), batch_of(LENGTHS, [0] * 4, 16)
        packed.compute_dtype = torch.float32
        caches = [LatentCache(plain.config, 16, 16, mtp=True) for _ in range(2)]
        ours, theirs = packed(tokens, batch, caches[0]), plain(tokens, batch, caches[1])
        assert (ours - theirs).abs().max() <= PACKED_EQUALS_MODEL * theirs.abs().max()
        logits = packed.logits(ours), plain.logits(theirs)
        assert (logits[0] - logits[1]).abs().max() <= PACKED_EQUALS_MODEL * logits[1].abs().max()
        following = tokens_of(len(tokens), seed=1)
        ahead = packed.predict_ahead(ours, following, batch, caches[0])
        expected = plain.predict_ahead(theirs, following, batch, caches[1])
        assert (ahead - expected).abs().max() <= PACKED_EQUALS_MODEL * expected.abs().max()
    for mine, other in zip((caches[0].latent, caches[0].rope), (caches[1].latent, caches[1].rope), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_instruction_sets_that_fuse_agree_to_the_bit(kind: str, native: Library) -> None:
    """Products, attention over a cache of this kind, routing: the whole model, some of it one token at a time."""
    plain, states = model(), []
    packed = open_model(plain, kind, threads=2)
    weights, turn = pack_model(plain, kind), Rotary(CONFIG)(torch.arange(CONFIG.max_position_embeddings))
    for name in build.variants():
        if name == "generic":
            continue  # plain C may not fuse a product with its sum
        try:
            packed.kernels = NativeModel(CONFIG, weights, turn, 2, Library(native.path, name))
        except build.Unavailable:
            continue
        cache = LatentCache(CONFIG, 12, 16, dtype=packed.compute_dtype, mtp=True)
        states.append([packed(tokens_of(150), batch_of([90, 60], [0, 0], 16), cache)])
        for step in range(3):
            tokens = tokens_of(2, seed=step)
            states[-1].append(packed(tokens, batch_of([1, 1], [90 + step, 60 + step], 16), cache))
    for other in states[1:]:
        assert all(map(torch.equal, other, states[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_has_the_same_bits_in_any_company(kind: str) -> None:
    """One sequence at once, and again in random chunks, beside others, on other pages, by other teams."""
    plain, rng = model(), Random(5)
    single = open_model(plain, kind)
    weights = single.compute_dtype
    tokens = tokens_of(90)
    whole = LatentCache(CONFIG, 6, 16, dtype=weights, mtp=True)
    alone = single(tokens, batch_of([90], [0], 16), whole)
    ahead = single.predict_ahead(alone, tokens_of(90, seed=2), batch_of([90], [0], 16), whole)
    logits = torch.cat([single.logits(row[None]) for row in alone])
    assert torch.equal(single.logits(alone), logits)
    for threads in (1, 2, 3):
        packed, page = open_model(plain, kind, threads), rng.choice([1, 5, 16])
        cache, seen, more = LatentCache(CONFIG, 300, page, dtype=weights, mtp=True), [], []
        done, other = 0, 0
        while done < 90:
            step, beside = min(rng.choice([1, 2, 3, 17, 40]), 90 - done), rng.randint(1, 9)
            pages = [list(range(100)), list(range(100, 200))]
            batch = Batch.paged([beside, step], [other, done], pages, page)
            hidden = packed(torch.cat((tokens_of(beside, seed=done), tokens[done : done + step])), batch, cache)
            seen.append(hidden[beside:])
            following = torch.cat((tokens_of(beside), tokens_of(90, seed=2)[done : done + step]))
            more.append(packed.predict_ahead(hidden, following, batch, cache)[beside:])
            done, other = done + step, other + beside
        assert torch.equal(torch.cat(seen), alone)
        assert torch.equal(torch.cat(more), ahead)


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_only_the_rounding_of_activations_parts_a_quantised_model_from_its_weights(kind: str) -> None:
    packed, plain = open_model(model(), kind), with_weights_of(model(), kind)
    tokens, batch = tokens_of(60), batch_of([60], [0], 16)
    packed.compute_dtype = torch.float32
    with torch.inference_mode():
        exact = plain(tokens, batch, LatentCache(CONFIG, 4, 16))
    ours = packed(tokens, batch, LatentCache(CONFIG, 4, 16))
    apart = (ours - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert apart.median() <= ROUNDED_ACTIVATIONS  # the median: an expert chosen otherwise moves single tokens far


def test_what_lies_past_a_sequence_is_never_read() -> None:
    packed = open_model(model(), "f32")
    tokens, batch = tokens_of(13), Batch.paged([13], [0], [[2, 0]], 8)
    clean = packed(tokens, batch, LatentCache(CONFIG, 3, 8))
    dirty = LatentCache(CONFIG, 3, 8)
    dirty.latent.fill_(torch.nan)
    dirty.rope.fill_(torch.inf)
    assert torch.equal(packed(tokens, batch, dirty), clean)


@pytest.mark.parametrize("what", ["id", "negative id", "page", "negative page", "position"])
def test_nothing_outside_the_model_or_its_cache_is_touched(what: str) -> None:
    packed = open_model(model(), "f32", threads=2)
    tokens, pages, context = tokens_of(3), [[0, 1]], 0
    if what.endswith("id"):
        tokens[1] = -1 if what == "negative id" else CONFIG.vocab_size
    elif what.endswith("page"):
        pages = [[-1, 0]] if what == "negative page" else [[2, 0]]
    else:
        context = 256  # the last position is 255
        pages = [[0] * 40]
    cache = LatentCache(CONFIG, 2, 8)
    with pytest.raises(IndexError, match="outside"):
        packed(tokens, Batch.paged([3], [context], pages, 8), cache)
    assert not cache.latent.any() and not cache.rope.any()


def test_whole_sequences_need_no_cache() -> None:
    packed = open_model(model(), "f32")
    tokens = tokens_of(30)
    apart = torch.cat([packed(part, Batch.packed([len(part)])) for part in tokens.split([7, 23])])
    assert torch.equal(packed(tokens, Batch.packed([7, 23])), apart)


def test_it_says_what_it_is() -> None:
    packed = open_model(model(), "i4")
    assert (packed.kind, packed.compute_dtype, packed.mtp_modules) == ("i4", torch.bfloat16, 1)
    assert packed.weight_bytes == sum(w.nbytes for w in pack_model(model(), "i4").values())
    assert packed.kernels.space_bytes(64) < packed.kernels.space_bytes(512)
    without = open_model(model(num_nextn_predict_layers=0), "f32")
    assert (without.mtp_modules, without.compute_dtype) == (0, torch.float32)


# --- among several ranks ---------------------------------------------------------------------------------------------


def part_of(weights: Weights, shard: Shard) -> Weights:
    """What a rank owns, cut from the whole."""
    own = {name: owned(name, shard) for name in weights if here(name, shard, {})}
    return {
        name: weights[name] if part is None else own_part(weights[name], part) for name, part in own.items()
    }  # fmt: skip


LANES = [[37, 1, 20], [], [5], [1, 1]]  # new tokens of each sequence; the second lane is idle
LAYOUTS = [
    Layout(tp=2), Layout(tp=4), Layout(tp=2, ep=2), Layout(tp=4, ep=4), Layout(dp=2, ep=2), Layout(dp=4, tp=2, ep=8),
    Layout(dp=2, tp=2, ep=2), Layout(dp=2), Layout(pp=2), Layout(pp=3, tp=2, ep=2), Layout(pp=2, dp=2, tp=2, ep=4),
]  # fmt: skip


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize("kind", ["f32", "i8"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_model_divided_among_ranks_is_the_whole_to_the_bit(layout: Layout, kind: str) -> None:
    """Hidden states, logits, guesses and cache of every lane; one of them has nothing to do but its part for others."""
    plain = model()
    weights, whole = pack_model(plain, kind), open_model(plain, kind)
    lanes = [LANES[lane % 4] for lane in range(layout.dp)]

    def forward(one: PackedTransformer, lengths: list[int]) -> list[torch.Tensor]:
        cache, tokens = one.new_cache(9, 16, mtp=True), tokens_of(sum(lengths))
        batch, rows = batch_of(lengths, [0] * len(lengths), 16), array("q", [0, sum(lengths) - 1])
        held = [*one.shard.layers, *one.shard.mtp_layers]
        if not one.shard.has_head:
            one(tokens, batch, cache)
            return [torch.tensor(held), cache.latent, cache.rope]
        hidden, logits, _ = one.answer(tokens, batch, cache, rows)
        ahead, guesses, _ = one.answer_ahead(hidden, tokens_of(len(tokens), seed=1), batch, cache, 0, rows)
        return [torch.tensor(held), cache.latent, cache.rope, hidden, logits, ahead, guesses]

    def work(rank: int, groups: Groups) -> list[torch.Tensor] | None:
        shard = Shard(CONFIG, layout, rank)
        part = PackedTransformer.open(CONFIG, part_of(weights, shard), 1, shard, Ranks(shard, groups))
        assert part is not None and part.mtp_modules == shard.has_head
        if lengths := lanes[shard.dp_rank]:
            return forward(part, lengths)
        cache = part.new_cache(1, 16, mtp=True)
        part.idle(cache)
        if shard.has_head:
            part.idle(cache, 0)
        assert not cache.latent.any()
        return None

    expected = [forward(whole, lengths) if lengths else None for lengths in lanes]
    for rank, found in enumerate(World(layout).run(work)):
        wanted = expected[Shard(CONFIG, layout, rank).dp_rank]
        if found is None or wanted is None:
            assert found is wanted is None
            continue
        held, *cached = found[:3]
        assert all(torch.equal(mine, all_[held]) for mine, all_ in zip(cached, wanted[1:3], strict=True))
        assert all(map(torch.equal, found[3:], wanted[3:])) or len(found) == 3


@pytest.mark.usefixtures("in_memory")
def test_an_idle_rank_asks_its_peers_as_often_as_a_busy_one() -> None:
    """Once per MoE layer and forward, and once before; whoever skips one leaves the others waiting."""
    weights, layout = pack_model(model(), "f32"), Layout(dp=2, ep=2)
    world = World(layout)

    def work(rank: int, groups: Groups) -> None:
        shard = Shard(CONFIG, layout, rank)
        part = PackedTransformer.open(CONFIG, part_of(weights, shard), 1, shard, Ranks(shard, groups))
        assert part is not None
        cache = part.new_cache(2, 16, mtp=True)
        if rank:
            part.idle(cache)
        else:
            part(tokens_of(3), batch_of([3], [0], 16), cache)

    world.run(work)
    sparse = sum(map(CONFIG.is_moe, range(CONFIG.num_hidden_layers)))
    assert world.boards["ep", 0].asked == ["gather"] + ["gather", "exchange", "exchange"] * sparse


def test_a_routing_records_what_the_kernels_chose() -> None:
    """As plain torch chooses (in any order), and nothing changes by looking."""
    plain = model()
    opened, ids = open_model(plain, "f32"), tokens_of(sum(LENGTHS))
    found, expected = Routing(), Routing()
    hidden = opened(ids, Batch.packed(LENGTHS, routing=found))
    with torch.no_grad():
        plain(ids, Batch.packed(LENGTHS, routing=expected))
    assert torch.equal(hidden, opened(ids, Batch.packed(LENGTHS)))
    assert found.ids.keys() == expected.ids.keys() and not opened.take_load()
    for layer, chosen in found.ids.items():
        assert torch.equal(chosen.sort(-1).values, expected.ids[layer].sort(-1).values)
