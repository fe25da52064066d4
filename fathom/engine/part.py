"""One rank's part of a model, with its peers, and where it is in its work."""

from __future__ import annotations

from contextlib import ExitStack
from time import monotonic

from fathom.engine import orders
from fathom.engine.load import load_part
from fathom.engine.runner import Runner
from fathom.layout import Layout, Shard
from fathom.model import PackedTransformer
from fathom.parallel.comm import Ranks
from fathom.parallel.groups import Meeting, joined


class Place:
    """What a rank is doing, for those who ask."""

    def __init__(self) -> None:
        self.step = 0
        self._op, self._layer, self._since_s = "start", -1, monotonic()

    def note(self, op: str, layer: int = -1) -> None:
        """It begins this."""
        self._op, self._layer, self._since_s = op, layer, monotonic()

    @property
    def at(self) -> orders.At:
        return orders.At(self.step, self._op, self._layer, monotonic() - self._since_s)


class Part:
    """One rank's part of the model, its peers, and a runner once there is a cache."""

    def __init__(self, order: orders.Load, rank: int, place: Place, threads: int) -> None:
        """Raises: FathomError: it cannot be loaded. RuntimeError: a peer did not come."""
        self.rank, self.place, self.threads = rank, place, threads
        self._held = ExitStack()
        place.note("load")
        layout, started_s = Layout(*order.layout), monotonic()

        def meet(shard: Shard) -> Ranks:
            place.note("meet")
            meeting = Meeting(order.host, order.port, order.timeout_s)
            return Ranks(shard, self._held.enter_context(joined(shard, meeting)), place.note)

        try:
            self.model: PackedTransformer = load_part(
                order.model, layout, rank, meet, bits=order.bits, threads=threads, load=order.load, mtp=order.mtp
            )
        except BaseException:
            self._held.close()  # a process has one default group: whoever tries again needs a new one
            raise
        self.load_s = monotonic() - started_s
        self.runner: Runner | None = None

    @property
    def shard(self) -> Shard:
        return self.model.shard

    @property
    def answers(self) -> bool:
        """Whether this rank is the one that reports what its lane sampled."""
        return self.shard.has_head and self.shard.tp_rank == 0

    def open(self, order: orders.Open) -> Runner:
        """Make room for latents."""
        self.runner = Runner(self.model, self.model.new_cache(order.num_pages, order.page_tokens, mtp=order.mtp))
        return self.runner

    def execute(self, order: orders.Execute) -> orders.Answer:
        """This rank's share of a step."""
        assert self.runner is not None, "Open comes before Execute"
        plan = order.plans[self.shard.dp_rank]
        self.place.step = max(plan.step for plan in order.plans)
        self.place.note("compute")
        sampled = self.runner.execute(plan, order.forwards)
        self.place.note("wait for orders")
        return orders.Answer(tuple(sampled), self.runner.draft_s)

    def close(self) -> None:
        self._held.close()
