"""A group of ranks on two hosts: the tokens of one process, whatever the link between them does."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fathom.batching.leases import Patience
from fathom.batching.request import Output, Request
from fathom.config import ModelConfig, find_model
from fathom.cost.exchanges import exchanges
from fathom.errors import FathomError, WorkerError
from fathom.layout import Layout
from fathom.layout.deploy import Pool
from fathom.serve import messages
from fathom.serve.client import EngineClient, RestartPolicy, Watcher
from fathom.serve.fleet import Fleet
from fathom.serve.ledger import Inbox
from fathom.serve.transport import WORKER, Spawned
from tests.cluster.mix import MODEL, alone, requests
from tests.cluster.netns import ADDRESSES, DELAY_S, TwoHosts, two_hosts

pytestmark = [pytest.mark.usefixtures("native"), pytest.mark.timeout(110)]

BITS, PORT, TIMEOUT_S = 8, 29400, 4.0
LAYOUTS = {"ep2": Layout(dp=2, ep=2), "tp2": Layout(tp=2), "pp2": Layout(pp=2)}
QUICK = RestartPolicy(restarts=3, first_pause_s=0.1)
Replies = dict[str, tuple[list[int], list, str]]


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return written(tmp_path / "secret", "0123456789abcdef0123456789abcdef")


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o600)
    return file


def hello(layout: Layout, secret: Path, **ranks: object) -> messages.Hello:
    """What the front asks of a worker on host 0: the settings of mix.py, guesses included."""
    shape = (layout.pp, layout.dp, layout.tp, layout.ep)
    between = {"host": ADDRESSES[0], "port": PORT, "here": 1, "secret": str(secret), "timeout_s": TIMEOUT_S} | ranks
    return messages.Hello(
        str(find_model(MODEL)), layout=shape, threads=1, spec="1", bits=str(BITS), num_pages=400, max_sequences=20,
        max_batch_tokens=96, ranks=messages.Ranks(**between),  # type: ignore[arg-type]
    )  # fmt: skip


def joining(hosts: TwoHosts, layout: str, secret: Path, log: Path) -> subprocess.Popen[bytes]:
    """`fathom serve` on host 1."""
    options = ["--nnodes", "2", "--node-rank", "1", "--master", f"{ADDRESSES[0]}:{PORT}", "--group-secret", str(secret)]
    command = hosts.on(1, sys.executable, "-m", "fathom", "serve", "--layout", layout, *options)
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream)


def spelt(layout: Layout) -> str:
    return f"pp={layout.pp},dp={layout.dp},tp={layout.tp},ep={layout.ep}"


@dataclass
class Group:
    """A client of the worker on host 0, and the process that lends host 1's rank."""

    hosts: TwoHosts
    layout: Layout
    secret: Path
    log: Path
    client: EngineClient
    lent: subprocess.Popen[bytes] | None = None
    errors: list[FathomError] = field(default_factory=list)
    arrivals: list[tuple[float, float]] = field(default_factory=list)  # when, and how long the step took

    def join(self) -> None:
        self.lent = joining(self.hosts, spelt(self.layout), self.secret, self.log)

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            while self.client.state in ("starting", "restarting"):
                await asyncio.sleep(0.02)
        assert self.client.state == "ready", self.client.failure

    async def replies(
        self, asked: list[Request], after: dict[int, Callable[[], object]], most_s: float, to: Fleet | None = None
    ) -> Replies:
        """What comes back; `after` so many outputs something is done once. Errors are put aside."""
        inbox, count = Inbox(), 0
        found: Replies = {}
        left = {request.id for request in asked}
        for request in asked:
            (to or self.client).add([request], inbox)
        async with asyncio.timeout(most_s):
            while left:
                arrival = await inbox.queue.get()
                if not isinstance(arrival.event, Output):
                    self.errors.append(arrival.event)
                    left.discard(arrival.request_id)
                    continue
                tokens, logprobs, _ = found.get(arrival.request_id, ([], [], ""))
                tokens, logprobs = tokens + list(arrival.event.token_ids), logprobs + list(arrival.event.logprobs)
                found[arrival.request_id] = tokens, logprobs, arrival.event.finish_reason or ""
                self.arrivals.append((time.monotonic(), arrival.step_s))
                if arrival.event.finish_reason:
                    left.discard(arrival.request_id)
                count += 1
                if (act := after.pop(count, None)) is not None:
                    act()
        return found


@asynccontextmanager
async def grouped(hosts: TwoHosts, layout: Layout, secret: Path, policy: RestartPolicy = QUICK, **ranks: object):
    """A group that is not yet ready; its end is the test that nothing is left."""
    via = Spawned(hosts.on(0, *WORKER))
    client = EngineClient(hello(layout, secret, **ranks), policy=policy, via=via)
    group = Group(hosts, layout, secret, secret.with_name("host1.log"), client)
    client.start()
    try:
        yield group
    finally:
        await client.stop()
        if group.lent is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(group.lent.wait, 10)
    assert await asyncio.to_thread(hosts.empties, 5.0), "a process is left"


