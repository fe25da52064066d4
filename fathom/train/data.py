"""Training text from fathom.tasks: what a step reads is a pure function of (seed, step), so resuming needs no state.

A document is one chat: perhaps some earlier turns, then a question and its answer, with the solver's reasoning or
without. Documents are packed into rows of equal length; the one that does not fit is cut, and its rest is dropped.
Documents do not see each other. Loss is taken on what the assistant says last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from random import Random

from fathom import tasks
from fathom.errors import ConfigError
from fathom.tasks import smalltalk
from fathom.tokenizer import Tokenizer
from fathom.train.packing import Document, Packed, pack
from fathom.train.samples import Sample

#: Share of documents per family; the rest is small talk.
DEFAULT_MIXTURE = {"arithmetic": 0.30, "chain": 0.16, "sorting": 0.17, "counting": 0.15, "countdown": 0.20}


@dataclass(frozen=True)
class Stage:
    """What is read from a step on, until the next stage."""

    from_step: int = 0
    direct_share: float = 0.15  # documents that answer without thinking
    history_share: float = 0.12  # documents with earlier turns
    chinese_share: float = 0.25  # questions in Chinese; the others are in English
    mixture: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_MIXTURE))
    max_level: dict[str, int] = field(default_factory=dict)  # family -> hardest level read; every level if not named

    def __post_init__(self) -> None:
        for name in [*self.mixture, *self.max_level]:
            if name not in tasks.FAMILIES:
                raise ConfigError(f"the mixture names {name!r}; the families are {', '.join(tasks.FAMILIES)}.")
        for name, level in self.max_level.items():
            tasks.require_level(tasks.FAMILIES[name], level)
        if sum(self.mixture.values()) > 1.0 + 1e-9:
            total = sum(self.mixture.values())
            raise ConfigError(f"mixture sums to {total:g}; it must be at most 1, small talk is the rest.")


@dataclass(frozen=True)
class DataConfig:
    """What the model reads."""

    row_tokens: int = 512
    vocab_size: int = 512
    tokenizer_documents: int = 20_000
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        begins = [stage.from_step for stage in self.stages]
        if not begins or begins[0] != 0 or begins != sorted(set(begins)):
            raise ConfigError(f"stages begin at steps {begins}; the first must begin at 0, each later than the last.")

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return [stage for stage in self.stages if stage.from_step <= step][-1]


class TaskData:
    """Packed rows of made-up problems, all of the train split."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, seed: int) -> None:
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.row_tokens = config.row_tokens
        self.facts = asdict(config)

    def batch(self, step: int, rows: int, first_row: int = 0) -> Packed:
        """Rows first_row .. first_row + rows of a step."""
        stage = self.config.stage(step)
        packed: list[list[Document]] = []
        for row in range(first_row, first_row + rows):
            rng = Random(f"{self.seed}/{step}/{row}")
            documents: list[Document] = []
            room = self.config.row_tokens
            while room:
                prompt, answer = self.document(rng, stage)
                prompt, answer = prompt[:room], answer[: max(0, room - len(prompt))]
                documents.append((prompt, answer))
                room -= len(prompt) + len(answer)
            packed.append(documents)
        return pack(packed)

    def document(self, rng: Random, stage: Stage) -> tuple[list[int], list[int]]:
        """Token ids of a prompt, and of what the assistant should say to it, end-of-sequence included."""
        history = rng.randint(1, 2) if rng.random() < stage.history_share else 0
        messages = []
        for _ in range(history):
            question, _, reply = draw_text(rng, stage)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        question, trace, reply = draw_text(rng, stage)
        messages.append({"role": "user", "content": question})
        thinking = rng.random() >= stage.direct_share
        return Sample(tuple(messages), trace if thinking else None, reply).encode(self.tokenizer)


def draw_text(rng: Random, stage: Stage) -> tuple[str, str, str]:
    """A question, the reasoning that answers it, and the reply."""
    language = "zh" if rng.random() < stage.chinese_share else "en"
    names = list(stage.mixture)
    rest = max(0.0, 1.0 - sum(stage.mixture.values()))
    name = rng.choices([*names, ""], [*stage.mixture.values(), rest])[0]
    if not name:
        return smalltalk.sample(rng, language)
    levels = [level for level in tasks.FAMILIES[name].levels if level <= stage.max_level.get(name, level)]
    problem = tasks.draw(name, rng.choice(levels), "train", rng, language)
    return problem.prompt, problem.trace, problem.reply


def train_tokenizer(config: DataConfig, seed: int) -> Tokenizer:
    """A byte-level BPE learned from the same mixture, digits apart."""
    rng = Random(f"{seed}/tokenizer")
    texts = (text for _ in range(config.tokenizer_documents) for text in draw_text(rng, config.stages[0]))
    return Tokenizer.train(texts, config.vocab_size, digits=1)
