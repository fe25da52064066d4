"""A model divided among processes gives the tokens and log-probabilities of one process, whatever runs beside them.

Every pair of features at least once (matrix.py); the quickest crews always run, all of them with -m slow.
"""

from __future__ import annotations

import pytest

from fathom.engine import Engine
from fathom.engine.crew import Crew
from fathom.engine.crewconfig import CrewConfig
from tests.cluster.conftest import PAGE
from tests.cluster.matrix import MODEL, QUICK, Case, Run, cases, page, pairs, planned, possible
from tests.cluster.mix import EOS, REQUESTS, aborted, alone, config, differences, replies, requests
from tests.engine.ranks import ranks

CASES = [
    pytest.param(case, id=case.name, marks=[] if place < QUICK else [pytest.mark.slow, pytest.mark.timeout(300)])
    for place, case in enumerate(cases())
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("case", CASES)
def test_any_layout_gives_the_tokens_of_one_process(case: Case, ran: list[tuple[Case, Run]]) -> None:
    expected = alone(case.bits)
    crew = Crew.start(CrewConfig(MODEL, case.layout, bits=case.bits, mtp=case.mtp, redundant=case.redundant))
    try:
        for run in case.runs:
            engine = Engine(
                crew.model, config=config(case.bits, run.spec, run.num_pages, run.page_tokens), eos_token_ids=EOS,
                crew=crew,
            )  # fmt: skip
            found = replies(engine)
            assert differences(found, expected) == [], run
            check_that_it_was_hard(engine, case, run)
            ran.append((case, run))
    finally:
        crew.close()
    assert ranks() == []


def check_that_it_was_hard(engine: Engine, case: Case, run: Run) -> None:
    """Everything that the page says has happened."""
    stats = engine.stats()
    assert stats.prefix_hit_tokens > 0, "nothing was found in the cache"
    assert stats.running == stats.waiting == stats.pages_used == 0, "pages are left"
    assert stats.preemptions or run.pages == "ample", "pages were not short"
    assert sum(stats.accepted_by_depth) or run.spec == "off", "no guess came true"
    assert all(lane.scheduler.steps for lane in engine.lanes.lanes), "a lane had nothing to do"
    assert len(engine.lanes.lanes) == case.layout.dp


def test_the_load_is_mixed() -> None:
    params = [one.params for one in requests()]
    assert len(params) == REQUESTS >= 64 and len(aborted()) >= 5
    assert {one.temperature for one in params} == {0.0, 0.7, 1.2}
    assert min(len(one.prompt_token_ids) for one in requests()) < 5
    assert 70 < max(len(one.prompt_token_ids) for one in requests()) <= 80
    assert len({one.prompt_token_ids for one in requests()}) == REQUESTS * 7 // 9
    for name in ("frequency_penalty", "repetition_penalty", "thinking", "logprobs", "ignore_eos", "top_p", "priority"):
        assert len({getattr(one, name) for one in params}) > 1, name
    assert {reason for _, _, reason in alone(16).values()} == {"stop", "length"}


def test_every_pair_of_features_runs_together() -> None:
    covered = set().union(*(pairs(case.layout, case.bits, case.redundant, run) for case, run in planned()))
    missing = [" with ".join(sorted(feature.value for feature in pair)) for pair in possible() - covered]
    assert missing == [], "add a crew to matrix.py"


def test_the_page_says_what_runs() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(sorted_plan(), REQUESTS), 'run pytest tests/cluster -m "slow or not slow" --write-matrix'


def sorted_plan() -> list[tuple[Case, Run]]:
    return [(case, run) for case in cases() for run in case.runs]
