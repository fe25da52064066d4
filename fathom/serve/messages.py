"""What the front and the engine worker say to each other: typed frames over one private socket, or over TCP.

A frame is four bytes of length (big endian) and one msgpack map whose `type` names the message. Nothing here can run
code on arrival: msgspec builds the structs below and refuses everything else. Text never crosses; token ids do.

    front  -> worker   Hello, then Add | Abort | Look | Rebalance | Ping | Shutdown
    worker -> front    Ready, then Tokens | Refused | Stats | Seen | Pong; Failed when it cannot go on

Before that, over TCP only, the worker sends a Challenge and the front its Answer (see secret.py).

Each second the front sends a Ping, which a thread of the worker answers at once, also in the middle of a step or of
loading. `Hello.silent_beats` of them without a word from the other side, and that side counts as gone: nobody waits
longer for a host that was cut off or a process that was stopped. A worker that answers, but is in one step for
`Hello.longest_step_s`, counts as gone too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fathom.batching.request import Output, Request
from fathom.config.faults import Fault

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A prompt of a million tokens is 5 MB; more than this is a mistake, not a message."""
MAX_ANSWER_BYTES = 1024
"""From somebody who has not shown yet that he may talk to the worker."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", omit_defaults=True):
    """Base of every frame."""


class Ranks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the ranks behind a worker find each other and share experts.

    Fields: host, port: where they find the worker; 0 is any port. here: how many of them run on the worker's host; None
            is all. secret: the file with the token that those on other hosts must know. timeout_s: the longest that one
            waits for another in the middle of a step [s]. start_s: the longest that all may take to come and to load
            [s]. redundant_experts, eplb: as in layout/deploy.py. verify: what they send each other carries checksums.
    """

    host: str = "127.0.0.1"
    port: int = 0
    here: int | None = None
    secret: str | None = None
    timeout_s: float = 20.0
    start_s: float = 600.0
    redundant_experts: int = 0
    eplb: Literal["off", "auto", "manual"] = "off"
    verify: bool = False


class Hello(Message, frozen=True, tag="hello"):
    """The first frame: which model to load, and the limits the engine shall keep. None: the engine's own default.

    Fields: cache_dir: a folder that keeps pages for the next process. transfer: HOST:PORT at which other workers reach
            this one and fetch pages; None: they cannot. layout: pp, dp, tp and ep of the ranks behind the worker; None
            is one rank. ranks: more about them. beat_s: time between two Pings [s]. silent_beats: how many of them may
            go by without a word. longest_step_s: a step that takes longer hangs [s]. faults: made on purpose.
    """

    model: str
    threads: int | None = None
    max_sequences: int | None = None
    max_batch_tokens: int | None = None
    num_pages: int | None = None
    page_tokens: int | None = None
    max_stretch: float | None = None
    bits: str | None = None
    numerics: str | None = None
    load: str | None = None
    spec: str | None = None
    spill_path: str | None = None
    spill_bytes: int | None = None
    cache_dir: str | None = None
    transfer: str | None = None
    layout: tuple[int, int, int, int] | None = None
    ranks: Ranks | None = None
    beat_s: float = 1.0
    silent_beats: int = 10
    longest_step_s: float = 300.0
    faults: tuple[Fault, ...] = ()


class Add(Message, frozen=True, tag="add"):
    """Generate for these requests; their outputs come back in Tokens frames, under their ids.

    Siblings travel together, so that no step begins with some of them only: they then share their prompt's pages.
    """

    requests: tuple[Request, ...]


class Abort(Message, frozen=True, tag="abort"):
    """Stop a request and free its pages; an unknown id is ignored (it may have just finished)."""

    request_id: str


class Answer(Message, frozen=True, tag="answer"):
    """The proof that the front knows the secret."""

    proof: bytes


class Ping(Message, frozen=True, tag="ping"):
    """Are you there?"""


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a Ping. Fields: step_s: for how long the step has been running that runs now; 0 if none does."""

    step_s: float = 0.0


class Look(Message, frozen=True, tag="look"):
    """Show, between two steps, where experts lie and who is busy, or what each rank did of late.

    Fields: number: of the Seen that answers. name, first_pid: of this worker and its first rank in a timeline.
    """

    number: int
    what: Literal["experts", "timeline"]
    name: str = "engine"
    first_pid: int = 0


class Rebalance(Message, frozen=True, tag="rebalance"):
    """Move experts as soon as possible to where their load asks for. Fields: number: of the Seen that answers."""

    number: int


class Seen(Message, frozen=True, tag="seen"):
    """The answer to a Look or a Rebalance. Fields: payload: JSON. error: why there is none."""

    number: int
    payload: bytes = b""
    error: str = ""


class Challenge(Message, frozen=True, tag="challenge"):
    """A worker that listens on a network asks who is there."""

    nonce: bytes


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Leave now; everything still running is dropped."""


