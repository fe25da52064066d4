"""The step log: which engine it was, then every Plan with its answer and its times, one JSON line each.

A Plan is complete, so the log can be executed again: same model, same tokens (replay.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from fathom.batching.plan import Plan, Sampled
from fathom.errors import InputError


class LogHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a log: what a replay needs to stand for the engine that wrote it.

    Fields: config: digest of the model's configuration. probe: digest of the logits of a few tokens, to the bit: of
            weights and arithmetic together. kind: of the weights. numerics: names the arithmetic. mtp: whether the
            cache has room for MTP modules. spill_slots: pages of the spill file, 0 for none.
    """

    config: str
    probe: str
    kind: str
    numerics: str
    page_tokens: int
    num_pages: int
    mtp: bool = False
    spill_slots: int = 0
    version: int = 1


class StepRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step as it happened.

    Fields: step_s: from Plan to tokens [s]; it includes the model and the sampler. draft_s: the part of it in which the
            drafter guessed ahead, which no prediction covers.
    """

    plan: Plan
    sampled: tuple[Sampled, ...]
    step_s: float
    draft_s: float = 0.0

    @property
    def predicted_s(self) -> float | None:
        """What the scheduler expected the step to take, without guesses; None if it had not seen the like yet [s]."""
        return self.plan.predicted_s or None

    @property
    def error(self) -> float | None:
        """By what part of itself the step missed its prediction; None if it had none."""
        measured_s = self.step_s - self.draft_s
        if self.predicted_s is None or measured_s <= 0.0:
            return None
        return abs(self.predicted_s - measured_s) / measured_s


class StepLog:
    """Writes StepRecords to a file, which begins anew: a log tells the life of one engine, whose cache began empty."""

    def __init__(self, path: str | Path, header: LogHeader) -> None:
        self.path = Path(path)
        self.path.write_bytes(msgspec.json.encode(header) + b"\n")

    def write(self, record: StepRecord) -> None:
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def read_header(path: str | Path) -> LogHeader:
    """The first line of a step log.

    Raises: InputError: it is missing, or not such a line.
    """
    try:
        with Path(path).open("rb") as lines:
            return msgspec.json.decode(lines.readline(), type=LogHeader)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a step log.") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}, line 1 does not begin a step log: {error}.") from error


def read_steps(path: str | Path) -> Iterator[StepRecord]:
    """The records of a step log, in order; a torn last line is left out.

    Raises: InputError: a line is not a StepRecord.
    """
    decoder = msgspec.json.Decoder(StepRecord)
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            if number == 1:
                continue  # the header
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise InputError(f"{path}, line {number} is not a step of a step log: {error}.") from error
