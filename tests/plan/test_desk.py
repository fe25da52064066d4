"""Answers from a process of its own: kept, refused in one line, given up when nobody waits."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from pathlib import Path

import pytest

from fathom.errors import EngineError, RequestError
from fathom.plan.desk import Desk, serve

ECHO = """
import json, sys, time
for number, line in enumerate(sys.stdin, 1):
    what, query = json.loads(line)
    if what == "slow": time.sleep(60)
    if what == "die": sys.exit(1)
    print("ok " + json.dumps({"what": what, **query, "lines": number}), flush=True)
"""


def echo(kept: int = 64) -> Desk:
    return Desk((sys.executable, "-c", ECHO), kept)


def test_what_the_process_writes_for_a_line() -> None:
    questions = [("fit", {"gpus": "8", "gpu": "h200_sxm"}), ("fit", {"gpus": "x"}), ("fits", {})]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(each) + "\n" for each in questions)), answers)
    good, bad, unknown = answers.getvalue().splitlines()
    assert good.startswith("ok ") and json.loads(good[3:])["state"] == "yes"
    assert json.loads(bad.removeprefix("refused "))["param"] == "gpus"
    assert unknown.startswith("unknown ")


def test_an_error_of_ours_is_logged_and_the_next_question_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fathom.plan.page.answer", lambda what, query: {}["nothing"] if what == "a" else 1 / 0)
    answers = io.StringIO()
    serve(io.StringIO('["b", {}]\n["b", {}]\n'), answers)
    assert answers.getvalue() == 'failed {"message": "ZeroDivisionError"}\n' * 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_answer_is_kept_and_the_oldest_goes() -> None:
    async def story() -> list[bytes]:
        desk = echo(kept=2)
        try:
            first = [await desk.ask("a", {"x": "1", "y": "2"}), await desk.ask("a", {"y": "2", "x": "1"})]
            for what in "bc":
                await desk.ask(what, {})
            return [*first, await desk.ask("a", {"x": "1", "y": "2"})]
        finally:
            await desk.close()

    once, again, later = asyncio.run(story())
    assert once == again and json.loads(once) == {"what": "a", "x": "1", "y": "2", "lines": 1}
    assert json.loads(later)["lines"] == 4, "asked anew, as the fourth"


def test_a_question_that_nobody_waits_for_ends_at_once_and_the_next_is_answered() -> None:
    async def story() -> float:
        desk = echo()
        waiting = asyncio.create_task(desk.ask("slow", {}))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert json.loads(await desk.ask("next", {}))["what"] == "next"
        await desk.close()
        return time.monotonic() - began

    assert asyncio.run(story()) < 30


def test_a_process_that_dies_is_an_error_and_is_started_again() -> None:
    async def story() -> None:
        desk = echo()
        with pytest.raises(EngineError, match="ended before it had an answer"):
            await desk.ask("die", {})
        assert json.loads(await desk.ask("next", {}))["what"] == "next"
        await desk.close()

    asyncio.run(story())


def test_the_planner_answers_from_its_process() -> None:
    async def story() -> None:
        desk = Desk()
        try:
            assert json.loads(await desk.ask("fit", {"gpu": "h100_sxm", "gpus": "8"}))["state"] == "no"
            with pytest.raises(RequestError, match="gpus is 'x'") as caught:
                await desk.ask("fit", {"gpus": "x"})
            assert caught.value.param == "gpus"
            with pytest.raises(LookupError, match="no 'fits'"):
                await desk.ask("fits", {})
        finally:
            await desk.close()

    asyncio.run(story())


def test_the_process_ends_with_its_pipe(tmp_path: Path) -> None:
    async def story() -> int:
        desk = echo()
        await desk.ask("a", {})
        process = desk._process
        assert process is not None and process.stdin is not None
        process.stdin.close()
        return await asyncio.wait_for(process.wait(), 20)

    assert asyncio.run(story()) == 0
