"""Plain torch: the living definition of every op; differentiable; always there. Shapes and meaning: __init__.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.config import FP8_BLOCK


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def linear(x: Tensor, weight: Tensor, scale: Tensor | None = None) -> Tensor:
    if scale is not None:
        weight = dequantise(weight, scale, x.dtype)
    return F.linear(x, weight.to(x.dtype))


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """E4M3 `weight` times the scale of its 128x128 block; the last block of a row or column may be ragged."""
    rows, columns = weight.shape[-2:]
    wide = scale.repeat_interleave(FP8_BLOCK, -2)[..., :rows, :].repeat_interleave(FP8_BLOCK, -1)[..., :columns]
    return (weight.float() * wide).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def attention(
    q: Tensor, k: Tensor, v: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int], scale: float
) -> Tensor:
    if tuple(query_lengths) == tuple(key_lengths):
        return _attention_by_length(q, k, v, query_lengths, scale)
    out = []
    pieces = zip(q.split(list(query_lengths)), k.split(list(key_lengths)), v.split(list(key_lengths)), strict=True)
    for q_i, k_i, v_i in pieces:
        n, m = q_i.shape[0], k_i.shape[0]
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
        q_i, k_i, v_i = (t.transpose(0, 1).unsqueeze(0) for t in (q_i, k_i, v_i))  # [1, heads, tokens, dim]
        out.append(F.scaled_dot_product_attention(q_i, k_i, v_i, attn_mask=mask, scale=scale)[0].transpose(0, 1))
    return torch.cat(out)


def _attention_by_length(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Whole sequences: those of similar length share one padded call. Padding comes last, so causality hides it."""
    starts = [0, *accumulate(lengths)]
    groups: dict[int, list[int]] = {}
    for i, n in enumerate(lengths):
        groups.setdefault(-(-n // 32) * 32, []).append(i)
    out, order = [], []
    for width, members in groups.items():
        begin = torch.tensor([starts[i] for i in members], device=q.device)
        length = torch.tensor([lengths[i] for i in members], device=q.device)
        offset = torch.arange(width, device=q.device)
        real = offset < length[:, None]
        rows = (begin[:, None] + offset).where(real, begin[:, None])
        q_pad, k_pad, v_pad = (t[rows].transpose(1, 2) for t in (q, k, v))
        out.append(_causal(q_pad, k_pad, v_pad, scale).transpose(1, 2)[real])
        order.append(rows[real])
    inverse = torch.empty(q.shape[0], dtype=torch.long, device=q.device)
    inverse[torch.cat(order)] = torch.arange(q.shape[0], device=q.device)
    return torch.cat(out)[inverse]


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if q.device.type != "cpu" or q.dtype is not torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    # torch's fused CPU kernel is 2.3x slower in bf16 than these three calls, backward included (docs/log.md).
    n = q.shape[-2]
    mask = torch.full((n, n), -torch.inf, dtype=q.dtype).triu(1)
    score = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return (score.softmax(-1) @ v.flatten(0, 1)).unflatten(0, q.shape[:2])


def append_latent(latent_pages: Tensor, rope_pages: Tensor, latent: Tensor, rope: Tensor, slots: Tensor) -> None:
    latent_pages.flatten(0, 1)[slots] = latent.to(latent_pages.dtype)
    rope_pages.flatten(0, 1)[slots] = rope.to(rope_pages.dtype)


def gather_latent(
    latent_pages: Tensor, rope_pages: Tensor, page_table: Tensor, lengths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    page_tokens = latent_pages.shape[1]
    latents, ropes = [], []
    for pages, n in zip(page_table, lengths, strict=True):
        held = pages[: -(-n // page_tokens)].long()
        latents.append(latent_pages[held].flatten(0, 1)[:n])
        ropes.append(rope_pages[held].flatten(0, 1)[:n])
    return torch.cat(latents), torch.cat(ropes)


def mla_decode(
    q_latent: Tensor, q_rope: Tensor, latent_pages: Tensor, rope_pages: Tensor, page_table: Tensor,
    lengths: Sequence[int], scale: float,
) -> Tensor:  # fmt: skip
    held = page_table[:, : -(-max(lengths) // latent_pages.shape[1])].long()
    keys = max(lengths)  # and no more, whatever the page size: [sequences, keys, latent], short ones read stale keys
    latent = latent_pages[held].flatten(1, 2)[:, :keys].float()
    rope = rope_pages[held].flatten(1, 2)[:, :keys].float()
    score = (q_latent.float() @ latent.mT + q_rope.float() @ rope.mT) * scale
    length = torch.tensor(lengths, device=score.device)
    hidden = torch.arange(latent.shape[1], device=score.device) >= length[:, None]
    probability = score.masked_fill(hidden[:, None, :], -torch.inf).softmax(-1)
    latent = latent.masked_fill(hidden[:, :, None], 0.0)  # a stale page may hold NaN, and 0 * NaN is NaN
    return (probability @ latent).to(q_latent.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def route(
    affinity: Tensor, bias: Tensor | None, *, top_k: int, n_group: int, topk_group: int, group_score: str,
    normalise: bool, scaling: float, ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if ids is None:
        choice = affinity.detach() if bias is None else affinity.detach() + bias
        if n_group > 1:
            groups = choice.unflatten(-1, (n_group, -1))
            score = groups.topk(2, dim=-1).values.sum(-1) if group_score == "top2" else groups.amax(-1)
            kept = score.topk(topk_group, dim=-1).indices
            dropped = torch.ones_like(score, dtype=torch.bool).scatter(-1, kept, False)
            choice = groups.masked_fill(dropped[..., None], -torch.inf).flatten(-2)
        ids = choice.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    weights = affinity.gather(-1, ids)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return ids, weights * scaling


class _Regroup(torch.autograd.Function):
    """Rows by (token, slot) -> rows by expert, and back: a permutation, so its gradient is the inverse gather.

    torch's own gradient of indexing scatters with atomics or in serial order; a gather is faster and always exact.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


def experts(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor,
    gate_up_scale: Tensor | None = None, down_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    count, _, inner, dim = gate_up.shape
    slots = ids.shape[-1]
    flat = ids.flatten().where((ids.flatten() >= 0) & (ids.flatten() < count), count)  # foreign experts sort last
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=order.device)
    rows = _Regroup.apply(x[:, None, :].expand(-1, slots, -1).reshape(-1, dim), order, inverse)
    sizes = torch.bincount(flat, minlength=count + 1).tolist()
    w_ins: Sequence[Tensor] | Tensor = gate_up
    w_outs: Sequence[Tensor] | Tensor = down
    if gate_up_scale is None:
        # unbind once: its backward stacks the gradients, where indexing adds each into a zeroed copy of the stack.
        w_ins, w_outs = gate_up.to(x.dtype).unbind(), down.to(x.dtype).unbind()
    # A GEMM per expert: on CPU as fast as torch's grouped_mm from 512 rows an expert on (docs/log.md), any torch.
    out = []
    for e, rows_e in enumerate(rows.split(sizes)):
        if e == count:
            out.append(torch.zeros_like(rows_e))
        elif sizes[e]:
            w_in, w_out = w_ins[e], w_outs[e]
            if gate_up_scale is not None and down_scale is not None:
                w_in, w_out = dequantise(w_in, gate_up_scale[e], x.dtype), dequantise(w_out, down_scale[e], x.dtype)
            gate, up = F.linear(rows_e, w_in.flatten(0, 1).to(x.dtype)).split(inner, dim=-1)
            out.append(F.linear(swiglu(gate, up), w_out.to(x.dtype)))
    y = _Regroup.apply(torch.cat(out), inverse, order).unflatten(0, (-1, slots))
    # matmul over the few slots would leave the order of addition to the library: add them one by one.
    total = y[:, 0].float() * weights[:, 0, None].float()
    for slot in range(1, slots):
        total = total + y[:, slot].float() * weights[:, slot, None].float()
    return total.to(x.dtype)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
