"""Turn the student of recipes/nano-reasoner.toml into the model in the package, with its card.

    fathom train recipes/nano.toml --out runs/nano
    fathom speedrun --recipe recipes/nano-reasoner.toml --out runs/nano-reasoner
    python scripts/release_nano.py runs/nano-reasoner --n 100

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
from fathom.engine import LLM, EngineConfig
from fathom.posttrain.run import summary
from fathom.tasks.task import LANGUAGES
from fathom.think.evaluate import EvalConfig, Score, run
from fathom.think.modes import Mode
from fathom.train.ledger import read

TARGET = Path(__file__).parents[1] / "fathom" / "weights" / "nano"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json")
GENERATION = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False, "temperature": 0.0}
SEED = 20_26  # of the evaluation problems
BEFORE = 13_000_000  # tokens of a first cold start, over whose model this one was trained
STAGES = {
    "sft": "cold start", "sft budgets": "cold start", "grpo": "GRPO on five families", "distil": "student",
    "distil budgets": "student", "distil samples": "student, 8 samples",
}  # fmt: skip
MODES = {"own": "plainly", "none": "to answer at once", "max": "to check its work"}


def main() -> None:
    """Evaluate, copy, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory that fathom speedrun left")
    parser.add_argument("--stage", default="distil", help="whose model is shipped (default: distil)")
    parser.add_argument("--evaluated", type=Path, help="a directory whose eval/ compares the stages (default: run)")
    parser.add_argument("--n", type=int, default=200, help="problems per family, level, language and effort")
    args = parser.parse_args()
    modes = (Mode.effort("none"), Mode.effort("own"))
    config = EvalConfig(n=args.n, seed=SEED, modes=modes, languages=LANGUAGES)
    model = args.run / args.stage / "model"
    scores = run(LLM(model, EngineConfig(max_sequences=64)), config, lambda score: print(row([score]), flush=True))
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(model / name, TARGET / name)
    (TARGET / "generation_config.json").write_text(json.dumps(GENERATION) + "\n")
    (TARGET / "evaluation.json").write_text(json.dumps([table_of(score) for score in scores], indent=1) + "\n")
    (TARGET / "MODEL_CARD.md").write_text(card(args.run, args.stage, args.evaluated or args.run, scores))
    (TARGET / "SHA256SUMS").write_text("".join(sums(sorted(TARGET.iterdir()))))


def sums(paths: Iterable[Path]) -> Iterable[str]:
    """Lines that `sha256sum --check` reads."""
    for path in paths:
        if path.name != "SHA256SUMS":
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def table_of(score: Score) -> dict[str, object]:
    """A score without the list of single problems."""
    return {name: value for name, value in asdict(score).items() if name not in ("right", "used")}


def row(scores: list[Score]) -> str:
    """One line of the card's table: a family and level, in every language."""
    cells = " | ".join(f"{one.accuracy:.0%} ({one.low:.0%} to {one.high:.0%})" for one in scores)
    tokens = " | ".join(f"{one.tokens_mean:.0f}" for one in scores)
    return f"| {scores[0].family} | {scores[0].level} | {cells} | {tokens} | {min(s.distinct for s in scores)} |"


def table(scores: list[Score], effort: str) -> str:
    """The card's table of one effort."""
    named = " | ".join(f"accuracy, {language}" for language in LANGUAGES)
    tokens = " | ".join(f"tokens, {language}" for language in LANGUAGES)
    head = f"| family | level | {named} | {tokens} | distinct |\n|{'---|' * (3 + 2 * len(LANGUAGES))}"
    rows: dict[tuple[str, int], list[Score]] = {}
    for score in scores:
        if score.effort == effort:
            rows.setdefault((score.family, score.level), []).append(score)
    return "\n".join([head, *map(row, rows.values())])


