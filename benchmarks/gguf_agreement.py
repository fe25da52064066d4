"""Does llama.cpp, given a model exported by fathom, say what fathom says?

    python benchmarks/gguf_agreement.py nano --out benchmarks/results/gguf_agreement_nano.json

Exports the model in float32, lets both continue the same prompts greedily, and compares logits along our text. Where
two texts part, `lead` says by how much our first choice led the second and `flip` how near the nearest choice between
experts was up to there: a difference is explained when one of them is as small as the noise between the logits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import llama_cpp
import numpy as np
import torch
from measure import machine, write
from torch import Tensor

from fathom import ops
from fathom.batching.request import SamplingParams
from fathom.checkpoint import load_weights
from fathom.checkpoint.gguf import export_gguf
from fathom.config import ModelConfig, find_model
from fathom.engine import LLM, EngineConfig
from fathom.model import Batch, Transformer
from fathom.tasks import FAMILIES, draw
from fathom.tokenizer import encode_chat, gguf_vocabulary

TOKENS = 32
RANDOM_PROMPT = 24  # token ids, where a model has learned no language


def prompts(llm: LLM, count: int, *, trained: bool) -> list[list[int]]:
    rng = Random(0)
    if not trained:
        vocabulary = llm.engine.model.config.vocab_size
        return [[0, *(rng.randrange(20, vocabulary) for _ in range(RANDOM_PROMPT))] for _ in range(count)]
    names = sorted(FAMILIES)
    problems = [draw(names[i % len(names)], 1, "test", rng) for i in range(count)]
    return [encode_chat(llm.tokenizer, [{"role": "user", "content": p.prompt}], thinking=True) for p in problems]


class Margins:
    """How near each token came to other experts: the smallest lead of a chosen expert over one left out."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.smallest = model, torch.empty(0)

    def __call__(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Logits and smallest margins at each position of one text, from a plain forward."""
        config, found = self.model.config, []
        plain = ops.route

        def route(affinity: Tensor, bias: Tensor | None, **rule: Any) -> tuple[Tensor, Tensor]:
            chosen = plain(affinity, bias, **rule)
            scores = affinity if bias is None else affinity + bias
            groups = scores.unflatten(-1, (config.n_group, -1)).topk(2).values.sum(-1)
            ranked = groups.sort(descending=True).values
            left_out = config.n_group > config.topk_group
            margins = [ranked[:, config.topk_group - 1] - ranked[:, config.topk_group]] if left_out else []
            allowed = groups.argsort(descending=True)[:, : config.topk_group]
            open_ = torch.zeros_like(groups).scatter(1, allowed, 1.0).bool()
            masked = scores.masked_fill(~open_.repeat_interleave(scores.shape[1] // config.n_group, 1), -torch.inf)
            best = masked.topk(config.num_experts_per_tok + 1).values
            found.append(torch.stack([*margins, best[:, -2] - best[:, -1]]).amin(0))
            return chosen

        ops.route = route
        try:
            logits = self.model.logits(self.model(torch.tensor(ids), Batch.packed([len(ids)])))
        finally:
            ops.route = plain
        return logits, torch.stack(found).amin(0)


def continued(llama: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    llama.reset()
    tokens = llama.generate(prompt, temp=0.0, repeat_penalty=1.0)
    return [token for _, token in zip(range(TOKENS), tokens, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="nano, or a model's directory")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    directory = find_model(args.model)
    llm = LLM(directory, EngineConfig(max_sequences=16, num_pages=512, bits=32, spec="off", threads=args.threads))
    model = Transformer(ModelConfig.read(directory), mtp=False)
    load_weights(model, directory)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "model.gguf"
        export_gguf(directory, file, kind="f32", vocabulary=gguf_vocabulary(llm.tokenizer, model.config.vocab_size))
        llama = llama_cpp.Llama(
            str(file), n_ctx=1024, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=args.threads,
            n_threads_batch=args.threads,
        )  # fmt: skip
        rows = compare(llm, llama, model, prompts(llm, args.prompts, trained=args.model == "nano"))
    equal = sum(row["parts_at"] is None for row in rows)
    errors = [row["logit_error"] for row in rows]
    report = machine() | {
        "model": Path(args.model).name, "type": "f32", "prompts": len(rows), "tokens": TOKENS, "equal": equal,
        "logit_error_median": float(np.median(errors)), "logit_error_max": max(errors),
        "differences": [row for row in rows if row["parts_at"] is not None],
    }  # fmt: skip
    write(report, args.out)
    sys.exit(0 if equal >= 0.95 * len(rows) else 1)


def compare(llm: LLM, llama: llama_cpp.Llama, model: Transformer, given: list[list[int]]) -> list[dict[str, Any]]:
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    margins, rows = Margins(model), []
    for number, (prompt, done) in enumerate(zip(given, llm.generate(given, params), strict=True)):
        ours, theirs = list(done.token_ids), continued(llama, prompt)
        text = prompt + ours[:-1]
        logits, flips = margins(text)
        llama.reset()
        llama.eval(text)
        other = torch.from_numpy(np.array(llama.scores[: len(text)]))
        error = (logits - other).abs().amax(-1) / logits.abs().amax(-1)
        row: dict[str, Any] = {"prompt": number, "logit_error": error[len(prompt) - 1 :].max().item(), "parts_at": None}
        if ours != theirs:
            place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
            at = len(prompt) - 1 + place
            best, second = logits[at].topk(2).values.tolist()
            row |= {"parts_at": place, "lead": best - second, "flip": flips[: at + 1].min().item()}
            row["logit_error_there"] = error[at].item()
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
