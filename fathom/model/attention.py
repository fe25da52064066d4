"""Multi-head latent attention (MLA): DeepSeek-V3, section 2.1.1, equations 1-11.

A token leaves behind one latent and one rotated key, shared by all heads. Two forms compute the same:

    expanded   keys and values are rebuilt per head from the latents: (192 + 128) multiply-adds per head and key in V3.
    absorbed   the query moves into latent space instead, and the output back: (576 + 512) per head and key, but the
               latents are read as they lie in the cache. Best when few queries meet many keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fathom import ops
from fathom.config import ModelConfig
from fathom.layout import Shard
from fathom.model.cache import Batch, LatentCache
from fathom.model.comm import Comm
from fathom.model.layers import Linear, RMSNorm, Storage


class Attention(nn.Module):
    """MLA of one layer, for the heads that `shard` owns."""

    def __init__(self, config: ModelConfig, shard: Shard, comm: Comm, storage: Storage) -> None:
        super().__init__()
        self.config, self.comm = config, comm
        self.heads = len(shard.heads)
        self.scale = config.softmax_scale
        hidden, eps = config.hidden_size, config.rms_norm_eps
        nope, rope, v_dim = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        if config.q_lora_rank is None:
            self.q_proj = Linear(hidden, self.heads * (nope + rope), storage)
        else:
            self.q_a_proj = Linear(hidden, config.q_lora_rank, storage)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps, storage)
            self.q_b_proj = Linear(config.q_lora_rank, self.heads * (nope + rope), storage)
        self.kv_a_proj_with_mqa = Linear(hidden, config.kv_lora_rank + rope, storage)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, eps, storage)
        self.kv_b_proj = Linear(config.kv_lora_rank, self.heads * (nope + v_dim), storage)
        self.o_proj = Linear(self.heads * v_dim, hidden, storage)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], batch: Batch, cache: LatentCache | None, layer: int
    ) -> Tensor:
        """x [tokens, hidden]; turn: cos and sin at the tokens' positions; layer: this layer's place in the cache."""
        q_nope, q_rope = self._queries(x, turn)
        latent, k_rope = self._latents(x, turn)
        if cache is None:
            out = self._expanded(q_nope, q_rope, latent, k_rope, batch.query_lengths, batch.query_lengths)
        else:
            out = self._cached(q_nope, q_rope, latent, k_rope, batch, cache, layer)
        return self.comm.sum(self.o_proj(out.flatten(1)), "tp")

    def _queries(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.config.q_lora_rank is None:
            flat = self.q_proj(x)
        else:
            flat = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = flat.unflatten(-1, (self.heads, self.config.qk_head_dim))
        q_nope, q_rope = q.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], dim=-1)
        return q_nope, ops.rotate(q_rope, *turn)

    def _latents(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        both = self.kv_a_proj_with_mqa(x)
        latent, k_rope = both.split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1)
        return self.kv_a_layernorm(latent.contiguous()), ops.rotate(k_rope[:, None], *turn)[:, 0]

    def _cached(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, batch: Batch, cache: LatentCache,
        layer: int,
    ) -> Tensor:  # fmt: skip
        pages = cache.latent[layer], cache.rope[layer]
        ops.append_latent(*pages, latent, k_rope, batch.slots)
        one, many = batch.decoding, batch.reading
        out = q_nope.new_empty(len(q_nope), self.heads, self.config.v_head_dim)
        if one.key_lengths:
            out[one.rows] = self._absorbed(q_nope[one.rows], q_rope[one.rows], *pages, one.page_table, one.key_lengths)
        if many.key_lengths:
            keys = ops.gather_latent(*pages, many.page_table, many.key_lengths)
            held, turned = (t.to(latent.dtype) for t in keys)
            out[many.rows] = self._expanded(
                q_nope[many.rows], q_rope[many.rows], held, turned, many.query_lengths, many.key_lengths
            )
        return out

    def _expanded(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, query_lengths: tuple[int, ...],
        key_lengths: tuple[int, ...],
    ) -> Tensor:  # fmt: skip
        kv = self.kv_b_proj(latent).unflatten(-1, (self.heads, -1))
        k_nope, v = kv.split([self.config.qk_nope_head_dim, self.config.v_head_dim], dim=-1)
        k = torch.cat((k_nope, k_rope[:, None].expand(-1, self.heads, -1)), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1)
        return ops.attention(q, k, v, query_lengths, key_lengths, self.scale)

    def _absorbed(
        self, q_nope: Tensor, q_rope: Tensor, latent_pages: Tensor, rope_pages: Tensor, page_table: Tensor,
        key_lengths: tuple[int, ...],
    ) -> Tensor:  # fmt: skip
        w_kv = self.kv_b_proj.dense(q_nope.dtype).unflatten(0, (self.heads, -1))
        w_uk, w_uv = w_kv.split([self.config.qk_nope_head_dim, self.config.v_head_dim], dim=1)
        q_latent = torch.einsum("thn,hnl->thl", q_nope, w_uk)
        o_latent = ops.mla_decode(q_latent, q_rope, latent_pages, rope_pages, page_table, key_lengths, self.scale)
        return torch.einsum("thl,hvl->thv", o_latent, w_uv)
