"""Tokens that nobody reads along come in fewer frames, and all of them."""

from __future__ import annotations

from fathom.batching.request import Output, Request
from fathom.serve.gathering import GATHERED_TOKENS, Gathering


def test_tokens_nobody_reads_along_come_gathered_and_whole() -> None:
    gathering, sent = Gathering(), []
    gathering.begin([Request("quiet", (1,), streamed=False)])
    count = 2 * GATHERED_TOKENS + 5
    for token in range(count):
        end = "length" if token == count - 1 else None
        quiet = Output("quiet", (token,), end, accepted_drafts=1, read_tokens=1)
        sent.append(gathering.pass_on([quiet, Output("streamed", (token,), end)]))
    assert [part for step in sent for part in step if part.request_id == "streamed"] == [
        Output("streamed", (token,), "length" if token == count - 1 else None) for token in range(count)
    ]
    quiet = [part for step in sent for part in step if part.request_id == "quiet"]
    assert [len(part.token_ids) for part in quiet] == [1, GATHERED_TOKENS, GATHERED_TOKENS, 4]
    assert [token for part in quiet for token in part.token_ids] == list(range(count))
    assert sum(part.accepted_drafts for part in quiet) == count
    assert [part.finish_reason for part in quiet] == [None, None, None, "length"]
    assert gathering.pass_on([Output("quiet", (7,))]) == [Output("quiet", (7,))]
