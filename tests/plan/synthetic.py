"""Ledgers and evaluations that follow a known law."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fathom.config import ModelConfig
from fathom.cost import activated_parameters
from fathom.train.ledger import Ledger

MODEL: dict[str, Any] = {
    "model_type": "deepseek_v3", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128,
    "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_nextn_predict_layers": 0, "num_attention_heads": 4,
    "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "routed_scaling_factor": 1.0,
    "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "q_lora_rank": None,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "max_position_embeddings": 128, "rope_theta": 500.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip
FLOOR, OF_SIZE, OF_TOKENS = 0.5, (60.0, 0.35), (200.0, 0.45)


def loss_of(parameters: float, tokens: float) -> float:
    """The law that the ledgers follow."""
    return FLOOR + OF_SIZE[0] * parameters ** -OF_SIZE[1] + OF_TOKENS[0] * tokens ** -OF_TOKENS[1]


def write_run(directory: Path, hidden: int, steps: int, rows: int = 8, init: str = "") -> tuple[int, int, float]:
    """A ledger as the trainer writes one; returns parameters that a token meets, tokens and final loss."""
    model = {**MODEL, "hidden_size": hidden}
    parameters = activated_parameters(ModelConfig.from_dict(model, "test"), embedding=False)
    ledger = Ledger(directory)
    recipe = {"model": model, "data": {"row_tokens": 128, "vocab_size": 320}, "train": {"init": init, "steps": steps}}
    ledger.append("start", step=0, recipe=recipe, tokens_per_step=rows * 128)
    tokens = rows * 128 * steps
    loss = loss_of(parameters, tokens)
    for step in range(steps // 20, steps + 1, steps // 20):
        late = step > 0.9 * steps
        ledger.append("step", step=step, steps=steps, loss=loss if late else loss + 3.0 * (1 - step / steps))
    ledger.close()
    return parameters, tokens, loss


def score(effort: str, accuracy: float, thinking: float, n: int = 100, family: str = "sums") -> dict[str, Any]:
    """One cell of an evaluation, as think/evaluate.py has it, with every answer."""
    right = [1] * round(accuracy * n) + [0] * (n - round(accuracy * n))
    return {
        "family": family, "level": 1, "effort": effort, "n": n, "correct": sum(right), "accuracy": sum(right) / n,
        "low": 0.0, "high": 1.0, "tokens_mean": thinking + 10, "cut_off": 0, "distinct": n, "language": "en",
        "samples": 1, "thinking_mean": thinking, "answer_mean": 10.0, "problems": family, "asked": None,
        "pass_at": {}, "majority_at": {}, "right": right, "used": [thinking] * n,
    }  # fmt: skip


def write_evaluation(path: Path, scores: Sequence[dict[str, Any]]) -> None:
    """As think/results.py writes it."""
    table = {"model": "x", "fingerprint": "f", "parameters": 1, "asked": {}, "scores": list(scores), "seconds": 1.0,
             "time_s": 0.0, "fathom": "0", "format": 1, "problems": "p"}  # fmt: skip
    path.write_text(json.dumps(table), encoding="utf-8")