def stages(run: Path) -> str:
    """What each stage brought: all families and languages of the recipe together."""
    head = "| model | asked | right | tokens | of them thinking |\n|---|---|---|---|---|"
    lines = [
        f"| {STAGES[each['model']]} | {MODES.get(each['mode'], each['mode'])} | {each['accuracy']:.1%} "
        f"({each['low']:.1%} to {each['high']:.1%}) | {each['tokens']:.0f} | {each['thinking']:.0f} |"
        for each in summary(run)
        if each["model"] in STAGES
    ]
    return "\n".join([head, *lines])


def card(run: Path, stage: str, evaluated: Path, scores: list[Score]) -> str:
    """MODEL_CARD.md."""
    made = [name for name in ("sft", "grpo", "distil") if (run / name).is_dir()]
    made = made[: made.index(stage) + 1]
    ledgers = {name: read(run / name) for name in made}
    last = {name: [event for event in events if event["event"] == "step"][-1] for name, events in ledgers.items()}
    start = next(event for event in ledgers["sft"] if event["event"] == "start")
    further = "".join(f"| {STAGES[name]} | {last[name]['step']:,} steps |\n" for name in made[1:])
    hours = sum(json.loads((run / name / "stage.json").read_text())["seconds"] for name in made) / 3600
    per_step, config = start["tokens_per_step"], ModelConfig.read(run / stage / "model")
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
| cold start | {BEFORE:,} tokens of an earlier draw, then {last["sft"]["step"]:,} steps of {per_step:,} |
{further}| last loss | {last[stage]["loss"]:.4f} nats per token; MTP is right on {last[stage]["mtp_accuracy"]:.1%} |
| last MaxVio | {last[stage]["max_violation"]:.2f} (most loaded expert over the mean, less one) |
| time | {hours:.1f} h for these stages, on one core of an AMD EPYC (Zen 4, bfloat16) |
| software | torch {start["torch"]} |
| licence | Apache-2.0, as the project; the training data is generated by `fathom.tasks` |

## What each stage brought

The same fresh problems of all families and levels of the recipe, in English and Chinese, greedy but for the samples.
Forced: its own thought, cut after so many tokens; asked: told a number of tokens, not held to it; budget: both.

{stages(evaluated)}

The teacher is the model before, told to check its work: the student keeps its accuracy in half of its tokens. How it
was found, GRPO from three seeds, and what failed: `docs/log.md`.

## Accuracy

Fresh problems of the test split, greedy decoding, float32 activations, {scores[0].n} drawn per row and language (a
level with few problems repeats them: see the last column); 95 % intervals. Reproduce:
`fathom eval --model nano --n {scores[0].n} --seed {SEED}`, and `--languages zh` for Chinese.

Thinking on (`--effort own`):

{table(scores, "own")}

Thinking off (`--effort none`): the same model answers at once.

{table(scores, "none")}

## Limits

- Trained on contexts of 512 tokens; later positions are untested.
- Trained on levels 1 and 2 (arithmetic to 3, countdown to 4): harder levels show how far that carries.
- Questions outside the families get wrong or empty answers, and so may wordings far from those in `fathom.tasks`.
- The suggested questions of the chat page may be in the training split; the tables above are not.

## Reproduce

```
fathom train recipes/nano.toml --out runs/nano
fathom speedrun --recipe recipes/nano-reasoner.toml --out runs/nano-reasoner
python scripts/release_nano.py runs/nano-reasoner --n {scores[0].n}
```

A new run ends with other bits. The base was trained with a change of the thread count on the way, and before wordings
and some traces were rewritten. The cold start read {BEFORE:,} tokens of 95,000 samples (a third of them Chinese, older
traces of counting, gcd, bases, pathstar and queens) before those of the recipe. The replies that the student read were
sampled in two runs: from the GRPO model for counting, grid and queens (600 problems, 8 replies each), from the cold
start for the other families but pathstar (2,400 problems, 4 replies each); the 2,294 that were kept were read twice.
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
