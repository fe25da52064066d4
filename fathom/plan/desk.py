"""Answers for a page from a process of its own: a search of seconds keeps nobody else waiting, and can be ended.

    desk = Desk()
    body = await desk.ask("fit", {"model": "deepseek-v3", "gpu": "h100", "gpus": "8"})     # JSON, as bytes
    await desk.close()

The process starts with the first question and is kept for the next, with what it has worked out. A question that is
cancelled while it is worked on ends it; the next one starts another. It ends by itself when its questions' pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import IO, Any

from fathom.config import child_environment
from fathom.errors import EngineError, InputError, RequestError

COMMAND = (sys.executable, "-m", "fathom.plan.desk")
LONGEST = 32 * 1024 * 1024  # of a line between the two [B]


class Desk:
    """One process that answers one question after the other. kept: latest answers that are given again at once."""

    def __init__(self, command: Sequence[str] = COMMAND, kept: int = 64) -> None:
        self._command, self._kept = tuple(command), kept
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._answers: OrderedDict[str, bytes] = OrderedDict()

    async def ask(self, what: str, query: Mapping[str, str]) -> bytes:
        """The answer as JSON.

        Raises: InputError: a value cannot be used. LookupError: no such question. EngineError: the process died.
        """
        question = json.dumps([what, dict(sorted(query.items()))])
        if question not in self._answers:
            async with self._lock:
                if question not in self._answers:
                    self._keep(question, await self._told(question))
        self._answers.move_to_end(question)
        return self._answers[question]

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _keep(self, question: str, answer: bytes) -> None:
        self._answers[question] = answer
        while len(self._answers) > self._kept:
            self._answers.popitem(last=False)

    async def _told(self, question: str) -> bytes:
        try:
            process = await self._started()
            assert process.stdin is not None and process.stdout is not None, "both are pipes"
            process.stdin.write(question.encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except (ConnectionError, asyncio.CancelledError):
            await self.close()  # it works on what nobody waits for, or is gone
            raise
        if not line.endswith(b"\n"):
            await self.close()
            raise EngineError("the planner's process ended before it had an answer; ask again, or see the log.")
        kind, _, body = line.rstrip(b"\n").partition(b" ")
        if kind == b"ok":
            return body
        raise _error(kind.decode(), json.loads(body))

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST,
                env=child_environment(), start_new_session=True,
            )  # fmt: skip
        return self._process


def _error(kind: str, said: Mapping[str, Any]) -> Exception:
    if kind == "unknown":
        return LookupError(said["message"])
    if kind == "failed":
        return EngineError(f"the planner failed ({said['message']}); see the log.")
    return RequestError(said["message"], param=said["param"]) if said.get("param") else InputError(said["message"])


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer line by line until there are no more: "ok JSON", or why not."""
    from fathom.plan.page import answer

    for line in questions:
        what, query = json.loads(line)
        try:
            said = "ok " + json.dumps(answer(what, query), allow_nan=False)
        except InputError as error:
            said = "refused " + json.dumps({"message": str(error), "param": getattr(error, "param", None)})
        except LookupError as error:
            said = "unknown " + json.dumps({"message": str(error.args[0])})
        except Exception as error:  # our own mistake must not take the process along
            traceback.print_exc()
            said = "failed " + json.dumps({"message": type(error).__name__})
        answers.write(said + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
