"""Turn the cold start of recipes/nano-reasoner.toml into the model in the package, with its card.

    fathom train recipes/nano.toml --out runs/nano
    fathom speedrun --recipe recipes/nano-reasoner.toml --out runs/nano-reasoner --stages tokenizer,extend,sft
    python scripts/release_nano.py runs/nano-reasoner/sft --n 100

Evaluates on the test split (problems whose hash keeps them out of training), writes fathom/weights/nano.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from fathom import cost
from fathom.config import ModelConfig
from fathom.engine import LLM
from fathom.think.evaluate import EvalConfig, Score, run
from fathom.think.modes import Mode
from fathom.train.ledger import read

TARGET = Path(__file__).parents[1] / "fathom" / "weights" / "nano"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json")
GENERATION = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False, "temperature": 0.0}
SEED = 20_26  # of the evaluation problems


def main() -> None:
    """Evaluate, copy, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run directory that fathom train left")
    parser.add_argument("--n", type=int, default=200, help="problems per family, level and effort")
    args = parser.parse_args()
    config = EvalConfig(n=args.n, seed=SEED, modes=(Mode.effort("none"), Mode.effort("own")))
    scores = run(LLM(args.run / "model"), config, lambda score: print(row(score), flush=True))
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(args.run / "model" / name, TARGET / name)
    (TARGET / "generation_config.json").write_text(json.dumps(GENERATION) + "\n")
    (TARGET / "evaluation.json").write_text(json.dumps([table_of(score) for score in scores], indent=1) + "\n")
    (TARGET / "MODEL_CARD.md").write_text(card(args.run, scores))
    (TARGET / "SHA256SUMS").write_text("".join(sums(sorted(TARGET.iterdir()))))


def sums(paths: Iterable[Path]) -> Iterable[str]:
    """Lines that `sha256sum --check` reads."""
    for path in paths:
        if path.name != "SHA256SUMS":
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def table_of(score: Score) -> dict[str, object]:
    """A score without the list of single problems."""
    return {name: value for name, value in asdict(score).items() if name not in ("right", "used")}


def row(score: Score) -> str:
    """One line of the card's table."""
    return (
        f"| {score.family} | {score.level} | {score.accuracy:.1%} | {score.low:.1%} to {score.high:.1%} "
        f"| {score.tokens_mean:.0f} | {score.cut_off} | {score.distinct} |"
    )


def table(scores: list[Score], effort: str) -> str:
    """The card's table of one effort."""
    head = "| family | level | accuracy | 95 % interval | tokens | cut off | distinct |\n|---|---|---|---|---|---|---|"
    return head + "\n" + "\n".join(row(score) for score in scores if score.effort == effort)


def card(run: Path, scores: list[Score]) -> str:
    """MODEL_CARD.md."""
    events = read(run)
    starts = [event for event in events if event["event"] == "start"]
    steps = [event for event in events if event["event"] == "step"]
    recipe, per_step = starts[0]["recipe"], starts[0]["tokens_per_step"]
    every = recipe["train"]["log_every"] * per_step
    hours = sum(every / event["tokens_per_s"] for event in steps) / 3600
    threads = " and then ".join(str(n) for n in dict.fromkeys(event["threads"] for event in starts))
    config = ModelConfig.read(run / "model")
    total, mtp = cost.parameters(config), cost.mtp_parameters(config)
    return f"""# fathom-nano

A small language model with DeepSeek-V3's architecture (multi-head latent attention, DeepSeekMoE with loss-free
balancing, multi-token prediction) that thinks before it answers, for as long as it is told to. It was trained from
nothing by fathom on problems that fathom's own code generates. It works on thirteen families of puzzles in English and
Chinese, masters some of them (see below), knows a little small talk, and nothing else. It shows the whole system at a
size that a laptop trains; it is not a useful assistant.

| fact | value |
|---|---|
| parameters | {total:,} in the main model, {mtp:,} more in the MTP module |
| activated per token | {cost.activated_parameters(config):,} |
| layers, hidden size | {config.num_hidden_layers}, {config.hidden_size} |
| experts | {config.n_routed_experts} routed, {config.num_experts_per_tok} chosen, {config.n_shared_experts} shared |
| vocabulary | {config.vocab_size} tokens, digits apart |
| latent cache | {cost.cache_bytes_per_token(config):,} B per token in bfloat16 |
| base | `recipes/nano.toml`, seed 1: 15,974,400 tokens in 3,900 steps, 1.2 h on the same machine |
| cold start | `recipes/nano-reasoner.toml`: {steps[-1]["step"]:,} steps of up to {per_step:,} tokens in four styles |
| last loss | {steps[-1]["loss"]:.4f} nats per answer token; MTP is right on {steps[-1]["mtp_accuracy"]:.1%} |
| last MaxVio | {steps[-1]["max_violation"]:.2f} (most loaded expert over the mean, less one) |
| time | {hours:.1f} h on {threads} of the 2 cores of an AMD EPYC (Zen 4, bfloat16) |
| software | torch {starts[0]["torch"]} |
| licence | Apache-2.0, as the project; the training data is generated by `fathom.tasks` |

## Accuracy

Fresh problems of the test split, greedy decoding, float32 activations, {scores[0].n} drawn per row (a level with few
problems repeats them: see the last column). Reproduce: `fathom eval --model nano --n {scores[0].n} --seed {SEED}`.

Thinking on (`--effort own`):

{table(scores, "own")}

Thinking off (`--effort none`): the same model answers at once.

{table(scores, "none")}

## Limits

- Trained on contexts of 512 tokens; later positions are untested.
- The cold start reads levels 1 and 2 (arithmetic to 3, countdown to 4): harder levels show how far that carries.
- It is a cold start: reinforcement learning, rejection sampling and distillation have not been run on it yet. Counting,
  gcd, bases, pathstar and queens are not learned; their traces have been made easier since (docs/log.md).
- Questions outside the families get wrong or empty answers, and so may wordings far from those in `fathom.tasks`.
- The suggested questions of the chat page may be in the training split; the tables above are not.

## Reproduce

```
fathom train recipes/nano.toml --out runs/nano
fathom speedrun --recipe recipes/nano-reasoner.toml --out runs/nano-reasoner --stages tokenizer,extend,sft
python scripts/release_nano.py runs/nano-reasoner/sft --n {scores[0].n}
```

A new run ends with other bits. The base was trained with a change of the thread count on the way, and before wordings
and some traces were rewritten. The cold start read its 95,000 samples in nineteen parts of 5,000 (seeds 1000 to 1018)
on one thread, where the recipe draws them at once, and before the traces of counting, gcd, bases and pathstar were made
easier.
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
