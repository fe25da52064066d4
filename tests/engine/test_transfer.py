"""A format names weights, arithmetic and shape, and a page from elsewhere is as good as one computed here."""

import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fathom.engine.engine import Engine, EngineConfig
from fathom.engine.transfer import page_format
from fathom.errors import ConfigError, EngineError, RequestError
from fathom.model import LatentCache, Transformer, init_weights
from tests.engine.hashing import Hashing
from tests.engine.tiny import CONFIG, request, run, tiny


def test_a_format_is_the_same_for_the_same_model_and_for_no_other():
    form = page_format(tiny(), LatentCache(CONFIG, 9, 4))
    assert form.page_bytes == LatentCache(CONFIG, 1, 4).page_bytes
    assert page_format(tiny(), LatentCache(CONFIG, 30, 4)) == form
    other = init_weights(Transformer(CONFIG, mtp=False), std=0.3, seed=2).eval()
    changed = [
        page_format(other, LatentCache(CONFIG, 9, 4)),
        page_format(tiny(), LatentCache(CONFIG, 9, 8)),
        page_format(tiny(), LatentCache(CONFIG, 9, 4, dtype=torch.bfloat16)),
    ]
    assert [form.difference(each).split()[0] for each in changed] == ["probe", "page_tokens", "dtype"]
    assert len({each.key for each in (form, *changed)}) == 4


PROMPT = tuple(range(3, 40))  # 9 full pages of 4 tokens


def engine(model=None, **more):
    limits = {"max_sequences": 4, "page_tokens": 4, "num_pages": 24, "spec": "off"}
    return Engine(model or tiny(), config=EngineConfig(**limits | more))


def handed_over(here, there, prompt=PROMPT):
    """Every page of a prompt that `here` has and `there` has not, in order; how many found room."""
    names = here.pages.names(prompt)
    pages = here.pages.hold(names)
    wanted = there.pages.missing(names)
    taken = sum(there.pages.take_in(name, here.pages.read(page)) for name, page in zip(names, pages, strict=False)
                if name in wanted)  # fmt: skip
    here.pages.release(pages)
    return taken


@pytest.mark.parametrize("model", [tiny, Hashing])
def test_a_prompt_computed_elsewhere_is_found_here(model):
    here, there = engine(model()), engine(model())
    expected = run(here, [request("a", PROMPT, max_tokens=12)])
    assert handed_over(here, there) == 9 and there.pages.missing(there.pages.names(PROMPT)) == []
    assert run(there, [request("a", PROMPT, max_tokens=12)]) == expected
    assert there.stats().prefix_hit_tokens == 36 and there.scheduler.pool.used == here.scheduler.pool.used == 0
    assert handed_over(here, there) == 0


def test_held_pages_stay_and_are_not_written_into_whatever_runs():
    here = engine()
    run(here, [request("a", PROMPT, max_tokens=1)])
    names = here.pages.names(PROMPT)
    pages = here.pages.hold(names)
    before = [here.pages.read(page) for page in pages]
    for i in range(6):
        run(here, [request(str(i), [i, *PROMPT[::-1]], max_tokens=14)])
    assert [here.pages.read(page) for page in pages] == before and here.pages.missing(names) == []
    here.pages.release(pages)


def test_pages_are_taken_in_beside_running_requests_and_change_none_of_them(tmp_path):
    here, there = engine(), engine(num_pages=12, spill_path=str(tmp_path / "spill"))
    expected = run(here, [request("a", PROMPT, max_tokens=2)])
    old = run(there, [request("old", PROMPT[::-1], max_tokens=1)])
    alone = run(engine(), [request("b", [9, 8, 7], max_tokens=20)])
    there.add(request("b", [9, 8, 7], max_tokens=20))
    tokens = [token for output in there.step() for token in output.token_ids]
    assert handed_over(here, there) == 9
    while there.has_work:
        tokens += [token for output in there.step() for token in output.token_ids]
    assert tokens == alone["b"]
    assert run(there, [request("a", PROMPT, max_tokens=2)]) == expected
    assert there.stats().spilled_pages > 0  # what gave way went to the file, and comes back as it was
    assert run(there, [request("old", PROMPT[::-1], max_tokens=1)]) == old and there.stats().lost_pages == 0