def questions(layout: Layout) -> int:
    """How often a rank asks its peers in a step of one token and a guess, by calculation."""
    config = ModelConfig.read(find_model(MODEL))
    ahead = replace(config, num_hidden_layers=1, first_k_dense_replace=0)
    shapes = [(config, layout)] if layout.pp > 1 else [(config, layout), (ahead, layout)]  # the last stage guesses
    return sum(one.count for shape, divided in shapes for one in exchanges(shape, divided, 1, 1))


def expected(asked: list[Request]) -> Replies:
    """What one process answers."""
    return {request.id: alone(BITS)[request.id] for request in asked}


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_on_two_hosts_give_the_tokens_of_one_process(hosts: TwoHosts, secret: Path, name: str) -> None:
    async def main() -> None:
        asked = list(requests())
        want = expected(asked)
        hosts.wire()
        async with grouped(hosts, LAYOUTS[name], secret) as group:
            await asyncio.sleep(1.0)  # host 1 comes late
            assert group.client.state == "starting"
            group.join()
            await group.ready()
            assert await group.replies(asked, {}, 60) == want
            assert group.client.restarts == 0 and not group.errors
        assert group.lent is not None and group.lent.returncode == 0
        assert "Traceback" not in group.log.read_text()

    asyncio.run(main())


def test_a_link_that_goes_down_and_comes_up_again_costs_a_pause(hosts: TwoHosts, secret: Path) -> None:
    async def main() -> None:
        asked = list(requests())
        want, was = expected(asked), []

        def cut() -> None:
            hosts.cut()
            was.append(time.monotonic())
            asyncio.get_running_loop().call_later(8.0, hosts.mend)

        hosts.wire()
        async with grouped(hosts, LAYOUTS["ep2"], secret) as group:
            group.join()
            await group.ready()
            assert await group.replies(asked, {40: cut}, 60) == want
            assert group.client.restarts == 1 and group.client.resumed > 0 and not group.errors
            times = [at for at, _ in group.arrivals]
            pause_s = max(after - before for before, after in zip(times, times[1:], strict=False))
            assert 8.0 <= pause_s < 20.0
            print(f"down for 8 s, nothing for {pause_s:.1f} s")
        assert group.lent is not None and group.lent.returncode == 0

    asyncio.run(main())


def test_a_link_that_stays_down_ends_every_request_in_an_error(hosts: TwoHosts, secret: Path) -> None:
    """Found out after timeout_s and a second to ask around; then outage_s is what requests wait, and no longer."""

    async def main() -> None:
        asked, was = list(requests())[:24], []
        hosts.wire()
        policy = RestartPolicy(first_pause_s=0.1, outage_s=4.0, goodbye_s=1.0)
        async with grouped(hosts, LAYOUTS["ep2"], secret, policy) as group:
            group.join()
            await group.ready()
            found = await group.replies(asked, {20: lambda: (hosts.cut(), was.append(time.monotonic()))}, 40)
            took_s = time.monotonic() - was[0]
            print(f"every request ended {took_s:.1f} s after the link went down")
            assert 0 < len(group.errors) < len(asked) and all(isinstance(error, WorkerError) for error in group.errors)
            assert group.client.state == "failed" and "not back within 4 s" in str(group.client.failure)
            assert took_s < TIMEOUT_S + 2.0 + policy.outage_s + 3.0
            complete = {name: reply for name, reply in found.items() if reply[2]}
            assert complete == {name: reply for name, reply in expected(asked).items() if name in complete}
            assert group.lent is not None and group.lent.poll() is None, "host 1 looks for another leader"
            group.lent.terminate()

    asyncio.run(main())


def test_host_1_is_killed_and_started_again(hosts: TwoHosts, secret: Path) -> None:
    async def main() -> None:
        asked = list(requests())
        want = expected(asked)
        hosts.wire()
        async with grouped(hosts, LAYOUTS["ep2"], secret) as group:
            group.join()
            await group.ready()

            def kill() -> None:
                for pid in hosts.processes(1):  # `fathom serve` and its rank
                    os.kill(pid, signal.SIGKILL)
                asyncio.get_running_loop().call_later(1.0, group.join)

            assert await group.replies(asked, {40: kill}, 60) == want
            assert group.client.restarts == 1 and not group.errors

    asyncio.run(main())


