"""The leader's side of a group of ranks: it starts them, orders each step, and says who is lost and where it was.

    crew = Crew.start(CrewConfig("nano", Layout(tp=2, ep=2)))
    engine = Engine(crew.model, config=config, crew=crew)

The leader is rank 0 itself. A group lives and dies as one: when a rank is lost, its peers wait for numbers that do not
come, so the whole group is given up, and whoever holds the requests begins again with what they have.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import TypeVar

import msgspec

from fathom.batching.plan import Plan, Sampled
from fathom.engine import orders
from fathom.engine.crewconfig import CrewConfig, processors
from fathom.engine.crewpages import CrewPages
from fathom.engine.join import spawn
from fathom.engine.part import Part
from fathom.engine.place import Board, Place
from fathom.engine.runner import Runner
from fathom.engine.timeline import Timeline
from fathom.errors import FathomError, InputError, WorkerError
from fathom.layout.placement import Placement
from fathom.model import PackedTransformer
from fathom.ops.shared import make_room
from fathom.parallel.control import Desk, Link
from fathom.parallel.groups import free_port, rooms_on, talk_over

log = logging.getLogger(__name__)

A = TypeVar("A", bound=orders.Order)

ASK_S = 0.5  # for ranks to say where they are
BEAT_S = 0.5  # between two looks at ranks that are waited for
LOADING_PATIENCE = 3  # while they load, a library that is read from a slow disk may stop all of a process
ENDING_S = 0.2  # from the end of a connection to that of its process
BROKEN = (FathomError, RuntimeError, OSError, MemoryError)
"""What ends a group when it happens to its leader: from torch.distributed, a peer is gone or silent for too long."""


class Crew:
    """The ranks of a group, the leader among them.

    Attributes: on_lost: called once, from any thread, with a report when a rank is lost; the group is of no more use.
    """

    def __init__(self, config: CrewConfig) -> None:
        self.config, self.layout = config, config.layout
        self.on_lost: Callable[[str], None] = lambda _report: None
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._boards: dict[int, Board] = {}
        self._links: dict[int, Link] = {}
        self._answers: queue.Queue[tuple[int, orders.ToLeader | None]] = queue.Queue()
        self._place = Place()
        self._where: dict[int, orders.At] = {}
        self._heard_s: dict[int, float] = {}
        self._gone, self._broken = set[int](), set[int]()
        self._lock, self._report, self._leaving = threading.Lock(), "", False
        self._part: Part | None = None
        self._number, self._prepared = 0, set[int]()
        self.pages: CrewPages | None = None
        self._rooms: dict[str, int] = {}

    @staticmethod
    def start(config: CrewConfig) -> Crew:
        """A crew that has loaded the model.

        Raises: FathomError: a rank did not come, or the model cannot be loaded or divided like this.
        """
        crew = Crew(config)
        try:
            crew._gather()
        except BaseException:
            crew.close()
            raise
        return crew

    @property
    def model(self) -> PackedTransformer:
        """The leader's own part."""
        return self._own.model

    @property
    def lanes(self) -> int:
        """Data-parallel lanes, each with a batch of its own."""
        return self.layout.dp

    @property
    def timeline(self) -> Timeline:
        """What the leader did of late."""
        return self._place.timeline

    def shares_clock(self, rank: int) -> bool:
        """Whether a rank is of this host."""
        return rank in self._processes or rank == 0

    def trace(self, most: int) -> orders.Traced:
        """What the leader did of late, as other ranks tell it."""
        return self._own.trace(orders.Trace(most))

    def open(self, num_pages: int, page_tokens: int, *, mtp: bool) -> Runner:
        """Make room for latents on every rank; the leader's own runner."""
        order = orders.Open(num_pages, page_tokens, mtp)
        self._order(order)
        self.pages = CrewPages(self._own, self._links, self.config.timeout_s)
        return self._own.open(order)

    def execute(self, plans: Sequence[Plan]) -> list[list[Sampled]]:
        """What each lane samples in one step of all.

        Raises: WorkerError: a rank is lost.
        """
        counts = [plan.forwards for plan in plans]
        forwards = max(main for main, _ in counts), max(ahead for _, ahead in counts)
        order = orders.Execute(tuple(plans), forwards)
        found: dict[int, orders.Answer] = {}
        try:
            self._order(order)
            own = self._own.execute(order)
        except BROKEN as error:
            raise self._lose(f"the leader: {error}") from error
        if self._own.answers:
            found[0] = own
        while len(found) < self.lanes:
            rank, message = self._next()
            if not isinstance(message, orders.Answer):
                raise self._lose(f"rank {rank} answers a step with {type(message).__name__}")
            found[rank] = message
        return [list(found[rank].sampled) for rank in sorted(found)]

    # -- pages -----------------------------------------------------------------------------------------------------

    def probe(self) -> str:
        """What stands for weights and arithmetic (replay.py)."""
        self._order(orders.Probe())
        try:
            found = {self._own.probe().digest} - {""}
        except BROKEN as error:
            raise self._lose(f"the leader: {error}") from error
        for _ in range(self.lanes - self._own.answers):
            rank, message = self._next()
            if not isinstance(message, orders.Probed):
                raise self._lose(f"rank {rank} answers Probe with {type(message).__name__}")
            found.add(message.digest)
        assert len(found) == 1, "lanes compute alike"
        return found.pop()

    # -- experts that follow the load ------------------------------------------------------------------------------

    @property
    def placements(self) -> dict[int, Placement]:
        """Where the experts of each layer lie; as `Shard.experts` says where nothing else was asked for."""
        config, own = self.model.config, self._own.placements
        even = Placement.contiguous(config.n_routed_experts, self.layout.ep)
        layers = range(config.num_hidden_layers + config.num_nextn_predict_layers)
        return {layer: own.get(layer, even) for layer in layers if config.is_moe(layer)}

    def take_load(self) -> dict[int, list[int]]:
        """Tokens that chose each expert since it was last asked for, by layer, of all lanes."""
        load = dict(self._own.count().load)
        for rank, message in self.ask(orders.Count(), orders.Counted).items():
            if rank % (self.layout.dp * self.layout.tp) % self.layout.ep == 0:  # one of each group of experts
                for layer, counts in message.load.items():
                    before = load.get(layer)
                    load[layer] = counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]
        return load

    def prepare(self, placements: Mapping[int, Placement]) -> None:
        """Let every rank load, while steps go on, the experts that it lacks for these placements."""
        self._prepared, self._number = set(), self._number + 1
        order = orders.Prepare(self._number, {layer: placement.slots for layer, placement in placements.items()})
        self._order(order)
        self._own.prepare(order, lambda answer: self._sort(0, answer))

    @property
    def prepared(self) -> bool:
        """Whether every rank has what it lacked."""
        return len(self._prepared) == self.layout.world_size

    def switch(self) -> None:
        """From the next step on, experts lie as prepared."""
        order = orders.Switch(self._number)
        self._order(order)
        self._own.switch(order)

    def close(self) -> None:
        """Let every rank go; those that do not are ended."""
        self._leaving = True
        for link in self._links.values():
            with suppress(OSError):
                link.send(orders.pack(orders.Leave()))
        until = monotonic() + 5.0
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - monotonic()) if not self._report else 0.1)
            process.kill()
            process.wait()
        for link in self._links.values():
            link.close()
        for board in self._boards.values():
            board.close()
        for room in self._rooms.values():
            os.close(room)
        self._rooms = {}
        if self._part is not None:
            self._part.close()

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        config = self.config
        token = config.token or secrets.token_hex(16)
        desk = Desk(config.host, token, config.port)
        sizes = {name: len(ranks) for name, ranks in rooms_on(self.layout, config.here).items()}
        self._rooms = {name: room for name, size in sizes.items() if (room := make_room(size)) is not None}
        try:
            for rank in range(1, config.here):
                board = self._boards[rank] = Board()
                inherited = board.file, *self._rooms.values()
                self._processes[rank] = spawn(config.host, desk.port, rank, token, inherited)
            self._links = desk.assemble(self.layout.world_size, config.start_s, self._check_processes)
        finally:
            desk.close()
        for rank, link in self._links.items():
            threading.Thread(target=self._listen, args=(rank, link), name=f"rank {rank}", daemon=True).start()
        elsewhere = [link.address for rank, link in self._links.items() if rank not in self._processes]
        talk_over(elsewhere[0] if elsewhere else config.host)  # host may be a name, which names no interface
        order = orders.Load(
            model=str(config.model), layout=(self.layout.pp, self.layout.dp, self.layout.tp, self.layout.ep),
            host=config.host, port=free_port(config.host), timeout_s=config.timeout_s, bits=str(config.bits),
            threads=config.threads_each, load=config.load, mtp=config.mtp,
            redundant=config.redundant, rooms=self._rooms, cores=config.threads_each * config.here <= processors(),
            verify=config.verify or bool(config.faults), faults=config.faults,
        )  # fmt: skip
        for rank, link in self._links.items():
            own = {"board": self._boards[rank].file} if rank in self._boards else {"rooms": {}, "cores": False}
            link.send(orders.pack(msgspec.structs.replace(order, **own)))
        try:
            self._part = Part(order, 0, self._place, config.threads_each)
        except (RuntimeError, OSError, MemoryError) as error:
            raise self._lose(f"the leader: {error}") from error
        for _ in self._links:
            rank, message = self._next()
            if not isinstance(message, orders.Loaded):
                raise self._lose(f"rank {rank} answers Load with {type(message).__name__}")
            log.info("rank %d has loaded %.2f GB in %.1f s", rank, message.weight_bytes / 1e9, message.seconds)

    def _check_processes(self) -> None:
        for rank, process in self._processes.items():
            if process.poll() is not None:
                raise WorkerError(f"rank {rank} ended with exit code {process.returncode} before it was ready")

    @property
    def _own(self) -> Part:
        assert self._part is not None, "start the crew first"
        return self._part

    # -- orders and answers ----------------------------------------------------------------------------------------

    def _order(self, order: orders.ToRank) -> None:
        frame = orders.pack(order)
        for link in self._links.values():
            link.send(frame)

    def ask(self, order: orders.ToRank, kind: type[A], only: int | None = None) -> dict[int, A]:
        """What each rank but the leader answers to an order between two steps, or one of them alone.

        Raises: WorkerError: a rank is lost.
        """
        ranks, found = list(self._links) if only is None else [only], dict[int, A]()
        try:
            for rank in ranks:
                self._links[rank].send(orders.pack(order))
        except OSError as error:
            raise self._lose(f"rank {rank} takes no orders: {error}") from error
        for _ in ranks:
            rank, message = self._next()
            if not isinstance(message, kind):
                raise self._lose(f"rank {rank} answers {type(order).__name__} with {type(message).__name__}")
            found[rank] = message
        return found

    def _next(self) -> tuple[int, orders.ToLeader]:
        """The next answer of any rank. Raises: the error of one that cannot go on, or WorkerError."""
        since_s, found = monotonic(), None
        while found is None:
            try:
                found = self._answers.get(timeout=BEAT_S)
            except queue.Empty:
                self._check_silence(since_s)
        rank, message = found
        if message is None:
            raise self._lose(f"rank {rank} is gone")
        if isinstance(message, orders.Broke):
            if message.fault == "input":
                raise InputError(f"rank {rank}: {message.message}")
            raise self._lose(f"rank {rank}: {message.message}")
        return rank, message

    def _check_silence(self, since_s: float) -> None:
        """Ask ranks whether they are there: nobody who waits for an answer need be in a group with whom it waits for.

        Raises: WorkerError: one has been silent for too long, or there has been no answer since `since_s`.
        """
        now_s, loading = monotonic(), self._part is None or self._part.runner is None
        patience_s = self.config.timeout_s * (LOADING_PATIENCE if loading else 1)
        for rank, link in self._links.items():
            with suppress(OSError):  # then its connection is closed, which is noticed where it is read
                link.send(orders.pack(orders.Where()))
            silent_s = now_s - max(since_s, self._heard_s.get(rank, 0.0))
            if silent_s > patience_s:
                raise self._lose(f"rank {rank} has been silent for {silent_s:.1f} s")
        if now_s - since_s > self.config.start_s:
            raise self._lose(f"no rank answers within {self.config.start_s:g} s")

    def _listen(self, rank: int, link: Link) -> None:
        """Sort what a rank says, until it says no more."""
        with suppress(ValueError):
            while (frame := link.receive()) is not None:
                self._heard_s[rank], message = monotonic(), orders.to_leader(frame)
                self._sort(rank, message)
                if isinstance(message, orders.Broke) and message.fault != "input":
                    self._broken.add(rank)
                    self._lose(f"rank {rank}: {message.message}")  # here: the leader itself may wait for ever
        self._gone.add(rank)
        self._answers.put((rank, None))
        if not self._leaving:
            self._lose(f"rank {rank} is gone")

    def _sort(self, rank: int, message: orders.ToLeader) -> None:
        if isinstance(message, orders.At):
            self._where[rank] = message
        elif isinstance(message, orders.Fetched):
            assert self.pages is not None, "somebody asked for it"
            self.pages.hear(message)
        elif isinstance(message, orders.Prepared):
            if message.number == self._number:
                self._prepared.add(rank)
        else:
            self._answers.put((rank, message))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> WorkerError:
        """The error that says why the group is given up, and where each rank was; the first reason counts."""
        with self._lock:
            first = not self._report
            if first:
                self._report = f"{reason}; {self._whereabouts()}"
        if first and self._part is not None:
            self._part.give_up()
        if first and not self._leaving:
            self.on_lost(self._report)
        return WorkerError(self._report)

    def _whereabouts(self) -> str:
        """Where each rank is, or was last; those that do not say so are silent, and most likely at fault."""
        self._where.clear()
        for rank, link in self._links.items():
            try:
                link.send(orders.pack(orders.Where()))
            except OSError:
                self._gone.add(rank)
        until = monotonic() + ASK_S
        while monotonic() < until and len(self._where.keys() | self._gone | self._broken) < len(self._links):
            sleep(0.005)
        return "; ".join([f"rank 0 at {self._place.at}", *map(self._whereabouts_of, self._links)])

    def _whereabouts_of(self, rank: int) -> str:
        process, board = self._processes.get(rank), self._boards.get(rank)
        last = self._where.get(rank) or (None if board is None else board.at)
        if process is not None and rank in self._gone:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_S)
        if process is not None and process.returncode is not None:
            is_it = f"ended with exit code {process.returncode}"
        elif rank in self._gone:
            is_it = "is gone"
        elif rank in self._broken:
            is_it = "has given up"
        elif rank not in self._where:
            is_it = "is silent"
        else:
            return f"rank {rank} at {last}"
        return f"rank {rank} {is_it}" + ("" if last is None else f", last at {last}")
