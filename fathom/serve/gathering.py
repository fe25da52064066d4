"""Tokens that nobody reads along, sent in fewer and larger frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec

from fathom.batching.request import Output, Request

GATHERED_TOKENS = 32  # of a request that nobody watches, sent as one


class Gathering:
    """Outputs of requests whose reader waits for the end, put together after the first token.

    Each frame costs the front time, which it takes from an engine that has all cores.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Output] | None] = {}  # not sent yet; None: not even the first token has come

    def begin(self, requests: Sequence[Request]) -> None:
        """Nobody watches these as they grow."""
        self._parts |= dict.fromkeys(request.id for request in requests)

    def end(self, request_id: str) -> None:
        """It was stopped, or refused."""
        self._parts.pop(request_id, None)

    def pass_on(self, outputs: Sequence[Output]) -> list[Output]:
        """What is to be sent after a step that gave these."""
        return [due for output in outputs if (due := self._take(output)) is not None]

    def _take(self, output: Output) -> Output | None:
        if output.request_id not in self._parts:
            return output
        parts = self._parts[output.request_id]
        if output.finish_reason is not None:
            self.end(output.request_id)
        elif parts is None:
            self._parts[output.request_id] = [] if output.token_ids else None
        elif sum(len(part.token_ids) for part in (*parts, output)) < GATHERED_TOKENS:
            parts.append(output)
            return None
        else:
            self._parts[output.request_id] = []
        return joined([*parts, output]) if parts else output


def joined(parts: Sequence[Output]) -> Output:
    """Outputs of one request that follow each other, as one."""
    return msgspec.structs.replace(
        parts[-1],
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        logprobs=tuple(chain.from_iterable(part.logprobs for part in parts)),
        accepted_drafts=sum(part.accepted_drafts for part in parts),
        rejected_drafts=sum(part.rejected_drafts for part in parts),
    )
