"""One rank's part of a model, with its peers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic

from fathom.engine import orders
from fathom.engine.load import first_placements, load_experts, load_part
from fathom.engine.pagebytes import PageLayers
from fathom.engine.place import Place
from fathom.engine.replay import probe
from fathom.engine.runner import Runner
from fathom.errors import FathomError
from fathom.layout import Layout, Shard
from fathom.layout.placement import Placement
from fathom.layout.rows import held
from fathom.model import PackedTransformer
from fathom.ops.packed import Weights
from fathom.parallel.comm import Ranks
from fathom.parallel.groups import Groups, Meeting, joined


class Part:
    """One rank's part of the model, its peers, and a runner once there is a cache."""

    def __init__(self, order: orders.Load, rank: int, place: Place, threads: int) -> None:
        """Raises: FathomError: it cannot be loaded. RuntimeError: a peer did not come."""
        self.rank, self.place, self.threads = rank, place, threads
        self._open = ExitStack()
        self._groups: Groups | None = None
        place.obey(order, rank)
        place.note("load")
        layout, started_s = Layout(*order.layout), monotonic()

        def meet(shard: Shard) -> Ranks:
            place.note("meet")
            meeting = Meeting(order.host, order.port, order.timeout_s, order.cores)
            self._groups = self._open.enter_context(joined(shard, meeting, order.rooms))
            return place.timeline.follow(Ranks(shard, self._groups, place.note, verify=order.verify))

        try:
            self.model: PackedTransformer = load_part(
                order.model,
                layout,
                rank,
                meet,
                bits=order.bits,
                threads=threads,
                load=order.load,
                mtp=order.mtp,
                redundant=order.redundant,
            )
        except BaseException:
            self._open.close()  # a process has one default group: whoever tries again needs a new one
            raise
        self.load_s = monotonic() - started_s
        self.runner: Runner | None = None
        self._order = order
        self.placements = first_placements(self.model.config, layout, order.redundant)
        self._prepared: tuple[int, dict[int, Placement], Weights] | None = None

    @property
    def shard(self) -> Shard:
        return self.model.shard

    @property
    def answers(self) -> bool:
        """Whether this rank is the one that reports what its lane sampled."""
        return self.shard.has_head and self.shard.tp_rank == 0

    def obey(self, order: orders.ToRank, tell: Callable[[orders.ToLeader], None]) -> orders.ToLeader | None:
        """Do what is ordered between two steps; the answer, where this rank is to give one. tell: for later ones."""
        match order:
            case orders.Execute():
                answer = self.execute(order)
                return answer if self.answers else None
            case orders.Probe():
                probed = self.probe()
                return probed if self.answers else None
            case orders.Count():
                return self.count()
            case orders.Trace():
                return self.trace(order)
            case orders.Open():
                self.open(order)
            case orders.Fill():
                self.fill(order)
            case orders.Prepare():
                self.prepare(order, tell)
            case orders.Switch():
                self.switch(order)
        return None

    def open(self, order: orders.Open) -> Runner:
        """Make room for latents."""
        self.place.note("open")
        cache = self.model.new_cache(order.num_pages, order.page_tokens, mtp=order.mtp)
        self.runner = Runner(self.model, cache, timeline=self.place.timeline)
        config = self.model.config
        layers = config.num_hidden_layers + (config.num_nextn_predict_layers if order.mtp else 0)
        self.place.pages = PageLayers(cache, self.shard.layers.start, layers)
        return self.runner

    def fill(self, order: orders.Fill) -> None:
        """Write into a page."""
        assert self.place.pages is not None, "Open comes before Fill"
        self.place.pages.put(order.page, order.content)

    def probe(self) -> orders.Probed:
        """What stands for weights and arithmetic; "" from a rank that does not see the end."""
        return orders.Probed(probe(self.model))

    def execute(self, order: orders.Execute) -> orders.Answer:
        """This rank's share of a step."""
        assert self.runner is not None, "Open comes before Execute"
        plan = order.plans[self.shard.dp_rank]
        self.place.begin(max(plan.step for plan in order.plans), plan)
        sampled = self.runner.execute(plan, order.forwards)
        self.place.note("wait for orders")
        return orders.Answer(tuple(sampled), self.runner.draft_s)

    def count(self) -> orders.Counted:
        """The load of experts since it was last asked for."""
        peers = self.model.peers
        assert isinstance(peers, Ranks), "a part has peers"
        return orders.Counted({layer: load.tolist() for layer, load in peers.take_load().items()})

    def trace(self, order: orders.Trace) -> orders.Traced:
        """What this rank did of late."""
        now_s = monotonic()  # first: the leader compares clocks
        return orders.Traced(now_s, self.shard.dp_rank, self.place.timeline.latest(order.most))

    def prepare(self, order: orders.Prepare, done: Callable[[orders.ToLeader], None]) -> None:
        """Load in the background what other placements want here; `done` is told, from that thread."""
        new = {layer: Placement(slots, self.shard.ep_size) for layer, slots in order.slots.items()}
        wanted = [
            (layer, expert)
            for layer, placement in new.items()
            if layer in self.shard.layers or layer in self.shard.mtp_layers
            for expert in set(placement.on_rank(self.shard.ep_rank)) - set(self._held(layer))
        ]

        def load() -> None:
            started_s = monotonic()
            try:
                self.place.strike("experts")
                weights = load_experts(self._order.model, self.model.config, wanted, self._order.bits)
            except (FathomError, OSError, MemoryError) as error:
                return done(orders.Broke(f"experts cannot be moved: {type(error).__name__}: {error}"))
            self._prepared = order.number, new, weights
            size = sum(weight.nbytes for weight in weights.values())
            return done(orders.Prepared(order.number, size, round(monotonic() - started_s, 3)))

        threading.Thread(target=load, name="experts", daemon=True).start()

    def switch(self, order: orders.Switch) -> None:
        """Let experts lie as prepared, from the next forward on."""
        assert self._prepared is not None and self._prepared[0] == order.number, "Prepare comes before Switch"
        _, new, weights = self._prepared
        self._prepared = None
        for layer, placement in new.items():
            self.placements[layer] = placement
            if layer in self.shard.layers or layer in self.shard.mtp_layers:
                self.model.kernels.place(layer, placement, weights)

    def _held(self, layer: int) -> Sequence[int]:
        return held(self.shard, layer, self.placements)

    def give_up(self) -> None:
        """Wait for no peer any more; from any thread."""
        if self._groups is not None:
            self._groups.give_up()

    def close(self) -> None:
        self._open.close()
