"""Two engines hand pages over. Whatever goes wrong, the text is that of one engine, and no page is held for ever."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from fathom.batching.request import PrefixSource, Request, SamplingParams
from fathom.errors import ConfigError
from fathom.serve.exchange import AT_ONCE, PageExchange, read_address
from tests.engine.tiny import CONFIG
from tests.serve.lending import QUICK, Side, tokens

PROMPT = tuple(range(5, 50))  # 11 full pages of 4 tokens, and one more token
FULL = len(PROMPT) // 4


def asked(name="r", prompt=PROMPT, max_tokens=8, **params):
    return Request(name, prompt, SamplingParams(max_tokens=max_tokens, temperature=0.7, seed=3, **params))


@contextmanager
def sides(*, through=None, decode=None, **prefill):
    one, other = Side(lends=True, through=through, **prefill), Side(**decode or {})
    try:
        yield one, other
    finally:
        one.close()
        other.close()


def read(prefill: Side, request: Request) -> Request:
    """What is left for the decode side once the prefill side has done its part."""
    first = replace(request, params=replace(request.params, max_tokens=1), lends_prefix=True)
    last = prefill.run(first)[request.id][-1]
    return replace(request, emitted_token_ids=last.token_ids, prefix_from=last.prefix)


def text_of(request: Request) -> list[int]:
    """What one undisturbed engine says."""
    alone = Side()
    return tokens(alone.run(replace(request, prefix_from=None, emitted_token_ids=()))[request.id])


def ended(side: Side, *, most_s=20.0) -> None:
    """All leases have ended and their pages are free."""
    side.until(lambda: side.exchange.lender.counts["live"] == 0 and side.leaked == 0, most_s=most_s)


def test_a_prompt_read_on_one_side_is_gone_on_with_on_the_other() -> None:
    with sides() as (prefill, decode):
        rest = read(prefill, asked())
        assert prefill.leaked == FULL
        outputs = decode.run(rest)["r"]
        assert [*rest.emitted_token_ids, *tokens(outputs)] == text_of(asked())
        assert decode.exchange.fetched == FULL and decode.exchange.failed == 0
        assert decode.engine.stats().computed_tokens == 1 + 7  # the prompt's last token, and what was sampled but one
        ended(prefill)
        assert prefill.exchange.lender.counts["released"] == 1 and decode.leaked == 0


def test_only_what_is_missing_travels_and_nothing_declines() -> None:
    with sides() as (prefill, decode):
        decode.run(asked("before", PROMPT[:20], 1))
        decode.run(read(prefill, asked()))
        assert decode.exchange.fetched == FULL - 5
        decode.run(read(prefill, asked("again")))
        prefill.until(lambda: prefill.exchange.lender.counts["aborted"] == 1)
        assert decode.exchange.fetched == FULL - 5


def damaged(times: int):
    """Break the first so many pages on their way."""
    left = [times]

    def through(page):
        left[0] -= 1
        return page if left[0] < 0 else replace(page, content=bytes(len(page.content)))

    return through


@pytest.mark.parametrize(("times", "fetched"), [(1, FULL), (3, FULL), (10**6, 0)])
def test_damaged_pages_are_asked_for_once_more_and_then_computed(times, fetched, caplog) -> None:
    with sides(through=damaged(times)) as (prefill, decode):
        rest = read(prefill, asked())
        outputs = decode.run(rest)["r"]
        assert [*rest.emitted_token_ids, *tokens(outputs)] == text_of(asked())
        assert (decode.exchange.fetched, decode.exchange.failed) == (fetched, int(fetched == 0))
        assert ("computed here" in caplog.text) == (fetched == 0)
        ended(prefill)
        assert decode.leaked == 0


def test_a_line_that_breaks_leaves_what_came_and_the_lease_to_its_deadline(caplog) -> None:
    seen = []

    def through(page):
        seen.append(page)
        return page if len(seen) <= 4 else None

    with sides(through=through) as (prefill, decode):
        rest = read(prefill, asked())
        outputs = decode.run(rest)["r"]
        assert [*rest.emitted_token_ids, *tokens(outputs)] == text_of(asked())
        assert (decode.exchange.fetched, decode.exchange.failed, decode.leaked) == (4, 1, 0)
        assert outputs[-1].read_tokens == len(PROMPT)
        ended(prefill)
        assert prefill.exchange.lender.counts["expired"] == 1 and "expired" in caplog.text


def test_a_slow_lender_delays_its_own_request_only_and_not_beyond_the_deadline() -> None:
    def through(page):
        time.sleep(0.3)
        return page

    with sides(through=through) as (prefill, decode):
        rest, started_s = read(prefill, asked()), time.monotonic()
        decode.take(rest)
        decode.run(asked("other", PROMPT[::-1]))
        assert time.monotonic() - started_s < QUICK.pull_s and decode.exchange.waiting == 1
        outputs = {"r": []}
        decode.until(lambda: bool(outputs["r"] and outputs["r"][-1].finish_reason), outputs)
        assert time.monotonic() - started_s < QUICK.pull_s + 2.0
        assert [*rest.emitted_token_ids, *tokens(outputs["r"])] == text_of(asked())
        assert 0 < decode.exchange.fetched < FULL and decode.exchange.failed == 1


@pytest.mark.parametrize("wrong", [{"port": 1}, {"token": "0" * 32}, {"lease": "f" * 16}])
def test_a_source_that_is_none_costs_only_the_computation(wrong, caplog) -> None:
    with sides() as (prefill, decode):
        rest = read(prefill, asked())
        rest = replace(rest, prefix_from=replace(rest.prefix_from, **wrong))
        assert [*rest.emitted_token_ids, *tokens(decode.run(rest)["r"])] == text_of(asked())
        assert (decode.exchange.fetched, decode.exchange.failed) == (0, 1)
        assert "cannot be reached" in caplog.text or "no such lease" in caplog.text


def test_pages_of_another_shape_are_refused_by_name(caplog) -> None:
    with sides(decode={"page_tokens": 8}) as (prefill, decode):
        rest = read(prefill, asked())
        assert [*rest.emitted_token_ids, *tokens(decode.run(rest)["r"])] == text_of(asked())
        assert decode.exchange.fetched == 0 and "page_tokens is 8, not 4" in caplog.text


def test_a_decoder_that_never_comes_leaves_no_lease_alive() -> None:
    with sides() as (prefill, _):
        read(prefill, asked())
        assert prefill.exchange.lender.counts["live"] == 1 and prefill.leaked == FULL
        ended(prefill, most_s=QUICK.offered_s + 10.0)
        assert prefill.exchange.lender.counts["expired"] == 1


def test_an_aborted_request_stops_fetching_and_is_never_added() -> None:
    with sides(through=lambda page: time.sleep(0.1) or page) as (prefill, decode):
        decode.take(read(prefill, asked()))
        decode.exchange.abort("r")
        decode.until(lambda: not decode.exchange._fetching)
        assert not decode.engine.has_work and decode.leaked == 0
        ended(prefill)


def test_lending_gives_way_to_requests_that_need_the_pages(caplog) -> None:
    with sides(num_pages=24) as (prefill, decode):
        rest = read(prefill, asked())
        others = [read(prefill, asked(str(i), tuple(range(i, i + 45)))) for i in range(3)]
        assert prefill.exchange.lender.pages <= 12 and "withdrawn" in caplog.text
        whole = asked("whole", tuple(i % 60 for i in range(90)), 4)  # needs every page there is
        assert len(tokens(prefill.run(whole)["whole"])) == 4
        assert prefill.exchange.lender.counts["aborted"] == 4
        for each in (rest, *others):  # their pages are gone, their texts are not
            alone = text_of(each)
            assert [*each.emitted_token_ids, *tokens(decode.run(each)[each.id])] == alone


def test_what_is_taken_in_drives_nobody_out_who_runs_and_is_spilled_in_turn(tmp_path) -> None:
    with sides(decode={"num_pages": 14, "spill_path": str(tmp_path / "spill")}) as (prefill, decode):
        decode.run(asked("old", tuple(range(60, 20, -1)), 1))
        rest = read(prefill, asked())
        outputs = {"r": [], "running": []}
        running = asked("running", PROMPT[30:36], 40)
        decode.engine.add(running)
        outputs["running"] += decode.engine.step()
        decode.take(rest)
        decode.until(lambda: all(each and each[-1].finish_reason for each in outputs.values()), outputs)
        assert tokens(outputs["running"]) == text_of(running)
        assert [*rest.emitted_token_ids, *tokens(outputs["r"])] == text_of(asked())
        assert decode.exchange.fetched > AT_ONCE and decode.engine.stats().spilled_pages > 0
        again = decode.run(asked("old again", tuple(range(60, 20, -1)), 1))["old again"]
        assert again[-1].disk_tokens > 0 and decode.leaked == 0


def test_siblings_wait_for_one_fetch() -> None:
    with sides() as (prefill, decode):
        rest = read(prefill, asked())
        sibling = replace(rest, id="s", prefix_from=None)
        outputs = decode.run(rest, sibling)
        assert tokens(outputs["r"]) == tokens(outputs["s"]) and decode.exchange.fetched == FULL
        assert decode.engine.stats().prefix_hit_tokens == 0  # a resumed request's hits are not its prompt's


def test_what_cannot_be_asked_for_is_left_to_the_engine_to_refuse() -> None:
    with sides() as (_, decode):
        wrong = replace(asked("r", (-1, *PROMPT)), prefix_from=PrefixSource("127.0.0.1", 1, "a", "b"))
        assert not decode.exchange.begin([wrong])


@pytest.mark.parametrize("wrong", ["7000", "host:", ":7000", "host:x"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="transfer is .*; it must be HOST:PORT"):
        read_address(wrong)
    assert read_address("[::1]:70") == ("::1", 70) and read_address(None) is None


def test_a_front_that_leaves_takes_its_leases_along() -> None:
    with sides() as (prefill, _):
        read(prefill, asked())
        prefill.exchange.close()
        assert prefill.leaked == 0 and prefill.exchange.lender.counts["aborted"] == 1


def test_an_engine_with_a_step_log_has_no_business_with_others(tmp_path) -> None:
    with pytest.raises(ConfigError, match="keeps a step log"):
        Side(record=str(tmp_path / "log"))
    store = Side().engine.pages
    with pytest.raises(ConfigError, match="cannot be listened on"):
        PageExchange(store, lambda: None, ("192.0.2.1", 1))
    assert CONFIG.vocab_size == 64
