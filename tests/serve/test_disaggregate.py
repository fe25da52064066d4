"""Two workers say what one would have said, also when one of them dies in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import pytest
from msgspec.structs import replace

from fathom.batching.request import Output, PrefixSource, Request, SamplingParams, ThinkingParams, sibling_seed
from fathom.config import find_model
from fathom.errors import EngineError, RequestError, WorkerError
from fathom.serve.client import EngineClient, RestartPolicy
from fathom.serve.disaggregate import Disaggregated
from fathom.serve.ledger import Arrival, Inbox
from fathom.serve.messages import Hello
from fathom.serve.transport import WORKER, Spawned
from tests.serve.conftest import ROOT

# ---- with workers that are written down ------------------------------------------------------------------------------

SOURCE = PrefixSource("host", 1, "lease", "token")


class Written:
    """A worker that answers each request with what a function says, and notes what it was asked."""

    def __init__(self, answers) -> None:
        self.answers, self.asked, self.aborted = answers, [], []

    def add(self, requests, inbox, session="") -> None:
        for request in requests:
            self.asked.append(request)
            for event in self.answers(request):
                inbox.queue.put_nowait(Arrival(request.id, event, 0.5))

    def abort(self, request_id) -> None:
        self.aborted.append(request_id)


def first(request: Request):
    return [
        Output(request.id, read_tokens=2),
        Output(request.id, (40,), "length", 3, 1, prefix=SOURCE if request.lends_prefix else None, disk_tokens=1),
    ]


def rest(request: Request):
    return [Output(request.id, (41, 42), "stop", read_tokens=3)]


def collected(both: Disaggregated, *requests: Request, count: int) -> list[Arrival]:
    async def main() -> list[Arrival]:
        inbox = Inbox()
        both.add(requests, inbox)
        async with asyncio.timeout(5):
            arrivals = [await inbox.queue.get() for _ in range(count)]
        await asyncio.sleep(0)
        assert inbox.queue.empty() and both.in_flight == 0
        return arrivals

    return asyncio.run(main())


ASKED = Request("r", (1, 2, 3), SamplingParams(max_tokens=9))


def test_the_decoder_goes_on_where_the_prefiller_stopped_and_counts_are_the_readers() -> None:
    prefill, decode = Written(first), Written(rest)
    both = Disaggregated(prefill, decode)
    events = [each.event for each in collected(both, ASKED, count=3)]
    assert [each.token_ids for each in events] == [(), (40,), (41, 42)]
    assert [each.finish_reason for each in events] == [None, None, "stop"]
    assert [(each.cached_tokens, each.disk_tokens) for each in events[1:]] == [(1, 1)] * 2
    assert all(each.prefix is None for each in events)
    assert prefill.asked[0].params.max_tokens == 1 and prefill.asked[0].lends_prefix
    assert decode.asked[0].emitted_token_ids == (40,) and decode.asked[0].prefix_from == SOURCE
    assert both.counts == {"handed over": 1}


def test_what_ends_with_its_first_token_never_reaches_the_decoder() -> None:
    decode = Written(rest)
    both = Disaggregated(Written(lambda request: [Output(request.id, (1,), "stop")]), decode)
    assert collected(both, ASKED, count=1)[0].event.finish_reason == "stop" and decode.asked == []
    single = Request("s", (1,), SamplingParams(max_tokens=1))
    assert collected(Disaggregated(Written(first), decode), single, count=2)[1].event.finish_reason == "length"
    assert decode.asked == []


def test_siblings_stay_together_and_one_of_them_lends() -> None:
    prefill, decode = Written(first), Written(rest)
    siblings = [Request(str(i), (1, 2, 3), SamplingParams(max_tokens=9, seed=i)) for i in range(3)]
    collected(Disaggregated(prefill, decode), *siblings, count=9)
    assert [each.lends_prefix for each in prefill.asked] == [True, False, False]
    assert [each.prefix_from for each in decode.asked] == [SOURCE, None, None]


@pytest.mark.parametrize("failure", [WorkerError("gone"), EngineError("no numbers")])
def test_a_prefiller_that_fails_is_made_up_for(failure, caplog) -> None:
    prefill, decode = Written(lambda request: [failure]), Written(rest)
    both = Disaggregated(prefill, decode)
    assert collected(both, ASKED, count=1)[0].event.token_ids == (41, 42)
    assert decode.asked == [ASKED] and both.counts == {"fell back": 1} and prefill.aborted == ["r"]
    assert str(failure) in caplog.text


def test_a_prefiller_that_says_nothing_is_not_waited_for_for_ever(caplog) -> None:
    both = Disaggregated(Written(lambda request: []), Written(rest), patience_s=0.05)
    assert collected(both, ASKED, count=1)[0].event.token_ids == (41, 42)
    assert "no first token within 0.05 s" in caplog.text


def test_a_refusal_is_passed_on_and_a_dead_decoder_told() -> None:
    refusal = RequestError("too long")
    both = Disaggregated(Written(lambda request: [refusal]), Written(rest))
    assert collected(both, ASKED, count=1)[0].event is refusal
    gone = WorkerError("gone")
    both = Disaggregated(Written(first), Written(lambda request: [gone]))
    assert [each.event for each in collected(both, ASKED, count=3)][-1] is gone


def test_an_aborted_request_is_aborted_where_it_is() -> None:
    async def main() -> None:
        prefill, decode, inbox = Written(lambda request: []), Written(rest), Inbox()
        both = Disaggregated(prefill, decode)
        both.add([ASKED], inbox)
        await asyncio.sleep(0)
        both.abort("r")
        assert prefill.aborted == ["r"] and both.in_flight == 0
        await asyncio.sleep(1.1)
        assert decode.asked == [] and inbox.queue.empty() and not both._tasks

    asyncio.run(main())


# ---- with real ones --------------------------------------------------------------------------------------------------

# A worker whose pages leave slowly and whose leases end soon.
SLOWLY = (
    sys.executable,
    "-c",
    f"""
