"""A packed model as one op: whole layers in native kernels, because between small ops a CPU mostly waits for Python.

    weights in packed form (packing.py)  ->  open_packed(...)  ->  forward, logits

Every token's numbers are a function of the model and of the token's own sequence: no sum's order depends on the batch,
the chunk, the page size or the number of threads. The definition is fathom.model.Transformer with the same weights
unpacked; tests/agreement compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from fathom.config import ModelConfig
from fathom.errors import ConfigError
from fathom.layout import Shard
from fathom.layout.placement import Placement
from fathom.ops.dispatch import library
from fathom.ops.packing import PackedMatrix

MOST_EXPERTS = 1024  # of one layer: what cpu/route.h has room for

Weights = Mapping[str, PackedMatrix | Tensor]
"""Checkpoint name -> weight. Matrices are packed, each head's rows padded to 16, and `kv_b_proj` is two: `k_b_proj`,
per head W_uk transposed (rows latent, columns plain query), and `v_b_proj`, W_uv. Vectors are float32; the router is
packed f32; `model.embed_tokens.weight` is a plain table, float32 or bfloat16."""


class Peers(Protocol):
    """Other processes that hold parts of the same model; all of them ask the same in the same order.

    Nothing is summed across processes: what others have computed is fetched (layout/rows.py), and experts answer row by
    row. So no number depends on how many processes there are.
    """

    pairs: tuple[int, int]
    """(rows of experts that the latest dispatch brought here, rows that are due to this process)."""

    def place(self, layer: int, placement: Placement) -> None:
        """From the next forward on, experts of `layer` (of the model) lie so."""
        ...

    def begin(self, tokens: int) -> int:
        """Before a forward of `tokens` tokens: the most that may arrive in one dispatch."""
        ...

    def columns(self, x: Tensor, places: tuple[int, ...]) -> None:
        """Fetch what others have of x [rows, columns]: rank r those from places[r] to places[r + 1]."""
        ...

    def rows(self, x: Tensor) -> None:
        """Fetch what others have of x [rows, columns]: its rows are shared out evenly."""
        ...

    def dispatch(self, layer: int, x: Tensor, ids: Tensor, room: Tensor) -> tuple[Tensor, Tensor, int]:
        """Send rows of x [tokens, hidden] to where the experts `ids` [tokens, top_k] are; take what others send.

        Args:    layer: which of this process's. room: [most, hidden], filled from its first row on.
        Returns: which of the experts held here, for which row of `room`, int64 [pairs] each; and rows filled.
        """
        ...

    def receive(self, rows: int) -> Tensor:
        """States [rows, hidden] that the stage before this one passes on."""
        ...

    def send(self, x: Tensor) -> None:
        """Pass states [rows, hidden] on to the next stage."""
        ...

    def combine(self, given: Tensor, due: Tensor) -> None:
        """Send results [pairs, hidden] back to whose rows they are; fill `due` [tokens * top_k, hidden]."""
        ...


Best = tuple[list[int], list[float]]
"""Where each row of logits is highest, the first of equals, and how high; a NaN counts as highest."""


class PackedModel(Protocol):
    """What a backend offers. Not thread-safe: threads and working space are one set."""

    name: str
    threads: int

    @property
    def peers_s(self) -> float:
        """Time spent so far in which peers were asked, the wait for later ones included [s]."""
        ...

    def forward(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        *, module: int = -1, before: Tensor | None = None, chosen: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states after the last norm, float32 [tokens, hidden]; latents are appended to the cache.

        Args:   ids, positions: int64 [tokens]. lengths: new tokens of each sequence. table: int32 [sequences, pages].
                latent, rope: the cache, [layers + modules, pages, page_tokens, ...]. module: an MTP module instead of
                the main model, with `before` [tokens, hidden]. chosen: filled with expert ids, int64 [layers + modules,
                tokens, top_k].
        Raises: IndexError: an id, position or page is out of range; nothing was written.
        """
        ...

    def answer(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        rows: Tensor, *, module: int = -1, before: Tensor | None = None, chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Best]:  # fmt: skip
        """`forward`, and `logits` of some `rows` of what it gives, int64 [rows], in one call."""
        ...

    def draft(
        self, ids: Tensor, positions: Tensor, lengths: Sequence[int], table: Tensor, latent: Tensor, rope: Tensor,
        rows: Tensor, *, before: Tensor, then: Tensor,
    ) -> list[list[int]]:  # fmt: skip
        """Guesses in a row by MTP modules, each where the logits are highest: a list of them for each round.

        The first round is `answer` of the first module, for `rows`: the last of each sequence. Another is the next
        module (the last again) on each row's state and guess, at positions `then`, int64 [rounds, sequences].
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states [rows, hidden] times the head, float32 [rows, vocabulary]."""
        ...

    def place(self, layer: int, placement: Placement, weights: Weights) -> None:
        """From the next forward on, the slots of `layer` hold these experts; weights: of those that were not here."""
        ...

    def space_bytes(self, tokens: int) -> int:
        """Working space of a forward of `tokens` tokens [B]."""
        ...


def open_packed(
    config: ModelConfig, weights: Weights, turn: tuple[Tensor, Tensor], threads: int, shard: Shard | None = None,
    peers: Peers | None = None, placements: Mapping[int, Placement] | None = None,
) -> PackedModel | None:  # fmt: skip
    """A packed model on this CPU's kernels; None (said once) if there are none.

    Args:   turn: cosines and sines of the rotary pairs, float32 [positions, rope / 2]. threads: the caller among them.
            shard: the part that `weights` are, if they are not all, and `peers` have the others. placements: of layers
            whose experts do not lie as `Shard.experts` says.
    Raises: ConfigError: a layer has more experts than the kernels can choose from.
    """
    found = library()
    if found is None:
        return None
    if config.n_routed_experts > MOST_EXPERTS:
        raise ConfigError(
            f"n_routed_experts is {config.n_routed_experts}; the kernels choose from {MOST_EXPERTS} at most. "
            "FATHOM_OPS=reference runs the model without them."
        )
    from fathom.ops.cpu.native import NativeModel

    return NativeModel(config, weights, turn, threads, found, shard, peers, placements or {})
