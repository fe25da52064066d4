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
    """Raises: InputError: the file cannot be read, or a line is not a sample; the message names the line."""
    try:
        # Not splitlines(): JSON texts may hold U+2028 and its like, at which that cuts.
        text = path.read_text(encoding="utf-8")
        lines = text.removesuffix("\n").split("\n") if text else []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}; give a file of samples, one JSON object a line.") from error
    for number, line in enumerate(lines, 1):
        try:
            yield _sample(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {number}: {error}; a line is one JSON object with messages, thought (or null) and reply."
            ) from error


def _sample(found: Any) -> Sample:
    if not isinstance(found, dict) or not {"messages", "reply"} <= found.keys():
        raise ValueError("messages and reply are needed")
    unknown = set(found) - set(Sample.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    fields: dict[str, Any] = {"thought": None} | found | {"messages": tuple(found["messages"])}
    sample = Sample(**fields)
    if not sample.messages or not all(isinstance(message, dict) for message in sample.messages):
        raise ValueError("messages is empty, or one of them is no object")
    if not isinstance(sample.reply, str) or not isinstance(sample.thought, str | None):
        raise ValueError("reply must be a text, thought a text or null")
    return sample