class Ready(Message, frozen=True, tag="ready"):
    """The model is loaded: the facts the front needs about it, so that it never opens a weight file.

    Fields: context: the longest prompt with its output [tokens]. fingerprint: names weights and arithmetic; the same
            seed and the same fingerprint give the same text. backends: op -> implementation, for people to read.
    """

    vocab_size: int
    context: int
    fingerprint: str
    load_s: float
    max_sequences: int
    parameters: int = 0
    backends: dict[str, str] = {}


class Tokens(Message, frozen=True, tag="tokens"):
    """Everything one engine step gave, and how long it took: what it began was queued until `step_s` ago."""

    outputs: list[Output]
    step_s: float = 0.0


class Refused(Message, frozen=True, tag="refused"):
    """The engine did not take a request, or had to give it up.

    Fields: fault: "request" (then `param` and `code` are RequestError's) or "engine".
    """

    request_id: str
    message: str
    fault: Literal["request", "engine"] = "request"
    param: str | None = None
    code: str | None = None


class Experts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How even the load of experts is.

    Fields: imbalance: load of the busiest ranks over that of mean ranks, of late. rank_rows: rows that each rank
            computed in that time; empty if there are many ranks. moves: of placements so far; the gains are the last
            one's, of throughput: 1.1 is 10 % more.
    """

    imbalance: float
    rank_rows: tuple[int, ...] = ()
    moves: int = 0
    predicted_gain: float | None = None
    measured_gain: float | None = None


class Stats(Message, frozen=True, tag="stats"):
    """The engine's state, a few times a second while it works and once when it falls idle.

    Fields: see EngineStats. slots_used: pages that lie in the spill file, or in the cache folder. leases: by state, how
            many came to be in it; `live`, now. fetched_pages, fetched_bytes: taken in from other workers; fetches:
            prompts whose pages all came; failed_fetches: those whose did not. op_s: seconds by op of the process that
            leads (engine/timeline.py). experts: None where nobody has counted them yet.
    """

    running: int = 0
    waiting: int = 0
    pages_used: int = 0
    pages_total: int = 0
    steps: int = 0
    preemptions: int = 0
    copied_pages: int = 0
    spilled_pages: int = 0
    restored_pages: int = 0
    lost_pages: int = 0
    slots_used: int = 0
    drafted_by_depth: tuple[int, ...] = ()
    accepted_by_depth: tuple[int, ...] = ()
    leases: dict[str, int] = {}
    leased_pages: int = 0
    fetched_pages: int = 0
    fetched_bytes: int = 0
    fetches: int = 0
    failed_fetches: int = 0
    op_s: dict[str, float] = {}
    experts: Experts | None = None


class Failed(Message, frozen=True, tag="failed"):
    """The worker cannot go on. `exit_code` is 2 when the caller's input (a model folder, a setting) is at fault."""

    message: str
    exit_code: int = 1


ToWorker = Hello | Add | Abort | Look | Rebalance | Ping | Shutdown
ToFront = Ready | Tokens | Refused | Stats | Seen | Failed | Pong | Challenge

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_front = msgspec.msgpack.Decoder(ToFront)
_answer = msgspec.msgpack.Decoder(Answer)


def pack(message: Message) -> bytes:
    """One frame, ready to be written."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"the frame is {len(body)} bytes; it must be at most {MAX_FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def frame_bytes(header: bytes, most: int = MAX_FRAME_BYTES) -> int:
    """Length of the body that follows this header.

    Raises: ValueError: the peer does not speak this protocol.
    """
    size = int.from_bytes(header, "big")
    if not 0 < size <= most:
        raise ValueError(f"the frame header says {size} bytes; it must be 1 to {most}")
    return size


def unpack_to_worker(body: bytes) -> ToWorker:
    """The message in a frame body that the front sent."""
    return _to_worker.decode(body)


def unpack_to_front(body: bytes) -> ToFront:
    """The message in a frame body that the worker sent."""
    return _to_front.decode(body)


def unpack_answer(body: bytes) -> Answer:
    """The answer to a Challenge, and nothing else."""
    return _answer.decode(body)
