"""The memory that a packed model takes while it runs on a CPU: weights, cache, working space, the process itself."""

from __future__ import annotations

from typing import Any

from fathom.config import ModelConfig
from fathom.cost.model import cache_bytes_per_token
from fathom.cost.packed import BLOCK_ROWS, KIND_OF_BITS, packed_size, padded

# Python, torch, kernels, tokenizer, engine: 252 MB once all is imported (benchmarks/memory.py), 257 to 277 MB with a
# model at work less what is counted here; torch 2.13, Linux.
PROCESS_BYTES = 262_000_000
STEP_TOKENS, THREADS = 512, 2  # EngineConfig.max_batch_tokens, and as many threads as this is measured with
PAD = 128  # ops/cpu/space.h: rows are padded to the widest group
# A row that a matrix reads is kept in float32 and rounded for groups of 32, 64 and 128: bytes, scales and sums.
READ_BYTES = 4 + 3 + 8 * (1 / 32 + 1 / 64 + 1 / 128)
OWN_FLOATS = 65_536  # of attention, per thread: the larger of its buffers
KEYS = 64  # ops/cpu/attend.h: a block of them


def memory(
    config: ModelConfig,
    bits: int,
    group: int | None = None,
    *,
    tokens: int | None = None,
    step_tokens: int = STEP_TOKENS,
    threads: int = THREADS,
    mtp: bool | None = None,
) -> dict[str, Any]:
    """Bytes that a process with a packed model holds, by what they are for; "total_bytes" is their sum.

    Args: tokens: in the latent cache; the longest context if None. step_tokens: the most that one step reads.
          mtp: the multi-token prediction modules run too; None: if there are any, as an engine has it by default.
          Weights count them either way, since they are in the file.
    """
    mtp = config.num_nextn_predict_layers > 0 if mtp is None else mtp
    tokens = config.max_position_embeddings if tokens is None else tokens
    size = packed_size(config, KIND_OF_BITS[bits], group)
    parts = {
        "weights_bytes": size.values_bytes,
        "scales_bytes": size.scales_bytes,
        "plain_bytes": size.plain_bytes,
        "cache_bytes": tokens * cache_bytes_per_token(config, 4 if bits == 32 else 2, mtp=mtp),
        "workspace_bytes": workspace_bytes(config, step_tokens, threads, mtp=mtp),
        "process_bytes": PROCESS_BYTES,
    }
    facts = {"bits": bits, "bits_per_weight": size.bits_per_weight, "cache_tokens": tokens, "step_tokens": step_tokens}
    return facts | parts | {"total_bytes": sum(parts.values())}


def workspace_bytes(config: ModelConfig, tokens: int, threads: int, *, mtp: bool = False) -> int:
    """What the kernels work in during a step of so many tokens [B]: ops/cpu/space.h without its small parts.

    tests/agreement holds it to the kernels' own count.
    """
    hidden, heads, latent = padded(config.hidden_size, PAD), config.num_attention_heads, config.kv_lora_rank
    slots, query = tokens * config.num_experts_per_tok, padded(latent + config.qk_rope_head_dim, 2 * BLOCK_ROWS)
    shared = config.moe_intermediate_size * config.n_shared_experts
    inner = max(shared, config.intermediate_size if config.first_k_dense_replace else 0)
    widths = [config.hidden_size * (2 if mtp else 1), config.q_lora_rank or 1, heads * config.v_head_dim, inner]
    read = tokens * sum(padded(width, PAD) for width in widths) + slots * padded(config.moe_intermediate_size, PAD)
    a_width = padded(max(config.q_lora_rank or 0, latent + config.qk_rope_head_dim), PAD)
    floats = tokens * (2 * hidden + 2 * a_width + heads * query + padded(config.n_routed_experts)) + slots * hidden
    head = padded(max(config.qk_nope_head_dim, latent), PAD)
    own_read = tokens * head
    head_rows = padded(max(config.qk_head_dim, config.v_head_dim))
    rows = min(tokens * heads, max(heads, OWN_FLOATS // padded(latent)))
    own_floats = tokens * head_rows + rows * (padded(latent) + query + 2 * KEYS) + 4 * slots
    own_floats += (KEYS + KEYS // 2) * query + KEYS // 2 * padded(latent)
    return int(READ_BYTES * (read + threads * own_read) + 4 * (floats + threads * own_floats) + 16 * slots)
