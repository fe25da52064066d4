"""One rank's peers: `fathom.ops.packed.Peers` over the groups that it is in.

A forward of an MoE layer costs an all-gather of expert ids (tokens x top_k numbers), an all-to-all of the rows that
chose experts elsewhere, once for each rank they go to, and an all-to-all of what each expert gave, unsummed: the sender
adds them up in the order of its slots, as it would alone. Tensor parallelism adds two all-gathers per layer.

Everybody can work out from the ids what comes from whom, so no sizes are exchanged, and every rank knows the load of
every expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from fathom.layout import Shard
from fathom.layout.placement import Placement
from fathom.parallel.groups import Groups
from fathom.parallel.seal import Seals, sealed, sealed_bytes


class Ranks:
    """The peers of one rank.

    Args: note: told what is about to be asked, and of which layer: for those who look where a rank is, and for faults;
          where it says True, what is sent is spoilt, if it is sealed. verify: what travels is sealed (seal.py).
    """

    def __init__(
        self, shard: Shard, groups: Groups, note: Callable[[str, int], object] | None = None, *, verify: bool = False
    ) -> None:
        self._seals = Seals() if verify else None
        self.shard, self.groups = shard, groups if self._seals is None else sealed(groups, self._seals)
        self.pairs = (0, 0)
        self.load: dict[int, Tensor] = {}  # layer -> tokens that chose each expert since `take_load`
        self._note = note or (lambda _op, _layer: None)
        self._layer = -1
        self._counts: list[int] = []
        self._tables: dict[int, Table] = {}
        self._even = Table.of(Placement.contiguous(shard.config.n_routed_experts, shard.ep_size))
        self._layers = [*shard.layers, *shard.mtp_layers]

    def place(self, layer: int, placement: Placement) -> None:
        """From the next forward on, experts of `layer` (of the model) lie so."""
        self._tables[layer] = Table.of(placement)

    def take_load(self) -> dict[int, Tensor]:
        """Tokens that chose each expert, of all ranks that share experts, by layer; counted from now on anew."""
        load, self.load = self.load, {}
        return load

    # -- between stages --------------------------------------------------------------------------------------------

    def receive(self, rows: int) -> Tensor:
        x = torch.empty(rows, self.shard.config.hidden_size)
        if rows:
            self._ask("receive", -1)
            if self._seals is None:
                dist.recv(x, self.groups.before)
            else:
                raw = torch.empty(sealed_bytes(x, rows), dtype=torch.uint8)
                dist.recv(raw, self.groups.before)
                self._seals.open(raw, x, [rows])
        return x

    def send(self, x: Tensor) -> None:
        if len(x):
            self._ask("send", -1)
            assert self.groups.after is not None, "the last stage passes nothing on"
            dist.send(x.contiguous() if self._seals is None else self._seals.seal(x, [len(x)]), self.groups.after)

    # -- what kernels ask ------------------------------------------------------------------------------------------

    def begin(self, tokens: int) -> int:
        group = self.groups.ep
        if group is None:
            return 0
        self._ask("begin", -1)
        own = torch.tensor([_share(tokens, self.shard.tp_size, self.shard.tp_rank)])
        self._counts = group.gather(own).flatten().tolist()
        return sum(self._counts)

    def columns(self, x: Tensor, places: tuple[int, ...]) -> None:
        self._ask("columns", self._layer)
        size, rank, group = self.shard.tp_size, self.shard.tp_rank, self.groups.tp
        assert group is not None, "columns are divided among several ranks"
        widest = max(end - begin for begin, end in zip(places, places[1:], strict=False))
        own = x.new_zeros(x.shape[0], widest)
        own[:, : places[rank + 1] - places[rank]] = x[:, places[rank] : places[rank + 1]]
        parts = group.gather(own)
        for other in range(size):
            if other != rank:
                x[:, places[other] : places[other + 1]] = parts[other, :, : places[other + 1] - places[other]]

    def rows(self, x: Tensor) -> None:
        self._ask("rows", self._layer)
        size, rank, group = self.shard.tp_size, self.shard.tp_rank, self.groups.tp
        assert group is not None, "rows are divided among several ranks"
        places = [len(x) * other // size for other in range(size + 1)]
        own = x.new_zeros(-(-len(x) // size), x.shape[1])
        own[: places[rank + 1] - places[rank]] = x[places[rank] : places[rank + 1]]
        parts = group.gather(own)
        for other in range(size):
            if other != rank:
                x[places[other] : places[other + 1]] = parts[other, : places[other + 1] - places[other]]

    def dispatch(self, layer: int, x: Tensor, ids: Tensor, room: Tensor) -> tuple[Tensor, Tensor, int]:
        layer = self._layers[layer]
        self._layer = layer
        self._ask("dispatch", layer)
        group, size, rank = self.groups.ep, self.shard.ep_size, self.shard.ep_rank
        assert group is not None, "experts are divided among several ranks"
        table, counts = self._tables.get(layer, self._even), self._counts
        mine = ids.new_zeros(max(counts), ids.shape[1])
        mine[: len(ids)] = ids
        everyone = group.gather(mine)
        chosen = torch.cat([everyone[source, :count] for source, count in enumerate(counts)])
        load = torch.bincount(chosen.flatten(), minlength=self.shard.config.n_routed_experts)
        self.load[layer] = self.load[layer] + load if layer in self.load else load
        places = [0, *torch.tensor(counts).cumsum(0).tolist()]
        turn = torch.cat([torch.arange(count) + source for source, count in enumerate(counts)])
        owner, slot = table.find(chosen, turn)

        ours = owner[places[rank] : places[rank + 1]]
        goes = torch.zeros(len(ours), size, dtype=torch.bool).scatter_(1, ours, True)
        comes = (owner == rank).any(1)
        incoming = [int(comes[places[s] : places[s + 1]].sum()) for s in range(size)]
        arrived = sum(incoming)
        group.exchange(room[:arrived], x[goes.T.nonzero()[:, 1]], incoming, goes.sum(0).tolist())

        token, at = (owner == rank).nonzero(as_tuple=True)
        self._results(owner, ours, places, token)
        return slot[token, at], (comes.cumsum(0) - 1)[token], arrived

    def combine(self, given: Tensor, due: Tensor) -> None:
        self._ask("combine", self._layer)
        group = self.groups.ep
        assert group is not None, "experts are divided among several ranks"
        back = given.new_empty(self.pairs[1], given.shape[1])
        group.exchange(back, given, self._back, self._forth)
        due[self._order] = back

    # -- how -------------------------------------------------------------------------------------------------------

    def _results(self, owner: Tensor, ours: Tensor, places: list[int], token: Tensor) -> None:
        """Remember whose the results are: those computed here by sender, ours by the rank that computes them."""
        size = self.shard.ep_size
        sender = torch.bucketize(token, torch.tensor(places[1:-1]), right=True)
        self._forth = torch.bincount(sender, minlength=size).tolist()
        self._back = torch.bincount(ours.flatten(), minlength=size).tolist()
        self._order = ours.flatten().argsort(stable=True)
        self.pairs = len(token), ours.numel()

    def _ask(self, op: str, layer: int) -> None:
        told = self._note(op, layer)
        if self._seals is not None:
            self._seals.ask(op, layer, spoil=told is True)


class Table:
    """Where experts are, for many tokens at once: count [experts], owner and slot [experts, most copies]."""

    def __init__(self, count: Tensor, owner: Tensor, slot: Tensor) -> None:
        self.count, self.owner, self.slot = count, owner, slot

    @staticmethod
    def of(placement: Placement) -> Table:
        """An expert with fewer copies than others repeats its first where theirs stand; `count` leaves these out."""
        copies, each = placement.replicas, placement.slots_per_rank
        most = max(map(len, copies))
        slots = torch.tensor([(*slots, *slots[:1] * (most - len(slots))) for slots in copies])
        return Table(torch.tensor(list(map(len, copies))), slots // each, slots % each)

    def find(self, ids: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Rank and slot for ids [tokens, top_k]. turn [tokens]: which copy a token takes, by turns."""
        if self.owner.shape[1] == 1:
            return self.owner[ids, 0], self.slot[ids, 0]
        copy = turn[:, None] % self.count[ids]
        return self.owner[ids, copy], self.slot[ids, copy]


def _share(tokens: int, size: int, rank: int) -> int:
    """How many of the tokens a rank asks experts for: as kernels divide them."""
    return tokens * (rank + 1) // size - tokens * rank // size
