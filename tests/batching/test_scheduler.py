"""The scheduler's promises, held against a model that remembers everything it has seen."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.batching.limits import SchedulerConfig
from fathom.batching.plan import Sampled
from fathom.batching.request import Request, SamplingParams, ThinkingParams
from fathom.batching.scheduler import Scheduler
from fathom.errors import EngineError, RequestError
from tests.batching.remembering import EOS, VOCABULARY, Remembering, alone, request, run

configs = st.builds(
    lambda sequences, extra, page, pages, priority, slots: SchedulerConfig(
        sequences + extra, sequences, page, pages, priority_steps=priority, spill_slots=slots
    ),
    st.integers(1, 6),
    st.integers(0, 12),
    st.integers(1, 5),
    st.integers(4, 16),
    st.integers(1, 20),
    st.integers(0, 12),
)


@st.composite
def workloads(draw):
    """A configuration; requests that fit it and share prefixes or whole prompts, by step; who is aborted when."""
    config = draw(configs)
    stems = draw(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20), min_size=1, max_size=2))
    arrivals, name = {}, 0
    while name < 10 and draw(st.integers(0, 5)):
        stem = draw(st.sampled_from(stems))
        prompt = stem[: draw(st.integers(1, len(stem)))] + draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=6))
        step, siblings, priority = (
            draw(st.integers(0, 12)),
            draw(st.sampled_from((1, 1, 1, 4))),
            draw(st.integers(-2, 2)),
        )
        for seed in range(siblings):
            room = config.context_tokens - len(prompt)
            if room >= 1:
                params = {"max_tokens": draw(st.integers(1, min(room, 12))), "ignore_eos": draw(st.booleans())}
                arrivals.setdefault(step, []).append(request(name, prompt, priority=priority, seed=seed, **params))
            name += 1
    aborts = draw(st.sets(st.tuples(st.integers(0, 15), st.sampled_from("0123456789")), max_size=3))
    return config, arrivals, aborts


@settings(max_examples=200)
@given(
    workloads(), st.dictionaries(st.integers(0, 25), st.booleans(), max_size=3), st.sets(st.integers(0, 30), max_size=2)
)
def test_every_request_finishes_as_if_alone_and_no_page_leaks(workload, failures, damage):
    config, arrivals, aborts = workload
    scheduler = Scheduler(config, (EOS,))
    tokens, reasons, _ = run(scheduler, arrivals, aborts, failures=failures, damage=damage)
    for each in (each for group in arrivals.values() for each in group):
        expected = alone(each)
        if reasons[each.id] == "abort":
            assert tokens[each.id] == expected[: len(tokens[each.id])]
        else:
            assert tokens[each.id] == expected
            assert reasons[each.id] == ("stop" if expected[-1] == EOS and not each.params.ignore_eos else "length")
    assert not scheduler.live and not scheduler.waiting and not scheduler.running
    assert scheduler.pool.used == 0
    assert scheduler.pool.available == config.num_pages
    assert len(scheduler.tables.spill) <= config.spill_slots


@settings(max_examples=60)
@given(workloads())
def test_equal_priorities_are_admitted_in_order_of_arrival(workload):
    config, arrivals, _ = workload
    arrivals = {
        step: [msgspec.structs.replace(r, params=SamplingParams(max_tokens=r.params.max_tokens)) for r in group]
        for step, group in arrivals.items()
    }
    _, _, plans = run(Scheduler(config, (EOS,)), arrivals)
    seen = []
    for plan in plans:
        seen += [row.request_id for row in plan.rows if row.request_id not in seen]
    assert seen == [each.id for step in sorted(arrivals) for each in arrivals[step]]


def test_decodes_come_first_and_prompts_fill_the_rest_in_chunks():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=8, max_sequences=4, page_tokens=4, num_pages=64))
    arrivals = {0: [request("a", [1, 2], max_tokens=6)], 1: [request("b", range(20), max_tokens=2)]}
    _, _, plans = run(scheduler, arrivals)
    shapes = [
        [(row.request_id, row.start, len(row.token_ids), row.sampling is not None) for row in p.rows] for p in plans
    ]
    assert shapes == [
        [("a", 0, 2, True)],
        [("a", 2, 1, True), ("b", 0, 7, False)],
        [("a", 3, 1, True), ("b", 7, 7, False)],
        [("a", 4, 1, True), ("b", 14, 6, True)],
        [("a", 5, 1, True), ("b", 20, 1, True)],
        [("a", 6, 1, True)],
    ]


def test_a_repeated_prompt_is_found_except_for_its_last_page():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=4, num_pages=64))
    model = Remembering(scheduler.config)
    prompt = list(range(16))
    run(scheduler, {0: [request("a", prompt, max_tokens=1)]}, model=model)
    _, _, plans = run(scheduler, {0: [request("b", prompt, max_tokens=1)]}, model=model)
    assert [(row.start, row.token_ids) for row in plans[0].rows] == [(12, (12, 13, 14, 15))]
    assert scheduler.prefix_hit_tokens == 12


def test_a_conversation_goes_on_from_the_pages_of_its_last_reply():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=2, num_pages=64))
    model = Remembering(scheduler.config)
    first = request("a", [1, 2, 3], max_tokens=6, ignore_eos=True)
    tokens, _, _ = run(scheduler, {0: [first]}, model=model)
    second = request("b", [1, 2, 3, *tokens["a"], 4], max_tokens=3, ignore_eos=True)
    again, _, plans = run(scheduler, {0: [second]}, model=model)
    assert plans[0].rows[0].start == 8  # 3 + 6 tokens known, the last of them never computed
    assert again["b"] == alone(second)


def test_another_salt_finds_nothing():
    scheduler = Scheduler(SchedulerConfig(page_tokens=2, num_pages=64))
    model = Remembering(scheduler.config)
    for salt, hits in (("x", 0), ("y", 0), ("x", 4)):
        each = Request("a", (1, 2, 3, 4, 5), SamplingParams(max_tokens=1), cache_salt=salt)
        before = scheduler.prefix_hit_tokens
        run(scheduler, {0: [each]}, model=model)
        assert scheduler.prefix_hit_tokens - before == hits


def test_preemption_takes_the_latest_and_loses_nothing():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=16, max_sequences=4, page_tokens=2, num_pages=8))
    requests = [request(name, [name, 1, 2], max_tokens=12, ignore_eos=True) for name in range(3)]
    tokens, _, plans = run(scheduler, {0: requests})
    assert scheduler.preemptions > 0
    assert all(tokens[each.id] == alone(each) for each in requests)
    assert "0" not in {name for plan in plans for name in plan.preempted}


def test_a_sequence_that_comes_back_finds_its_pages_if_nobody_took_them():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=16, max_sequences=2, page_tokens=2, num_pages=8))
    a, b = request("a", [1], max_tokens=9, ignore_eos=True), request("b", [2], max_tokens=14, ignore_eos=True)
    tokens, _, plans = run(scheduler, {0: [a, b]})
    assert "b" in {name for plan in plans for name in plan.preempted}
    starts = [row.start for plan in plans for row in plan.rows if row.request_id == "b"]
    back = next(i for i in range(1, len(starts)) if starts[i] <= starts[i - 1])
    assert starts[back] > 0
    assert tokens == {"a": alone(a), "b": alone(b)}


def test_a_newcomer_waits_until_it_fits_beside_the_growth_of_others():
    config = SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=2, num_pages=8)
    for prompt_tokens, admitted in ((9, True), (10, True), (11, False)):  # 8 pages: 2 held, 1 to grow, 5 to give
        scheduler = Scheduler(config)
        scheduler.add(request("a", [1, 2, 3], max_tokens=4))
        scheduler.update(scheduler.schedule(), [Sampled((1,))])
        scheduler.add(request("b", range(prompt_tokens), max_tokens=1))
        assert [row.request_id for row in scheduler.schedule().rows] == ["a", "b"][: 1 + admitted]


def test_pages_about_to_be_shared_are_not_counted_as_free():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=2, num_pages=8))
    model = Remembering(scheduler.config)
    run(scheduler, {0: [request("a", range(9), max_tokens=1)]}, model=model)  # leaves 4 idle pages behind
    scheduler.add(request("b", [40] * 5, max_tokens=2))
    scheduler.update(plan := scheduler.schedule(), model.execute(plan))
    scheduler.add(request("c", range(10), max_tokens=1))  # 4 pages found, 1 to compute; 3 held and 1 promised to b
    assert [row.request_id for row in scheduler.schedule().rows] == ["b"]


def test_a_prompt_short_of_pages_spares_rows_already_planned():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=2, max_sequences=2, page_tokens=2, num_pages=12))
    late = request("late", [1, 2], max_tokens=20, ignore_eos=True)
    urgent = request("urgent", range(16), max_tokens=1, priority=-1)
    tokens, _, plans = run(scheduler, {0: [late], 1: [urgent]})
    assert tokens == {"late": alone(late), "urgent": alone(urgent)}
    rows = [[row.request_id for row in plan.rows] for plan in plans]
    assert ["late"] in rows[rows.index(["late", "urgent"]) : rows.index(["urgent"])]  # urgent waited one step


def test_a_low_priority_request_is_not_starved_by_a_stream_of_high_ones():
    scheduler = Scheduler(SchedulerConfig(4, 1, page_tokens=4, num_pages=8, priority_steps=5))
    arrivals = {step: [request(step, [1, step], max_tokens=2, priority=-1, ignore_eos=True)] for step in range(60)}
    arrivals[0].append(request("low", [3], max_tokens=1, priority=1))
    _, _, plans = run(scheduler, arrivals)
    order = [row.request_id for plan in plans for row in plan.rows]
    assert order.index("5") < order.index("low") < order.index("12")


def test_prompts_that_can_never_fit_are_refused_with_the_counts():
    scheduler = Scheduler(SchedulerConfig(page_tokens=4, num_pages=4))
    scheduler.add(request("fits", range(10), max_tokens=6))
    with pytest.raises(RequestError, match="10 tokens and max_tokens is 7, together 17.* 16") as caught:
        scheduler.add(request("a", range(10), max_tokens=7))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    short = Scheduler(SchedulerConfig(page_tokens=4, num_pages=64, max_context_tokens=8))
    with pytest.raises(RequestError, match="holds 8"):
        short.add(request("a", range(8), max_tokens=1))


def test_empty_prompts_and_taken_ids_are_refused():
    scheduler = Scheduler(SchedulerConfig())
    with pytest.raises(RequestError) as caught:
        scheduler.add(request("a", []))
    assert caught.value.code == "empty_prompt"
    scheduler.add(request("a", [1]))
    with pytest.raises(RequestError) as caught:
        scheduler.add(request("a", [1]))
    assert caught.value.code == "duplicate_id"


def test_abort_while_waiting_running_and_under_way():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=4, max_sequences=1, page_tokens=2, num_pages=8))
    for name in "abc":
        scheduler.add(request(name, [1, 2, 3, 4, 5], max_tokens=3))
    assert scheduler.abort("b").finish_reason == "abort"
    assert scheduler.abort("b") is None
    plan = scheduler.schedule()
    assert scheduler.abort("a").finish_reason == "abort"
    scheduler.add(request("a", [9], max_tokens=1))  # the id is free again; the answer must not reach it
    assert scheduler.update(plan, []) == []
    assert scheduler.live["a"].computed == 0
    run(scheduler, {})
    assert scheduler.pool.used == 0


def test_an_unanswered_plan_is_planned_again():
    scheduler = Scheduler(SchedulerConfig(page_tokens=2, num_pages=8))
    scheduler.add(request("a", [1, 2, 3], max_tokens=2))
    lost = scheduler.schedule()
    again = scheduler.schedule()
    assert again.rows == lost.rows
    with pytest.raises(EngineError, match="plan 1 is not under way"):
        scheduler.update(lost, [Sampled((0,))])
    scheduler.update(again, [Sampled((0,))])
    with pytest.raises(EngineError, match="answer each once"):
        scheduler.update(again, [Sampled((0,))])


def test_a_missing_answer_is_noticed():
    scheduler = Scheduler(SchedulerConfig())
    scheduler.add(request("a", [1, 2, 3]))
    with pytest.raises(EngineError, match="samples 1 rows, but 0 came back"):
        scheduler.update(scheduler.schedule(), [])


def test_progress_through_a_long_prompt_is_reported():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=4, max_sequences=1, page_tokens=2, num_pages=8))
    scheduler.add(request("a", range(10), max_tokens=1))
    progress = [scheduler.update(scheduler.schedule(), [])[0].read_tokens for _ in range(2)]
    assert progress == [4, 8]
    (output,) = scheduler.update(scheduler.schedule(), [Sampled((3,))])
    assert (output.read_tokens, output.token_ids, output.finish_reason) == (10, (3,), "length")


def test_the_plan_forces_the_end_of_thinking():
    scheduler = Scheduler(SchedulerConfig())
    thinking = ThinkingParams(end_think_id=99, budget_tokens=3)
    tokens, _, _ = run(scheduler, {0: [request("a", [1], max_tokens=6, thinking=thinking)]})
    assert tokens["a"][3] == 99
    assert 99 not in tokens["a"][:3] + tokens["a"][4:]


def test_penalties_and_only_they_carry_the_tokens_so_far():
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=64))
    requests = [
        request("plain", [1, 2], max_tokens=3),
        request("output", [1, 2], max_tokens=3, presence_penalty=0.5),
        request("both", [1, 2], max_tokens=3, repetition_penalty=1.5),
    ]
    tokens, _, plans = run(scheduler, {0: requests})
    seen = {row.request_id: (row.sampling.prompt_ids, row.sampling.output_ids) for row in plans[2].rows}
    so_far = tuple(tokens["plain"][:2])
    assert seen == {"plain": ((), ()), "output": ((), so_far), "both": ((1, 2), so_far)}


@settings(max_examples=60)
@given(workloads(), st.randoms(use_true_random=False))
def test_resumed_requests_go_on_where_they_stopped(workload, rng):
    """Each is cut at some point of its reply; what is left comes, and only that, whatever else runs beside it."""
    config, arrivals, _ = workload
    cut = {}
    for requests in arrivals.values():
        for at, each in enumerate(requests):
            whole = alone(each)
            kept = rng.randrange(len(whole))
            requests[at] = msgspec.structs.replace(each, emitted_token_ids=tuple(whole[:kept]))
            cut[each.id] = whole[kept:]
    scheduler = Scheduler(config, [EOS])
    tokens, _, _ = run(scheduler, arrivals)
    assert tokens == cut and scheduler.pool.used == 0


def test_an_ended_reply_is_refused_and_leaves_nothing():
    scheduler = Scheduler(SchedulerConfig(8, 2, 4, 8), [EOS])
    with pytest.raises(RequestError, match="ended the reply"):
        scheduler.add(Request("a", (1, 2), SamplingParams(max_tokens=9), emitted_token_ids=(3, EOS)))
    assert not scheduler.has_work and not scheduler.waiting


def test_it_is_starved_when_others_hold_the_pages_and_not_before_its_first_step():
    scheduler = Scheduler(SchedulerConfig(8, 2, 4, 4), (EOS,))
    scheduler.add(request(0, [1] * 9, max_tokens=2))
    assert scheduler.waiting and not scheduler.running and not scheduler.starved
    held = [scheduler.pool.allocate() for _ in range(2)]
    assert scheduler.starved and not scheduler.schedule().rows
    scheduler.pool.release(held)
    assert not scheduler.starved and scheduler.schedule().rows and not scheduler.starved
