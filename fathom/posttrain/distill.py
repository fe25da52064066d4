"""Distillation of logits: a student learns the teacher's distribution over each next token, not only the token.

The teacher runs once: of its distribution at every answer position the `top_k` likeliest tokens are kept by name, and
all others together as one bucket, the rest. With p the teacher and q the student, both at the store's temperature T,

    p~ = (p_1, ..., p_k, p_rest)    q~ = (q_1, ..., q_k, q_rest)    over the teacher's top k, q_rest = 1 - sum q_i
    forward = sum p~ log(p~ / q~)   covers all that the teacher may say
    reverse = sum q~ log(q~ / p~)   keeps to what the teacher is likely to say

Both are 0 exactly where the buckets agree, and never more than the divergence of the whole distributions. Inside the
rest, the student is left as it is. A position costs (1 - c) T^2 divergence + c cross-entropy with the text's own token
(Hinton et al., arXiv:1503.02531: T^2 keeps the size of gradients). The MTP module learns from the same store: what it
predicts after two tokens is what the teacher predicts one position later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fathom import ops
from fathom.checkpoint import Reader, Source, load_weights
from fathom.checkpoint.writer import replacing
from fathom.config import ModelConfig, find_model
from fathom.errors import ConfigError, InputError
from fathom.model import Batch, Transformer
from fathom.posttrain.sft import SampleData, SFTConfig, fingerprint, fitting
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import Ledger
from fathom.train.loss import Criterion
from fathom.train.packing import Document, Packed, pack
from fathom.train.samples import Sample
from fathom.train.trainer import DTYPES, Progress, Trainer, initial_config

FACTS = "store.json"


@dataclass(frozen=True)
class StoreConfig:
    """What is kept of the teacher."""

    top_k: int = 16
    temperature: float = 1.0  # of the distribution that is stored: the rest cannot be softened afterwards
    dtype: str = "float32"  # of log-probabilities; bfloat16 halves them and rounds to 3 digits
    compute_dtype: str = "float32"  # of the teacher
    batch_tokens: int = 4096  # in one forward, at most (a longer sample goes alone)
    shard_positions: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("dtype", "compute_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(DTYPES)}.")
        for name in ("top_k", "batch_tokens", "shard_positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature:g}; it must be above 0. Try 1.")


@dataclass(frozen=True)
class DistillConfig(SFTConfig):
    """How the student learns: as in fine-tuning, with another loss."""

    divergence: Literal["forward", "reverse"] = "forward"
    cross_entropy: float = 0.0  # its share of the loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cross_entropy <= 1:
            raise ConfigError(f"cross_entropy is {self.cross_entropy:g}; it is a share, from 0 to 1.")


# --- the mathematics -------------------------------------------------------------------------------------------------


def buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of tokens [rows, k], and of all others together: [rows, k + 1]; [rows, k] if none is left."""
    total = logits.logsumexp(-1, keepdim=True)
    named = logits.gather(-1, ids) - total
    if ids.shape[-1] == logits.shape[-1]:
        return named
    # Not log(1 - sum): that loses every digit of a small rest.
    rest = logits.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True) - total
    return torch.cat((named, rest), -1)


def divergence(teacher: Tensor, student: Tensor, kind: str = "forward") -> Tensor:
    """Kullback-Leibler divergence of log-probabilities over the same buckets [rows, buckets] -> [rows]."""
    p, q = (teacher, student) if kind == "forward" else (student, teacher)
    return (p.exp() * (p - q)).sum(-1)


# --- the store -------------------------------------------------------------------------------------------------------


