"""One training sample: a conversation, the thought and the reply that it shall lead to; lines of JSON in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fathom.errors import InputError
from fathom.tokenizer import Tokenizer, encode_chat


@dataclass(frozen=True)
class Sample:
    """messages: as in the OpenAI API, system and earlier turns included, the last from the user. thought: None answers
    without thinking. The rest says where it is from: `kind` names the style, `key` the problem (tasks.Problem.key)."""

    messages: tuple[dict[str, Any], ...]
    thought: str | None
    reply: str
    kind: str = ""
    family: str = ""
    level: int = 0
    key: str = ""

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of what shall follow it: thought, its end, reply, end of sequence."""
        prompt = encode_chat(tokenizer, self.messages, thinking=self.thought is not None)
        end, end_think = tokenizer.eos_id, tokenizer.end_think_id
        if end is None or (self.thought is not None and end_think is None):
            raise InputError("the tokenizer has no end-of-sentence or </think> token; samples need both.")
        answer = [*tokenizer.encode(self.reply), end]
        if self.thought is not None:
            assert end_think is not None
            answer = [*tokenizer.encode(self.thought), end_think, *answer]
        return prompt, answer


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """One line each; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_samples(path: Path) -> Iterator[Sample]:
    """Raises: InputError: a line is not a sample; the message names the line."""
    known = set(Sample.__dataclass_fields__)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
            unknown = set(found) - known
            if unknown:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
            sample = Sample(**found | {"messages": tuple(found["messages"])})
            if not sample.messages or not isinstance(sample.reply, str):
                raise ValueError("messages and reply are needed")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {number}: {error}; a line is one JSON object with messages, thought (or null) and reply."
            ) from error
        yield sample