import sys, time
from functools import partial
sys.path.insert(0, {str(ROOT)!r})
from fathom.batching.leases import Patience
from fathom.serve import worker
patience = Patience(offered_s=4.0, pulling_s=4.0, whole_s=6.0)
worker.PageExchange = partial(worker.PageExchange, patience=patience, through=lambda page: time.sleep(0.03) or page)
sys.exit(worker.main())
""",
)
NEVER = RestartPolicy(restarts=0)


def mixed() -> list[Request]:
    """Long and short prompts, shared prefixes, siblings, seeds, penalties, limits on thinking."""
    requests = []
    for i in range(18):
        prompt = tuple(20 + (i // 3 * 31 + at * at) % 200 for at in range(7 + 23 * (i // 3)))
        params = SamplingParams(
            max_tokens=(12, 1, 20)[i % 3], temperature=(0.0, 0.8, 1.0)[i % 3], seed=sibling_seed(5, i),
            presence_penalty=0.5 * (i % 2), repetition_penalty=1.1 if i % 5 == 0 else 1.0, ignore_eos=i % 4 > 0,
            logprobs=2 if i % 6 == 0 else None, thinking=ThinkingParams(5, 4) if i % 7 == 0 else None,
        )  # fmt: skip
        requests.append(Request(str(i), prompt, params, streamed=i % 2 == 0))
    return requests


async def replies(client, requests) -> dict[str, tuple[list[int], list, str]]:
    inbox, found = Inbox(), {request.id: ([], [], "") for request in requests}
    for request in requests:
        client.add([request], inbox)
    open_ids = set(found)
    async with asyncio.timeout(60):
        while open_ids:
            arrival = await inbox.queue.get()
            assert isinstance(arrival.event, Output), arrival.event
            ids, logprobs, _ = found[arrival.request_id]
            ids += arrival.event.token_ids
            logprobs += arrival.event.logprobs
            if arrival.event.finish_reason:
                found[arrival.request_id] = (ids, logprobs, arrival.event.finish_reason)
                open_ids.discard(arrival.request_id)
    return found


async def settles(what, most_s=8.0) -> None:
    until_s = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < until_s, "it does not settle"
        await asyncio.sleep(0.05)


def worker(command=WORKER) -> EngineClient:
    hello = Hello(
        str(find_model("nano")), threads=1, max_sequences=8, num_pages=512, spec="off", transfer="127.0.0.1:0"
    )
    return EngineClient(hello, policy=NEVER, via=Spawned(command))


def test_two_processes_say_what_one_says_also_when_one_dies(caplog) -> None:
    async def main() -> None:
        prefill, decode = worker(SLOWLY), worker()
        prefill.start()
        decode.start()
        await asyncio.gather(prefill.settled.wait(), decode.settled.wait())
        assert prefill.state == decode.state == "ready", (prefill.failure, decode.failure)
        both, requests = Disaggregated(prefill, decode), mixed()
        expected = await replies(decode, [each_as(request, "a") for request in requests])
        found = await replies(both, [each_as(request, "b") for request in requests])
        assert bare(found) == bare(expected)
        assert both.counts["handed over"] > 8 and both.counts["fell back"] == 0
        await settles(lambda: decode.stats.fetched_pages > 10)
        await leases_end(prefill)

        # the decode side goes: its lease ends by the deadline, and the pages are free
        long = tuple(20 + at * 7 % 150 for at in range(400))
        inbox = Inbox()
        prefill.add([Request("x", long, SamplingParams(max_tokens=1), lends_prefix=True)], inbox)
        while (last := (await inbox.queue.get()).event).finish_reason is None:
            pass
        assert last.prefix is not None
        await leases_end(prefill)

        # the prefill side dies in the middle of a transfer: the request goes on, and no page stays behind
        asked = Request("y", long, SamplingParams(max_tokens=16, temperature=0.9, seed=4), cache_salt="b")
        inbox = Inbox()
        both.add([asked], inbox)
        ids: list[int] = []
        while not ids:
            ids += (await inbox.queue.get()).event.token_ids
        before, failed = decode.stats.fetched_pages, decode.stats.failed_fetches
        await asyncio.sleep(0.2)  # 25 pages take 0.75 s
        os.kill(prefill.pid, signal.SIGKILL)
        while True:
            event = (await inbox.queue.get()).event
            assert isinstance(event, Output)
            ids += event.token_ids
            if event.finish_reason:
                break
        alone = await replies(decode, [Request("z", long, asked.params, cache_salt="z")])
        assert ids == alone["z"][0]
        await settles(lambda: decode.stats.failed_fetches == failed + 1)
        await settles(lambda: decode.stats.pages_used == decode.stats.running == decode.stats.waiting == 0)
        assert 0 < decode.stats.fetched_pages - before < 25
        # nobody is left to read prompts: the decoder does it all
        await settles(lambda: prefill.state == "failed")
        assert bare(await replies(both, [each_as(requests[2], "c")])) == {"2": expected["2 a"]}
        assert both.counts["fell back"] == 1 and "decode reads the prompt" in caplog.text
        await asyncio.gather(prefill.stop(), decode.stop())

    async def leases_end(client: EngineClient) -> None:
        await settles(lambda: client.stats.leases.get("live") == 0 and client.stats.pages_used == 0)

    asyncio.run(main())


def each_as(request: Request, name: str) -> Request:
    """The same under another name, in a cache of its own."""
    return replace(request, id=f"{request.id} {name}", cache_salt=name)


def bare(found: dict) -> dict:
    return {name.split()[0]: reply for name, reply in found.items()}