def store(
    teacher_dir: Path | str, samples: Sequence[Sample], out: Path, config: StoreConfig | None = None,
    report: Callable[[int, int], None] = lambda done, total: None, device: str = "cpu",
) -> Path:  # fmt: skip
    """Write what the teacher thinks at every answer position of the samples; nothing to do if `out` holds just that.

    A shard has tokens int32 [tokens], lengths int32 [samples, 2] (prompt, answer), ids int32 [positions, k] and
    logprobs [positions, k] of the likeliest tokens, rest float32 [positions]: the log of what all others have.

    Args:    report: called with (positions done, positions in all).
    Raises:  ConfigError: `out` holds another store.
    """
    config, teacher_dir = config or StoreConfig(), find_model(teacher_dir)
    tokenizer, model_config = Tokenizer.load(teacher_dir), initial_config(teacher_dir, {})
    if config.top_k > model_config.vocab_size:
        raise ConfigError(f"top_k is {config.top_k}; the teacher's vocabulary has {model_config.vocab_size} tokens.")
    documents = [sample.encode(tokenizer) for sample in samples]
    if not documents:
        raise InputError("there are no samples to store; give at least one.")
    total = sum(len(answer) for _, answer in documents)
    facts: dict[str, Any] = {
        "format": 1, "teacher": str(teacher_dir.resolve()), "tokenizer": tokenizer.fingerprint,
        "vocab_size": model_config.vocab_size, "sha256": fingerprint(documents), "samples": len(documents),
        "positions": total, "config": asdict(config),
    }  # fmt: skip
    if (out / FACTS).is_file():
        _check_same_store(json.loads((out / FACTS).read_text(encoding="utf-8")), facts, out)
        return out
    dtype = DTYPES[config.compute_dtype]
    teacher = Transformer(model_config, mtp=False, dtype=dtype, device=device).requires_grad_(False)
    load_weights(teacher, teacher_dir, dtype=dtype)
    done = 0
    with replacing(out) as folder:
        shards = _groups(documents, lambda prompt, answer: len(answer), config.shard_positions)
        for number, shard in enumerate(shards, 1):
            tensors = _shard(teacher, shard, config, lambda count: report(done + count, total))  # noqa: B023
            done += sum(len(answer) for _, answer in shard)
            sources = [Source.of(name, tensor) for name, tensor in tensors.items()]
            folder.write_tensors(f"teacher-{number:05d}.safetensors", sources)
        folder.write_json(FACTS, facts)
    return out


def _groups(
    documents: Sequence[Document], size: Callable[[Sequence[int], Sequence[int]], int], limit: int
) -> Iterator[list[Document]]:
    """Neighbours together, until the next would make them larger than the limit."""
    group: list[Document] = []
    held = 0
    for document in documents:
        if group and held + size(*document) > limit:
            yield group
            group, held = [], 0
        group.append(document)
        held += size(*document)
    if group:
        yield group


