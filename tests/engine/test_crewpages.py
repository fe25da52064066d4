"""Pages of a crew are those of one process, whatever divides it, and go into another that is divided differently."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from fathom.batching.request import Output, Request, SamplingParams
from fathom.engine import Engine, EngineConfig
from fathom.engine.crew import Crew
from fathom.engine.crewconfig import CrewConfig
from fathom.engine.load import load_model
from fathom.errors import EngineError
from fathom.layout import Layout
from tests.ops.conftest import library, native

__all__ = ["library", "native"]
pytestmark = pytest.mark.usefixtures("native")
ALONE, PAGE = Layout(), 8
PROMPT = tuple(20 + at * at % 200 for at in range(83))


def opened(stack: ExitStack, layout: Layout, spec: str = "off") -> Engine:
    limits = EngineConfig(max_sequences=4, page_tokens=PAGE, num_pages=64, spec=spec, bits=32)
    if layout == ALONE:
        return Engine(load_model("nano", bits=32, threads=1, mtp=spec != "off"), config=limits)
    crew = Crew.start(CrewConfig("nano", layout, bits=32, mtp=spec != "off", threads=1))
    stack.callback(crew.close)
    return Engine(crew.model, config=limits, crew=crew)


def run(engine: Engine, *requests: Request) -> dict[str, tuple[list[int], list]]:
    found: dict[str, tuple[list[int], list]] = {request.id: ([], []) for request in requests}
    for request in requests:
        engine.add(request)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    for output in outputs:
        found[output.request_id][0].extend(output.token_ids)
        found[output.request_id][1].extend(output.logprobs)
    return found


def asked(name: str, prompt=PROMPT, count: int = 12) -> Request:
    return Request(name, prompt, SamplingParams(max_tokens=count, temperature=0.9, seed=3, logprobs=2))


@pytest.mark.parametrize(
    ("prefill", "decode", "spec"),
    [
        (Layout(tp=2), Layout(dp=2, ep=2), "off"),
        (Layout(pp=2), ALONE, "2"),
        (ALONE, Layout(tp=2), "off"),
        (ALONE, Layout(pp=2), "2"),
    ],
    ids=lambda each: each if isinstance(each, str) else f"pp{each.pp}dp{each.dp}tp{each.tp}",
)
def test_pages_read_in_one_layout_are_decoded_in_another(prefill: Layout, decode: Layout, spec: str) -> None:
    with ExitStack() as stack:
        here, there, alone = (opened(stack, layout, spec) for layout in (prefill, decode, ALONE))
        run(alone, asked("r", count=1))
        run(here, asked("r", count=1))
        names = here.pages.names(PROMPT)
        pages = here.pages.hold(names)
        own = alone.pages.hold(names)
        assert len(pages) == len(own) == len(names) == 10
        contents = [here.pages.read(page) for page in pages]
        assert contents == [alone.pages.read(page) for page in own], "one process has other pages"
        expected = run(alone, asked("r"))
        assert here.pages.form.difference(there.pages.form) is None
        assert there.pages.form.key == alone.pages.form.key

        lanes = there.crew.lanes if there.crew is not None else 1
        together = [asked(f"r{number}", (*PROMPT[:-1], number)) for number in range(lanes)]
        assert [there.pages.place(request) for request in together] == list(range(lanes))
        for place in range(lanes):
            assert there.pages.missing(names, place) == names
            assert all(there.pages.take_in(name, content, place) for name, content in zip(names, contents, strict=True))
            assert there.pages.missing(names, place) == []
        assert run(there, *together) == run(alone, *together)
        assert run(there, asked("r")) == expected
        assert there.stats().prefix_hit_tokens == 80 * (lanes + 1)
        with pytest.raises(EngineError, match="bytes; it must have"):
            there.pages.take_in(b"n", b"abc", 0)
        here.pages.release(pages)
        alone.pages.release(own)
        assert here.stats().pages_used == there.stats().pages_used == 0