def test_another_secret_is_an_error_on_both_hosts(hosts: TwoHosts, secret: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosts.wire()
        async with grouped(hosts, LAYOUTS["ep2"], secret, start_s=6.0) as group:
            group.secret = written(tmp_path / "other", "another secret, of the same length")
            group.join()
            assert group.lent is not None
            assert await asyncio.to_thread(group.lent.wait, 20) == 1
            said = group.log.read_text()
            assert f"the leader at {ADDRESSES[0]} port {PORT} has another secret" in said and "Traceback" not in said
            async with asyncio.timeout(20):
                await group.client.settled.wait()
            assert group.client.state == "failed" and "rank 1 did not come within 6 s" in str(group.client.failure)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["ep2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tp2", "pp2"))])
def test_a_slow_link_that_loses_packets_makes_steps_longer_and_no_token_different(
    hosts: TwoHosts, secret: Path, name: str
) -> None:
    """A question to peers costs a round trip: gloo asks before it sends. A lost packet costs 0.2 s and more (TCP).

    Few requests, since a step that guesses ahead asks 17 times with ep=2: 34 trips of 20 ms.
    """

    async def main() -> None:
        asked = list(requests())[:4]
        want = expected(asked)
        hosts.slow_wire()
        async with grouped(hosts, LAYOUTS[name], secret, timeout_s=20.0) as group:
            group.join()
            await group.ready()
            assert await group.replies(asked, {}, 90) == want
            assert group.client.restarts == 0 and not group.errors
            step_s = statistics.median(step_s for _, step_s in group.arrivals)
            asks = questions(group.layout)
            trips = step_s / asks / DELAY_S
            print(f"{name}, {hosts.shaped_by}: a step of {step_s:.2f} s asks {asks} times, {trips:.1f} trips each")
            assert asks * DELAY_S < step_s < (2 * asks + 2) * DELAY_S * 3

    asyncio.run(main())


def apart(hosts: TwoHosts, host: int, watcher: Watcher) -> EngineClient:
    """A worker of one rank there, from which others can fetch pages; the front reaches it without the link."""
    alone_there = messages.Hello(
        str(find_model(MODEL)), threads=1, spec="1", bits=str(BITS), num_pages=400, max_sequences=20,
        max_batch_tokens=96, transfer=f"{ADDRESSES[host]}:0",
    )  # fmt: skip
    name = ("prefill-0", "decode-0")[host]
    return EngineClient(alone_there, via=Spawned(hosts.on(host, *WORKER)), name=name, watcher=watcher)


async def split(hosts: TwoHosts, after: dict[int, Callable[[], object]]) -> tuple[Group, Fleet, Replies]:
    """Prompts are read on host 0, tokens made on host 1."""
    pools = Pool("prefill", role="prefill"), Pool("decode", role="decode")
    both = Fleet(pools, lambda pool, _, watcher: apart(hosts, pools.index(pool), watcher))
    prefill, decode = (replica.client for replica in both.replicas)
    both.start()
    try:
        await asyncio.gather(prefill.settled.wait(), decode.settled.wait())
        assert prefill.state == decode.state == "ready", (prefill.failure, decode.failure)
        group = Group(hosts, Layout(), Path(), Path(), decode)
        found = await group.replies(list(requests()), after, 80, both)
        async with asyncio.timeout(Patience().whole_s + 5.0):  # every lease ends: its pages are free again
            while prefill.stats.pages_used or prefill.stats.leases.get("live") or decode.stats.pages_used:
                await asyncio.sleep(0.05)
        assert prefill.restarts == decode.restarts == 0 and not group.errors
        return group, both, found
    finally:
        await both.stop()
        assert await asyncio.to_thread(hosts.empties, 5.0), "a process is left"


@pytest.mark.parametrize("link", ["fast", "slow", "cut", "cut for good"])
def test_prompts_read_on_one_host_are_continued_on_the_other(hosts: TwoHosts, link: str) -> None:
    """Where pages cannot come, because the link is down, the other host computes them."""

    async def main() -> None:
        want = expected(list(requests()))

        def cut() -> None:
            hosts.cut()
            if link == "cut":
                asyncio.get_running_loop().call_later(4.0, hosts.mend)

        hosts.slow_wire() if link == "slow" else hosts.wire()
        began_s = time.monotonic()
        group, both, found = await split(hosts, {10: cut} if link.startswith("cut") else {})
        assert found == want
        stats = group.client.stats
        took_s = time.monotonic() - began_s
        print(f"{link}: {took_s:.1f} s, {stats.fetched_pages} pages, {stats.failed_fetches} failed, {both.prefilled}")
        assert both.prefilled > 40 and both.alone == 0
        if link.startswith("cut"):
            assert stats.failed_fetches > 0
        else:
            assert stats.fetched_pages > 20 * stats.failed_fetches  # a busy machine misses a deadline now and then

    asyncio.run(main())
