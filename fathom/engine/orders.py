"""What the leader of a group orders its ranks to do, and what they answer: msgpack maps whose `type` names the message.

leader -> rank   Load, then Open, then Execute | Fill | Probe | Count | Trace | Prepare | Switch; Where and Fetch at
                 any time; Leave
rank -> leader   Loaded, then an Answer to each Execute that it samples for, Counted, Traced, Prepared; At; Broke
                 when it cannot go on
"""

from __future__ import annotations

import msgspec

from fathom.batching.plan import Plan, Sampled
from fathom.config.faults import Fault

GONE = 75
"""Exit code of a rank whose leader is gone: it may be started again, to find the next one."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", omit_defaults=True):
    """Base of every message."""


class Load(Order, frozen=True, tag="load"):
    """Load a part of a model.

    Fields: layout: pp, dp, tp, ep. host, port: where tensors' connections are arranged. timeout_s: the longest that a
            rank waits for another in the middle of a step. redundant: copies of experts per layer. rooms: memory shared
            with other ranks of the leader's host, as inherited descriptors (parallel/groups.py); cores: whether each of
            these ranks has a core of its own. board: such a descriptor, of the page on which the rank says where it is
            (place.py). verify: what travels carries checksums. faults: made on purpose. The others: as `load_model` has
            them.
    """

    model: str
    layout: tuple[int, int, int, int]
    host: str
    port: int
    timeout_s: float
    bits: str = "auto"
    threads: int | None = None
    load: str = "map"
    mtp: bool | None = None
    redundant: int = 0
    rooms: dict[str, int] = {}
    cores: bool = False
    board: int | None = None
    verify: bool = False
    faults: tuple[Fault, ...] = ()


class Open(Order, frozen=True, tag="open"):
    """Make room for latents."""

    num_pages: int
    page_tokens: int
    mtp: bool


class Execute(Order, frozen=True, tag="execute"):
    """One step. plans: one for each data-parallel lane. forwards: see Runner.execute."""

    plans: tuple[Plan, ...]
    forwards: tuple[int, int]


class Fill(Order, frozen=True, tag="fill"):
    """Write into a page. content: of all layers, as one process has it (pagebytes.py); a stage takes its own."""

    page: int
    content: bytes


class Fetch(Order, frozen=True, tag="fetch"):
    """Say, now, what is in a page that nobody writes into. number: of the question."""

    number: int
    page: int


class Probe(Order, frozen=True, tag="probe"):
    """Compute a few tokens that stand for weights and arithmetic."""


class Count(Order, frozen=True, tag="count"):
    """Say how many tokens chose each expert since you were last asked."""


class Trace(Order, frozen=True, tag="trace"):
    """Say what you did of late: at most so many events (timeline.py); 0 asks for your clock alone."""

    most: int = 0


class Prepare(Order, frozen=True, tag="prepare"):
    """Load, while steps go on, the experts that other placements want here. slots: by layer (Placement.slots)."""

    number: int
    slots: dict[int, tuple[int, ...]]


class Switch(Order, frozen=True, tag="switch"):
    """From the next step on, experts lie as in the Prepare of that number."""

    number: int


class Where(Order, frozen=True, tag="where"):
    """Say where you are, now."""


class Leave(Order, frozen=True, tag="leave"):
    """Go."""


class Loaded(Order, frozen=True, tag="loaded"):
    """Fields: weight_bytes: of this rank's weights. seconds: loading took so long."""

    weight_bytes: int
    seconds: float


class Answer(Order, frozen=True, tag="answer"):
    """What a lane sampled. draft_s: the part of the step in which guesses were made [s]."""

    sampled: tuple[Sampled, ...]
    draft_s: float = 0.0


class Fetched(Order, frozen=True, tag="fetched"):
    """A rank's layers of a page: their latents, their rotated keys."""

    number: int
    latent: bytes
    rope: bytes


class Probed(Order, frozen=True, tag="probed"):
    """Digest of the logits (replay.py)."""

    digest: str


class Counted(Order, frozen=True, tag="counted"):
    """Tokens that chose each expert, by layer; the same on all ranks that share experts."""

    load: dict[int, list[int]]


class Traced(Order, frozen=True, tag="traced"):
    """Fields: now_s: this rank's monotonic clock. lane: data-parallel. events: op, layer, step, begin and end [s]."""

    now_s: float
    lane: int = 0
    events: list[tuple[str, int, int, float, float]] = []


class Prepared(Order, frozen=True, tag="prepared"):
    """The experts are here. bytes: read for it, in `seconds`."""

    number: int
    bytes: int
    seconds: float


class At(Order, frozen=True, tag="at"):
    """What a rank does: step, operation, layer of its own; since_s: for how long [s]."""

    step: int
    op: str
    layer: int
    since_s: float

    def __str__(self) -> str:
        layer = "" if self.layer < 0 else f" of layer {self.layer}"
        return f"step {self.step}, {self.op}{layer}, for {self.since_s:.1f} s"


class Broke(Order, frozen=True, tag="broke"):
    """A rank cannot go on. fault: "input" if what it was asked for is at fault."""

    message: str
    fault: str = ""


ToRank = Load | Open | Execute | Fill | Fetch | Probe | Count | Trace | Prepare | Switch | Where | Leave
ToLeader = Loaded | Answer | Fetched | Probed | Counted | Traced | Prepared | At | Broke

pack = msgspec.msgpack.Encoder().encode
_to_rank = msgspec.msgpack.Decoder(ToRank)
_to_leader = msgspec.msgpack.Decoder(ToLeader)


def to_rank(frame: bytes) -> ToRank:
    """Raises: msgspec.DecodeError (a ValueError): it is no order."""
    return _to_rank.decode(frame)


def to_leader(frame: bytes) -> ToLeader:
    """Raises: msgspec.DecodeError (a ValueError): it is no answer."""
    return _to_leader.decode(frame)
