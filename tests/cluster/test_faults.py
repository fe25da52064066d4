"""Whatever happens to a rank, wherever it is: the report names both, and every reply goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.config.faults import Fault
from fathom.errors import EngineError
from fathom.layout import Layout
from fathom.serve.client import EngineClient
from fathom.serve.ledger import Inbox
from tests.cluster.killing import RESTARTS, TIMEOUT_S, Reply, Soak, hello, nothing_left, put_down, requests, undisturbed

COUNT, MOST_TOKENS = 16, 24
TP2_EP2, PP2 = Layout(tp=2, ep=2), Layout(pp=2)
SAID = {
    "kill": "rank {rank} ended with exit code -9, last at step {step}, {op}",
    "stop": "rank {rank} is silent, last at step {step}, {op}",
    "raise": "rank {rank}: RuntimeError: fault: raise at {op}; .*rank {rank} has given up, last at step {step}, {op}",
    "memory": "rank {rank}: MemoryError: fault: memory at {op}; .*rank {rank} has given up",
    "exit": "rank {rank} ended with exit code 70, last at step {step}, {op}",
    "drop": "rank {rank} at step {step}, {op}",
    "corrupt": "what came for {op}.* was changed on its way: its checksum differs",
}


def run(
    layout: Layout, faults: Sequence[Fault], asked: Sequence[Request] = ()
) -> tuple[dict[str, Reply], dict[str, Any]]:
    """All requests on a worker with these faults: what came back for each, and what it took."""
    soak, found, facts = Soak(), dict[str, Reply](), dict[str, Any]()
    asked = asked or requests(COUNT, most_tokens=MOST_TOKENS)

    async def main() -> None:
        client, inbox = EngineClient(hello(layout, faults), policy=RESTARTS), Inbox()
        client.start()
        await client.settled.wait()
        assert client.failure is None, client.failure
        for request in asked:
            client.add([request], inbox)
        ended, last_s, gap_s = 0, time.monotonic(), 0.0
        while ended < len(asked):
            async with asyncio.timeout(40):
                arrival = await inbox.queue.get()
            gap_s, last_s = max(gap_s, time.monotonic() - last_s), time.monotonic()
            if isinstance(arrival.event, Output):
                put_down(found, arrival.request_id, arrival.event)
            else:
                found[arrival.request_id] = arrival.event  # type: ignore[assignment]
            ended += not isinstance(arrival.event, Output) or arrival.event.finish_reason is not None
        facts.update(restarts=client.restarts, resumed=client.resumed, poisoned=client.poisoned, gap_s=gap_s)
        await client.stop()

    with nothing_left(soak):
        asyncio.run(main())
    assert soak.left == []
    return found, facts


OPS = {
    TP2_EP2: ("begin", "columns", "rows", "dispatch", "combine", "compute", "wait for orders"),
    PP2: ("send", "receive"),
}
QUICK = {("combine", "kill"), ("dispatch", "stop"), ("rows", "corrupt")}
EVERYWHERE = [(layout, op, kind) for layout, ops in OPS.items() for op in ops for kind in ("kill", "stop", "raise")]
SOMEWHERE = [(TP2_EP2, "combine", kind) for kind in ("exit", "memory", "drop")]
APART = [(Layout(dp=2), "compute", kind) for kind in ("kill", "stop")]  # the leader shares no group with rank 1
SENT = [(TP2_EP2, op) for op in ("begin", "columns", "rows", "dispatch", "combine")] + [(PP2, "send")]
CHANGED = [(*where, "corrupt") for where in SENT]
CASES = [
    pytest.param(*case, id=f"{case[2]} at {case[1]}", marks=[] if case[1:] in QUICK else [pytest.mark.slow])
    for case in (*EVERYWHERE, *SOMEWHERE, *APART, *CHANGED)
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("layout", "op", "kind"), CASES)
def test_a_rank_is_lost_anywhere(layout: Layout, op: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rank = 0 if op == "send" else 1  # the last stage sends nothing
    with caplog.at_level(logging.WARNING):
        found, facts = run(layout, [Fault(kind, op, rank, step=5)])  # type: ignore[arg-type]
    assert found == undisturbed(COUNT, most_tokens=MOST_TOKENS)
    assert facts["restarts"] == 1 and facts["resumed"] > 0 and facts["poisoned"] == 0
    assert facts["gap_s"] < (15.0 if kind in ("stop", "drop") else 12.0)
    reports = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert len(reports) == 1
    if rank == 0:  # the leader cannot say where it was, unless it lives on
        known = {"kill": "ended with exit code -9", "stop": "silent for", "raise": "the leader: fault: raise at send"}
        wanted = known.get(kind, SAID["corrupt"].format(op="receive"))
    else:
        wanted = SAID[kind].format(rank=rank, step=5, op=op)
    assert re.search(wanted, reports[0]), reports[0]


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_one_late_rank_is_waited_for() -> None:
    found, facts = run(TP2_EP2, [Fault("delay", "combine", 1, every=40, times=3, delay_s=0.3)])
    assert found == undisturbed(COUNT, most_tokens=MOST_TOKENS)
    assert facts["restarts"] == 0 and 0.3 <= facts["gap_s"] < TIMEOUT_S


@pytest.mark.slow
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("op", ["load", "meet", "open"])
def test_a_rank_that_dies_while_the_group_starts_again_is_no_more_than_another_pause(op: str) -> None:
    faults = [Fault("kill", "combine", 1, step=5), Fault("kill", op, 1, lives=(1,))]  # type: ignore[arg-type]
    found, facts = run(TP2_EP2, faults)
    assert found == undisturbed(COUNT, most_tokens=MOST_TOKENS) and facts["restarts"] == 2


@pytest.mark.usefixtures("native")
def test_a_request_that_kills_ends_alone() -> None:
    """A fault that a token brings on, in every life: it is found after two crashes and three more alone."""
    poison = Request("poison", (9, 8, 511, 7), SamplingParams(max_tokens=8))
    asked = [*requests(COUNT, most_tokens=MOST_TOKENS), poison]
    assert not any(511 in request.prompt_token_ids for request in asked[:-1])
    found, facts = run(Layout(), [Fault("kill", "compute", token_id=511, lives=())], asked)
    verdict = found.pop("poison")
    assert isinstance(verdict, EngineError) and verdict.code == "poison_request"
    assert found == undisturbed(COUNT, most_tokens=MOST_TOKENS)
    assert facts["restarts"] == 5 and facts["poisoned"] == 1