def test_no_room_and_no_page_are_told_apart():
    there = engine(num_pages=9)
    name = there.pages.names(PROMPT)[0]
    with pytest.raises(EngineError, match="the page has 3 bytes; it must have 640"):
        there.pages.take_in(name, b"abc")
    there.add(request("a", PROMPT[:34], max_tokens=2))
    there.step()
    assert there.pages.room == 0
    assert not there.pages.take_in(b"n" * 32, bytes(640))
    assert there.pages.names((-1, 2, 3, 4)) == []
    with pytest.raises(RequestError):
        there.add(request("b", (-1, 2, 3, 4)))


def test_a_plan_that_failed_is_undone_also_if_pages_came_in_between(tmp_path, monkeypatch):
    here, there = engine(), engine(num_pages=12, spill_path=str(tmp_path / "spill"))
    expected = run(here, [request("a", PROMPT, max_tokens=2)])
    run(there, [request("old", PROMPT[::-1], max_tokens=1)])
    there.add(request("b", [9, 8, 7, *PROMPT[:20]], max_tokens=4))

    def broken(plan):
        raise EngineError("no numbers")

    with monkeypatch.context() as failing:
        failing.setattr(there.runner, "execute", broken)
        with pytest.raises(EngineError):
            there.step()
    there.abort("b")
    assert handed_over(here, there) > 0
    assert run(there, [request("a", PROMPT, max_tokens=2)]) == expected
    assert there.scheduler.pool.used == 0 and there.stats().lost_pages == 0


def test_an_engine_that_keeps_a_log_takes_no_pages(tmp_path):
    with pytest.raises(ConfigError, match="keeps a step log"):
        _ = engine(record=str(tmp_path / "log")).pages


BASE = [7 * at % 61 for at in range(30)]


@cache
def alone(prompt, seed):
    return run(engine(Hashing(mtp_modules=0)), [request("r", prompt, max_tokens=6, seed=seed, temperature=1.0)])["r"]


class Handing(RuleBasedStateMachine):
    """Two engines with little room that hand pages over at any moment between steps, and hold some for others.

    The model is a hash of all tokens, kept in the pages: a page that is not what its name says changes the text.
    """

    prompts = st.sampled_from([(*BASE[:shared], *range(40, 40 + own)) for shared, own in ((8, 3), (8, 18), (21, 0))])

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        files = {"spill_path": str(Path(self.folder.name) / "spill")}, {"cache_dir": self.folder.name}
        self.engines = [engine(Hashing(mtp_modules=0), num_pages=14, **each) for each in files]
        self.held = [[], []]
        self.texts = {}
        self.expected = {}

    @rule(side=st.booleans(), prompt=prompts, seed=st.integers(0, 2))
    def add(self, side, prompt, seed):
        name = str(len(self.expected))
        self.engines[side].add(request(name, prompt, max_tokens=6, seed=seed, temperature=1.0))
        self.expected[name], self.texts[name] = alone(prompt, seed), []

    @rule(side=st.booleans(), steps=st.integers(1, 4))
    def step(self, side, steps):
        for _ in range(steps):
            for output in self.engines[side].step():
                self.texts[output.request_id] += output.token_ids

    @rule(side=st.booleans(), prompt=prompts, seed=st.integers(0, 2))
    def read_here_and_go_on_there(self, side, prompt, seed):
        here, there = self.engines[side], self.engines[not side]
        run(here, [request("read", prompt, max_tokens=1)]) if not here.has_work else None
        handed_over(here, there, prompt)
        self.add(not side, prompt, seed)

    @rule(side=st.booleans(), prompt=prompts)
    def hold(self, side, prompt):
        store = self.engines[side].pages
        if store.room > 6:
            pages = store.hold(store.names(prompt))
            self.held[side].append((pages, [store.read(page) for page in pages]))

    @rule(side=st.booleans())
    def release(self, side):
        if self.held[side]:
            self.engines[side].pages.release(self.held[side].pop()[0])

    @rule()
    def save(self):
        self.engines[1].save_pages(3)

    @invariant()
    def held_pages_are_as_they_were(self):
        for side, held in enumerate(self.held):
            for pages, content in held:
                assert [self.engines[side].pages.read(page) for page in pages] == content

    def teardown(self):
        for side, worker in enumerate(self.engines):
            while self.held[side]:
                self.release(side)
            for _ in range(400):
                self.step(side, 1)
            assert not worker.has_work and worker.scheduler.pool.used == 0 and worker.stats().lost_pages == 0
        assert self.texts == self.expected
        self.engines[1].runner.spill.close()
        self.folder.cleanup()


TestHanding = Handing.TestCase
TestHanding.settings = settings(max_examples=25, stateful_step_count=25)
