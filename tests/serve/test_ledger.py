"""The books of a worker: nobody's tokens are lost or given twice, and who kills workers is found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.request import Output, PrefixSource, Request, SamplingParams
from fathom.errors import EngineError, RequestError
from fathom.serve import messages
from fathom.serve.ledger import MAX_SETBACKS, Crash, Inbox, Ledger

LENGTH = 6


def reply(name: str) -> list[int]:
    return [ord(name[0]) * 100 + i for i in range(LENGTH)]


class Worker:
    """What a worker does, as far as the books can tell: it goes on after the emitted tokens, and may die of a name."""

    def __init__(self, ledger: Ledger, poison: str = "") -> None:
        self.ledger, self.poison = ledger, poison
        self.live: dict[str, Request] = {}
        self.alone_only: list[int] = []

    def obey(self) -> None:
        for message in self.ledger.orders():
            if isinstance(message, messages.Abort):
                del self.live[message.request_id]
            else:
                assert isinstance(message, messages.Add) and message.requests
                self.live |= {request.id: request for request in message.requests}

    def step(self) -> bool:
        """One token for each; whether the worker outlived it."""
        if self.ledger.trial is not None:
            assert [self.ledger.trial.sent_as] == list(self.live), "a suspect must be alone"
        if any(self.poison and name.startswith(self.poison) for name in self.live):
            self.live = {}
            return False
        for name, request in list(self.live.items()):
            at = len(request.emitted_token_ids)
            last = at + 1 == LENGTH
            self.ledger.take(Output(name, (reply(name)[at],), "length" if last else None, cached_tokens=at), 0.1)
            if last:
                del self.live[name]
            else:
                self.live[name] = Request(
                    name, request.prompt_token_ids, emitted_token_ids=tuple(reply(name)[: at + 1])
                )
        return True


def drained(inbox: Inbox) -> dict[str, list[object]]:
    events: dict[str, list[object]] = {}
    while not inbox.queue.empty():
        arrival = inbox.queue.get_nowait()
        events.setdefault(arrival.request_id, []).append(arrival.event)
    return events


@settings(max_examples=60)
@given(st.sets(st.integers(0, 60), max_size=14), st.integers(1, 5), st.integers(0, 5))
def test_whatever_dies_when_every_reply_is_whole(kills: set[int], asked: int, late: int) -> None:
    """A worker that is killed between steps, for no fault of a request."""
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request(name, (1, 2)) for name in "abcde"[:asked]], inbox)
    worker, step = Worker(ledger), 0
    while ledger.pending:
        if step == late:
            ledger.add([Request("z", (3,))], inbox)
        worker.obey()
        if step in kills and ledger.trial is None:  # one that dies under a trial is the suspect's fault
            worker.live = {}
            ledger.crashed(Crash(step))
        else:
            worker.step()
        step += 1
        assert step < 400
    for name, outputs in drained(inbox).items():
        assert [token for output in outputs for token in output.token_ids] == reply(name)
        assert [output.finish_reason for output in outputs] == [None] * (LENGTH - 1) + ["length"]


@given(st.permutations("abcp"))
def test_the_poison_is_found_and_all_others_end_well(order: list[str]) -> None:
    ledger, inbox = Ledger(), Inbox()
    for name in order:
        ledger.add([Request(name, (1,))], inbox)
    worker, crashes = Worker(ledger, poison="p"), []
    while ledger.pending:
        worker.obey()
        if not worker.step():
            crashes.append(Crash(len(crashes)))
            ledger.crashed(crashes[-1])
    events = drained(inbox)
    (found,) = events.pop("p")
    assert isinstance(found, EngineError) and found.code == "poison_request" and ledger.poisoned == 1
    assert len(crashes) == 5 and all(crash.explained for crash in crashes)
    assert {name: [o.token_ids[0] for o in outputs] for name, outputs in events.items()} == {
        name: reply(name) for name in "abc"
    }


@given(st.permutations("abcd"))
def test_who_dies_alone_twice_is_tried_again_and_may_go_free(order: list[str]) -> None:
    """Killed from outside four times in a row, the last two while a suspect is on trial."""
    ledger, inbox = Ledger(), Inbox()
    for name in order:
        ledger.add([Request(name, (1,))], inbox)
    worker, kills = Worker(ledger), 4
    while ledger.pending:
        worker.obey()
        if kills:
            kills, worker.live = kills - 1, {}
            ledger.crashed(Crash(kills))
        else:
            worker.step()
    assert ledger.poisoned == 0
    found = {name: [output.token_ids[0] for output in outputs] for name, outputs in drained(inbox).items()}
    assert found == {name: reply(name) for name in order}


def test_deaths_alone_count_only_in_a_row() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("a", (1,))], inbox)
    at = 0
    for deaths in (4, 4):  # two before anybody is a suspect, and two on trial
        for _ in range(deaths):
            ledger.orders()
            ledger.crashed(Crash(0.0))
        (order,) = ledger.orders()
        for _ in range(2):
            ledger.take(Output(order.requests[0].id, (at,)), 0.0)
            at += 1
        assert ledger.trial is None and ledger.poisoned == 0
    for _ in range(5):
        ledger.orders()
        ledger.crashed(Crash(0.0))
    assert ledger.poisoned == 1 and not ledger.pending


def test_what_a_worker_says_of_an_earlier_life_is_not_heard() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("a", (1,))], inbox)
    (first,) = ledger.orders()
    ledger.take(Output("a", (5,), cached_tokens=1, read_tokens=1), 0.0)
    ledger.crashed(Crash(0.0))
    (second,) = ledger.orders()
    assert first.requests[0].id == "a" and second.requests[0].id == "a/1"
    assert second.requests[0].emitted_token_ids == (5,)
    ledger.take(Output("a", (6,)), 0.0)
    ledger.take(Output("a/1", (7,), "stop"), 0.0)
    outputs = drained(inbox)["a"]
    assert [output.token_ids for output in outputs] == [(5,), (7,)] and not ledger.pending
    assert [(output.read_tokens, output.cached_tokens) for output in outputs] == [(1, 1), (1, 1)]


def test_siblings_travel_together() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("a", (1,)), Request("b", (1,))], inbox)
    ledger.add([Request("c", (1,))], inbox)
    for _ in range(2):
        assert [len(message.requests) for message in ledger.orders()] == [2, 1]
        assert ledger.orders() == []
        ledger.crashed(Crash(0.0)) if _ == 0 else None


def test_a_failed_step_is_tried_again_and_who_fails_alone_ends() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("bad", (1,)), Request("good", (1,))], inbox)
    worker = Worker(ledger)
    for _ in range(40):
        worker.obey()
        if any(name.startswith("bad") for name in worker.live):
            for name in list(worker.live):
                ledger.failed_step(name, Crash(0.0), EngineError("no numbers"))
            worker.live = {}
        else:
            worker.step()
    events = drained(inbox)
    assert [str(event) for event in events["bad"]] == ["no numbers"] and ledger.poisoned == 0
    assert [token for output in events["good"] for token in output.token_ids] == reply("good")


def test_steps_that_fail_in_company_only_come_to_an_end() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("a", (1,), SamplingParams(max_tokens=9)), Request("b", (1,))], inbox)
    rounds = 0
    while len(ledger.pending) == 2:
        rounds += 1
        ledger.orders()
        sent = [pending.sent_as for pending in ledger.pending.values() if pending.sent_as]
        if len(sent) > 1:
            for name in sent:
                ledger.failed_step(name, Crash(0.0), EngineError("together"))
        else:
            for name in sent:
                ledger.take(Output(name, (1,)), 0.0)
        assert rounds < 100
    assert rounds >= MAX_SETBACKS


def test_an_abort_under_trial_lets_the_others_go_on() -> None:
    ledger, inbox = Ledger(), Inbox()
    ledger.add([Request("a", (1,))], inbox)
    ledger.add([Request("b", (1,))], inbox)
    for _ in range(2):
        ledger.orders()
        ledger.crashed(Crash(0.0))
    (trial,) = ledger.orders()
    assert [request.id for request in trial.requests] == ["a/2"] and ledger.orders() == []
    assert ledger.remove("a") == "a/2" and ledger.trial is None
    (trial,) = ledger.orders()
    assert [request.id for request in trial.requests] == ["b/2"]
    ledger.refuse("b/2", RequestError("too long"))
    assert ledger.orders() == [] and not ledger.pending and ledger.remove("b") == ""
    assert isinstance(drained(inbox)["b"][0], RequestError)


SOURCE = PrefixSource("host", 1, "lease", "token")


def prefilling() -> Ledger:
    ledger = Ledger("p")
    ledger.prefills = True
    return ledger


def test_a_worker_that_prefills_is_left_after_one_token_and_lends_once_for_siblings() -> None:
    ledger, inbox = prefilling(), Inbox()
    ledger.add([Request(name, (1, 2), SamplingParams(max_tokens=LENGTH)) for name in "ab"], inbox)
    ledger.add([Request("c", (1, 2), SamplingParams(max_tokens=1))], inbox)
    (first, second), (third,) = (order.requests for order in ledger.orders() if isinstance(order, messages.Add))
    assert [each.params.max_tokens for each in (first, second, third)] == [1, 1, 1]
    assert [each.lends_prefix for each in (first, second, third)] == [True, False, False]
    ledger.take(Output("a", (), read_tokens=1), 0.1)
    ledger.take(Output("a", (7,), "length", read_tokens=2, prefix=SOURCE), 0.1)
    ledger.take(Output("b", (8,), "stop"), 0.1)
    ledger.take(Output("c", (9,), "length"), 0.1)
    (left,) = ledger.read()
    assert left.request.id == "a" and not ledger.pending and not ledger.read()
    events = drained(inbox)
    assert [event.finish_reason for event in events["a"]] == [None, None]
    assert (events["a"][1].prefix, events["b"][0].finish_reason, events["c"][0].finish_reason) == (
        None, "stop", "length",
    )  # fmt: skip

    next_one = Ledger("d")
    next_one.adopt([left])
    (order,) = next_one.orders()
    (request,) = order.requests
    assert (request.emitted_token_ids, request.prefix_from, request.params.max_tokens) == ((7,), SOURCE, LENGTH)
    assert not request.lends_prefix and next_one.resumed == 0
    next_one.take(Output(request.id, (71,), read_tokens=2, cached_tokens=1), 0.1)
    (event,) = drained(inbox)["a"]
    assert (event.request_id, event.token_ids, event.cached_tokens, event.read_tokens) == ("a", (71,), 0, 2)
    next_one.crashed(Crash(0.0))
    (order,) = next_one.orders()
    assert order.requests[0].prefix_from is None and order.requests[0].emitted_token_ids == (7, 71)
    assert next_one.resumed == 1


def test_pages_that_were_not_fetched_when_a_worker_died_are_asked_for_again() -> None:
    ledger, next_one = prefilling(), Ledger("d")
    ledger.add([Request("a", (1, 2), SamplingParams(max_tokens=LENGTH))], Inbox())
    ledger.orders()
    ledger.take(Output("a", (7,), "length", prefix=SOURCE), 0.1)
    next_one.adopt(ledger.read())
    next_one.orders()
    next_one.crashed(Crash(0.0))
    (order,) = next_one.orders()
    assert order.requests[0].prefix_from == SOURCE and next_one.resumed == 1


def test_a_suspect_that_is_prefilled_alone_is_none_any_more() -> None:
    ledger = prefilling()
    ledger.add([Request("a", (1, 2), SamplingParams(max_tokens=LENGTH))], Inbox())
    for _ in range(2):
        ledger.orders()
        ledger.crashed(Crash(0.0))
    ledger.orders()
    assert ledger.trial is not None and ledger.quarantined
    ledger.take(Output(ledger.trial.sent_as, (7,), "length"), 0.1)
    (left,) = ledger.read()
    assert ledger.trial is None and not left.suspect