@torch.inference_mode()
def _shard(
    teacher: Transformer, documents: list[Document], config: StoreConfig, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {"ids": [], "logprobs": [], "rest": []}
    done = 0
    for group in _groups(documents, lambda prompt, answer: len(prompt) + len(answer), config.batch_tokens):
        packed = pack([group])
        hidden = teacher(packed.tokens.to(teacher.device), Batch.packed(packed.lengths, device=teacher.device))
        # The row before an answer token predicts it: a prompt is never empty, so it lies in the same document.
        logits = teacher.logits(hidden[packed.counted.nonzero()[:, 0].to(hidden.device) - 1]) / config.temperature
        ids = logits.topk(config.top_k).indices
        logprobs = buckets(logits, ids).cpu()
        found["ids"].append(ids.int().cpu())
        found["logprobs"].append(logprobs[:, : config.top_k].to(DTYPES[config.dtype]))
        found["rest"].append(logprobs[:, config.top_k :])
        done += len(ids)
        advance(done)
    tensors = {name: torch.cat(parts) for name, parts in found.items()}
    tokens = [token for prompt, answer in documents for token in (*prompt, *answer)]
    lengths = [[len(prompt), len(answer)] for prompt, answer in documents]
    integers = {"tokens": torch.tensor(tokens, dtype=torch.int32), "lengths": torch.tensor(lengths, dtype=torch.int32)}
    return integers | tensors


def _check_same_store(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise ConfigError(f"{out} holds a store whose {key} is {before.get(key)!r}, not {value!r}; name another.")


class Store:
    """A store, opened: documents in memory, the teacher's numbers read when asked for."""

    def __init__(self, directory: Path) -> None:
        """Raises: InputError: it is not a store."""
        if not (directory / FACTS).is_file():
            raise InputError(f"{directory} holds no {FACTS}; make a store of the teacher there first.")
        self.facts: dict[str, Any] = json.loads((directory / FACTS).read_text(encoding="utf-8"))
        self.documents: list[Document] = []
        self._places: list[tuple[Reader, slice]] = []
        for file in sorted(directory.glob("teacher-*.safetensors")):
            reader = Reader(file)
            tokens, at, position = reader.read("tokens").tolist(), 0, 0
            for prompt, answer in reader.read("lengths").tolist():
                end = at + prompt + answer
                self.documents.append((tokens[at : at + prompt], tokens[at + prompt : end]))
                self._places.append((reader, slice(position, position + answer)))
                at, position = end, position + answer

    @property
    def temperature(self) -> float:
        return float(self.facts["config"]["temperature"])

    def targets(self, index: int) -> tuple[Tensor, Tensor]:
        """Of a document: ids int64 [answer, k], and log-probabilities of the buckets float32 [answer, k + 1]."""
        reader, place = self._places[index]
        logprobs = torch.cat((reader.read("logprobs", place).float(), reader.read("rest", place)), -1)
        return reader.read("ids", place).long(), logprobs.log_softmax(-1)  # undoes what rounding did to the sum


# --- the student -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Taught(Packed):
    """Packed documents, and what the teacher thought of each counted token.

    ids: int64 [counted, k]. logprobs: float32 [counted, k + 1].
    """

    ids: Tensor
    logprobs: Tensor


class TaughtData(SampleData):
    """The documents of a store that fit in a row, each with its targets."""

    def __init__(self, taught: Store, config: DistillConfig) -> None:
        self.store, self.kept = taught, fitting(taught.documents, config.row_tokens)
        super().__init__([taught.documents[index] for index in self.kept], config)
        names = ("teacher", "positions", "config")
        self.facts |= {"store": {name: taught.facts[name] for name in names}}
        self.facts |= {"divergence": config.divergence, "cross_entropy": config.cross_entropy}

    def batch(self, step: int, rows: int, first_row: int = 0) -> Packed:
        """Rows first_row .. first_row + rows of a step, or as many of them as it has."""
        packed = super().batch(step, rows, first_row)
        numbers = [self.kept[index] for row in self.chosen(step, rows, first_row) for index in row]
        if not numbers:
            return packed
        ids, logprobs = zip(*map(self.store.targets, numbers), strict=True)
        return Taught(**vars(packed), ids=torch.cat(ids), logprobs=torch.cat(logprobs))


def criterion(config: DistillConfig, temperature: float) -> Criterion:
    """What a prediction costs, as this module's docstring defines it."""

    def cost(packed: Packed, logits: Tensor, places: Tensor) -> Tensor:
        assert isinstance(packed, Taught), "a criterion of the teacher needs rows of its store"
        number = packed.counted.cumsum(0).to(places.device)[places] - 1  # of each predicted token among the counted
        ids, teacher = packed.ids.to(logits.device)[number], packed.logprobs.to(logits.device)[number]
        found = temperature**2 * divergence(teacher, buckets(logits / temperature, ids), config.divergence)
        if not config.cross_entropy:
            return found
        targets = packed.tokens.to(logits.device)[places]
        return (1 - config.cross_entropy) * found + config.cross_entropy * ops.cross_entropy(logits, targets)

    return cost


def distill(
    student_dir: Path | str, store_dir: Path, run_dir: Path, config: DistillConfig | None = None,
    report: Callable[[Progress], None] = lambda progress: None, device: str = "cpu",
) -> Path | None:  # fmt: skip
    """Teach the checkpoint `student_dir` what the store holds; called again with the same, it goes on where it stopped.

    Returns: directory of the new checkpoint (bfloat16), or None if interrupted: the state is saved in `run_dir`.
    Raises:  ConfigError: teacher and student have different vocabularies.
    """
    config, student_dir = config or DistillConfig(), find_model(student_dir)
    taught = Store(store_dir)
    _check_vocabulary(taught, student_dir)
    source = TaughtData(taught, config)
    recipe = config.recipe(student_dir, source.epochs.steps)
    trainer = Trainer(recipe, run_dir, device, source=source, criterion=criterion(config, taught.temperature))
    ledger = Ledger(run_dir)
    dropped = len(taught.documents) - len(source.documents)
    ledger.append("distill", model=str(student_dir), dropped=dropped, config=asdict(config), **source.facts)
    ledger.close()
    return trainer.run(report)


def _check_vocabulary(taught: Store, student_dir: Path) -> None:
    size = ModelConfig.read(student_dir).vocab_size
    if (taught.facts["tokenizer"], taught.facts["vocab_size"]) != (Tokenizer.load(student_dir).fingerprint, size):
        raise ConfigError(
            f"{student_dir} (vocabulary of {size}) and the teacher {taught.facts['teacher']} (of "
            f"{taught.facts['vocab_size']}) have different tokenizers; logits are learned token by token, so both need "
            "the same one. Fine-tune on the teacher's replies instead (fathom sft)."
        )
