"""The Transformer, packed for inference on a CPU: the same forward, with whole layers as one op (fathom/ops/packed.py).

It stands in for a Transformer wherever one generates: `forward`, `logits` and `predict_ahead` take and give the same.
Attention is always in the absorbed form, so that a token's bits do not depend on how many came along with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fathom.config import ModelConfig
from fathom.layout import Shard
from fathom.layout.placement import Placement
from fathom.model.answer import Answer
from fathom.model.cache import Batch, LatentCache, Routing, int_tensor
from fathom.model.rope import Rotary
from fathom.ops.packed import PackedModel, Peers, Weights, open_packed
from fathom.ops.packing import PackedMatrix

EXACT = {"f32": torch.float32}  # what the cache holds beside weights of this kind; bfloat16 beside all others


class PackedTransformer:
    """A packed model and its kernels.

    Fields: compute_dtype: of the latent cache. device: always the CPU. kind: of most weights (ops/packing.py). counts:
            whether `take_load` has something to tell; a model with peers leaves that to them.
    """

    device = torch.device("cpu")

    def __init__(
        self, config: ModelConfig, weights: Weights, kernels: PackedModel, shard: Shard | None = None,
        peers: Peers | None = None,
    ) -> None:  # fmt: skip
        self.config, self.shard, self.peers = config, shard or Shard.whole(config), peers
        self.kernels = kernels
        self.counts = False
        self._load: Tensor | None = None  # [layers + modules, experts + 1]
        projection = weights[f"model.layers.{self.shard.layers.start}.self_attn.o_proj.weight"]
        assert isinstance(projection, PackedMatrix), "projections are packed"
        self.kind = projection.kind
        self.compute_dtype = EXACT.get(self.kind, torch.bfloat16)
        self.mtp_modules = sum(f"model.layers.{i}.eh_proj.weight" in weights for i in self.shard.mtp_layers)
        self.weight_bytes = sum(w.nbytes for w in weights.values())

    @staticmethod
    def open(
        config: ModelConfig, weights: Weights, threads: int | None = None, shard: Shard | None = None,
        peers: Peers | None = None, placements: Mapping[int, Placement] | None = None,
    ) -> PackedTransformer | None:  # fmt: skip
        """The model on this machine's kernels; None, said once, if it has none.

        Args: threads: None is as many as torch's. shard: the part that `weights` are; None: all. peers: have the rest.
              placements: of layers whose experts do not lie as `Shard.experts` says.
        """
        turn = Rotary(config)(torch.arange(config.max_position_embeddings))
        kernels = open_packed(config, weights, turn, threads or torch.get_num_threads(), shard, peers, placements)
        return None if kernels is None else PackedTransformer(config, weights, kernels, shard, peers)

    @property
    def numerics(self) -> str:
        """Names how it computes: what another way has cached must not be mixed with it."""
        return f"{self.kind} {self.kernels.name}"

    def eval(self) -> PackedTransformer:
        """Itself: it can do nothing else than infer."""
        return self

    def forward(self, tokens: Tensor, batch: Batch, cache: LatentCache | None = None) -> Tensor:
        """tokens int64 [tokens] -> hidden states after the last norm, float32 [tokens, hidden]."""
        hidden = self._run(tokens, batch, cache, before=self._passed_on(len(tokens)))
        if not self.shard.has_head and self.peers is not None:
            self.peers.send(hidden)
        return hidden

    __call__ = forward

    def idle(self, cache: LatentCache, module: int = -1) -> None:
        """A forward of no tokens, for peers that have some: experts held here serve theirs."""
        none = torch.empty(0, dtype=torch.int64)
        table = torch.empty(0, 0, dtype=torch.int32)
        self.kernels.forward(none, none, (), table, cache.latent, cache.rope, module=module)

    def take_load(self) -> dict[int, list[int]]:
        """Tokens that chose each expert while `counts` was set, by layer; counted from now on anew."""
        layers = [*self.shard.layers, *self.shard.mtp_layers]
        load, self._load = self._load, None
        if load is None:
            return {}
        return {layer: load[i, :-1].tolist() for i, layer in enumerate(layers) if self.config.is_moe(layer)}

    @contextmanager
    def _counting(self, tokens: int, routing: Routing | None = None) -> Iterator[Tensor | None]:
        """Where the kernels shall write which experts they choose; None if nobody counts or records it."""
        if not self.counts and routing is None:
            yield None
            return
        layers, experts = len(self.shard.layers) + len(self.shard.mtp_layers), self.config.n_routed_experts
        chosen = torch.full((layers, tokens * self.config.num_experts_per_tok), experts)  # layers that do not run: none
        yield chosen
        if routing is not None:
            self._record(routing, chosen)
        if not self.counts:
            return
        chosen += torch.arange(layers)[:, None] * (experts + 1)
        load = torch.bincount(chosen.flatten(), minlength=layers * (experts + 1)).view(layers, experts + 1)
        self._load = load if self._load is None else self._load + load

    def _record(self, routing: Routing, chosen: Tensor) -> None:
        experts, top_k = self.config.n_routed_experts, self.config.num_experts_per_tok
        for ids, layer in zip(chosen, (*self.shard.layers, *self.shard.mtp_layers), strict=True):
            if self.config.is_moe(layer) and int(ids[0]) < experts:
                routing.ids[layer] = ids.view(-1, top_k).clone()

    def new_cache(self, num_pages: int, page_tokens: int, *, mtp: bool) -> LatentCache:
        """A cache for the layers that are here."""
        layers = len(self.shard.layers) + (self.mtp_modules if mtp else 0)
        return LatentCache(self.config, num_pages, page_tokens, dtype=self.compute_dtype, layers=layers)

    def answer(self, tokens: Tensor, batch: Batch, cache: LatentCache, rows: array[int]) -> Answer:
        """As Transformer.answer, in one call of the kernels."""
        assert batch.page_table is not None, "a forward with a cache needs a paged Batch"
        with self._counting(len(tokens), batch.routing) as chosen:
            return self.kernels.answer(
                tokens, batch.positions, batch.query_lengths, batch.page_table, cache.latent, cache.rope,
                int_tensor(rows), before=self._passed_on(len(tokens)), chosen=chosen,
            )  # fmt: skip

    def answer_ahead(
        self, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache, depth: int, rows: array[int]
    ) -> Answer:
        """As Transformer.answer_ahead, in one call of the kernels."""
        assert batch.page_table is not None, "a forward with a cache needs a paged Batch"
        with self._counting(len(next_tokens), batch.routing) as chosen:
            return self.kernels.answer(
                next_tokens, batch.positions, batch.query_lengths, batch.page_table, cache.latent, cache.rope,
                int_tensor(rows), module=depth, before=hidden.contiguous(), chosen=chosen,
            )  # fmt: skip

    def draft(
        self, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache, rows: array[int], count: int
    ) -> list[list[int]] | None:  # fmt: skip
        """As Transformer.draft, in one call of the kernels; None where others take part or look on."""
        if self.peers is not None or self.counts:
            return None
        assert batch.page_table is not None, "a forward with a cache needs a paged Batch"
        lengths = batch.key_lengths  # where a sequence goes on
        then = int_tensor(array("q", [length + ahead for ahead in range(count - 1) for length in lengths]))
        return self.kernels.draft(
            next_tokens, batch.positions, batch.query_lengths, batch.page_table, cache.latent, cache.rope,
            int_tensor(rows), before=hidden.contiguous(), then=then.view(-1, len(lengths)),
        )  # fmt: skip

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states after a norm [rows, hidden] -> float32 logits [rows, vocabulary]."""
        return self.kernels.logits(hidden)

    def predict_ahead(
        self, hidden: Tensor, next_tokens: Tensor, batch: Batch, cache: LatentCache | None = None, depth: int = 0
    ) -> Tensor:
        """MTP: as Transformer.predict_ahead."""
        return self._run(next_tokens, batch, cache, module=depth, before=hidden.contiguous())

    def _run(
        self, tokens: Tensor, batch: Batch, cache: LatentCache | None, module: int = -1, before: Tensor | None = None
    ) -> Tensor:
        cache, table = (cache, batch.page_table) if cache is not None else self._passing_cache(batch)
        assert table is not None, "a forward with a cache needs a paged Batch"
        with self._counting(len(tokens), batch.routing) as chosen:
            return self.kernels.forward(
                tokens, batch.positions, batch.query_lengths, table, cache.latent, cache.rope, module=module,
                before=before, chosen=chosen,
            )  # fmt: skip

    def _passed_on(self, tokens: int) -> Tensor | None:
        """The states that a later stage of a pipeline begins with."""
        if self.shard.pp_rank == 0:
            return None
        assert self.peers is not None, "the stage before is somewhere"
        return self.peers.receive(tokens)

    def _passing_cache(self, batch: Batch) -> tuple[LatentCache, Tensor]:
        """Whole sequences without a cache get one for as long as the forward takes: a page for each."""
        longest, count = max(batch.query_lengths), len(batch.query_lengths)
        cache = LatentCache(self.config, count, longest, dtype=self.compute_dtype, mtp=self.mtp_modules > 0)
        return cache, torch.arange(count, dtype=torch.int32)[:, None]
