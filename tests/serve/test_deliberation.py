"""Several samples for one answer, by the API: the winner comes back, the account is exact, nothing runs on."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from fathom.batching.request import sibling_seed
from fathom.think.votes import Vote, normalised
from tests.serve.conftest import Running
from tests.serve.scripted_worker import thought_tokens


def ask(server: Running, text: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], **more}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def metric(server: Running, name: str) -> float:
    found = re.findall(rf"^fathom_{name}(?:\{{[^}}]*\}})? (\S+)$", server.http.get("/metrics").text, re.M)
    return sum(map(float, found))


def lone(server: Running, text: str, seed: int, n: int, **more: Any) -> list[dict[str, Any]]:
    """The samples one by one, with what each used."""
    asked = {"temperature": 1, "reasoning_effort": "none", **more}
    return [ask(server, text, seed=sibling_seed(seed, index), **asked) for index in range(n)]


def lengths(seed: int, n: int) -> list[int]:
    return [thought_tokens(sibling_seed(seed, index)) for index in range(n)]


def test_the_vote_of_samples_that_agree_stops_at_the_majority(server: Running) -> None:
    """The first sample ends third: only then can no answer of the fourth, which is long, come before theirs."""
    seed = next(s for s in range(1000) if max(lengths(s, 4)[1:3]) < lengths(s, 1)[0] < lengths(s, 4)[3] - 30)
    before = metric(server, "samples_aborted_total")
    reply = ask(server, "agree", seed=seed, temperature=1, think={"strategy": "vote", "n": 4})
    account = reply["usage"]["think"]
    assert (reply["choices"][0]["message"]["content"], account["votes"]) == ("7.", {"7": 3})
    assert (account["winner"], account["finished"], account["aborted"]) == (0, 3, 1)
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] < sum(lengths(seed, 4))
    assert len(reply["choices"][0]["message"]["reasoning_content"]) == lengths(seed, 1)[0]
    assert metric(server, "samples_aborted_total") == before + 1
    assert server.server.client.in_flight == 0
    best = ask(server, "agree", seed=seed, temperature=1, think={"strategy": "best_of", "n": 4})["usage"]["think"]
    assert best["aborted"] == 0 and best["thinking_tokens"] == sum(lengths(seed, 4)), "the best may be the last"


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_vote_gives_back_what_the_lone_samples_elect(server: Running, stop_early: bool) -> None:
    """Noise of three letters: each sample is the same as alone, and so is the vote."""
    n, seed, more = 5, 11, {"max_tokens": 2, "stop": ["a", "b", "c", "d"]}
    vote = Vote(n)
    samples = lone(server, "noise", seed, n, **more)
    for index, sample in enumerate(samples):
        choice = sample["choices"][0]
        content = choice["message"]["content"]
        vote.add(index, normalised(content) if choice["finish_reason"] == "stop" else None)
    think = {"strategy": "vote", "n": n, "stop_early": stop_early}
    reply = ask(server, "noise", seed=seed, temperature=1, reasoning_effort="none", think=think, **more)
    (choice,) = reply["choices"]
    assert (choice["index"], choice["message"]) == (0, samples[vote.winner or 0]["choices"][0]["message"])
    account = reply["usage"]["think"]
    assert (account["strategy"], account["n"], account["winner"]) == ("vote", n, vote.winner)
    assert account["finished"] + account["aborted"] == account["samples"] == n
    if not stop_early:
        assert account["votes"] == vote.counts and account["aborted"] == 0
        assert account["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in samples)


def test_the_account_is_exact(server: Running) -> None:
    think = {"strategy": "vote", "n": 4, "stop_early": False, "budget_tokens": 7}
    reply = ask(server, "deep", temperature=1, think=think, max_tokens=30, return_token_ids=True)
    usage, account = reply["usage"], reply["usage"]["think"]
    assert account["budget_tokens"] == 7 and account["thinking_tokens"] <= 4 * 7
    assert usage["completion_tokens_details"]["reasoning_tokens"] == account["thinking_tokens"]
    assert usage["completion_tokens"] == account["completion_tokens"]
    assert account["thinking_tokens"] + account["answer_tokens"] == account["completion_tokens"]
    assert usage["prompt_tokens"] == account["prompt_tokens"], "four samples read one prompt"
    assert account["seconds"] > 0 and account["flops"] > 0 and account["kv_token_seconds"] > 0
    assert account["cost"] is None, "no price was given"
    assert len(reply["choices"][0]["token_ids"]) <= 30


def test_budgets_that_were_met_are_counted(server: Running) -> None:
    before = metric(server, "thinking_budgets_hit_total")
    ask(server, "deep", think={"budget_tokens": 3})
    ask(server, "hi", think={"budget_tokens": 400})
    ask(server, "hi", reasoning_effort="none")
    assert metric(server, "thinking_budgets_hit_total") - before == 1


@pytest.mark.parametrize(
    "fields", [{"think": {"budget_tokens": 5}}, {"reasoning_effort": "low"}, {"reasoning_effort": "none"}]
)
def test_whoever_says_how_much_to_think_gets_an_account(server: Running, fields: dict[str, Any]) -> None:
    account = ask(server, "hi", **fields)["usage"]["think"]
    assert account["samples"] == 1 and "strategy" not in account
    assert account["budget_tokens"] == (0 if fields.get("reasoning_effort") == "none" else fields.get("think", {}).get(
        "budget_tokens", 64))  # fmt: skip
    assert "think" not in ask(server, "hi")["usage"]


def test_without_effort_there_is_no_thought_whatever_the_model_wants(server: Running) -> None:
    reply = ask(server, "echo x", reasoning_effort="none", think={"strategy": "vote", "n": 3}, temperature=1, seed=1,
                max_tokens=8)  # fmt: skip
    assert reply["choices"][0]["message"]["reasoning_content"] is None
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_an_answer_is_revised_until_it_repeats(server: Running) -> None:
    """The script says back the last thing it was told, so the second answer differs and the third repeats it."""
    reply = ask(server, "hello", think={"strategy": "revise", "n": 5}, reasoning_effort="none")
    account = reply["usage"]["think"]
    assert reply["choices"][0]["message"]["content"].startswith("You said: Check this answer.")
    assert (account["strategy"], account["samples"], account["winner"], account["finished"]) == ("revise", 3, 2, 3)
    assert "votes" not in account and reply["usage"]["prompt_tokens"] == account["prompt_tokens"]


def stream(server: Running, text: str, **more: Any) -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **more}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("strategy", ["vote", "best_of", "revise"])
def test_a_stream_tells_of_votes_then_gives_the_winner(server: Running, strategy: str) -> None:
    asked = {"seed": 3, "temperature": 1, "think": {"strategy": strategy, "n": 3, "budget_tokens": 4}, "max_tokens": 12}
    whole = ask(server, "noise", **asked)
    chunks = stream(server, "noise", **asked, stream_options={"include_usage": True, "include_progress": True})
    told = [chunk["think"] for chunk in chunks if "think" in chunk]
    assert [one["finished"] for one in told] == sorted(one["finished"] for one in told) and len(told) >= 1
    assert told[-1]["strategy"] == strategy and told[-1]["completion_tokens"] > 0
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    message = whole["choices"][0]["message"]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (message["reasoning_content"] or "")
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    phases = [chunk["fathom"]["phase"] for chunk in chunks]
    assert phases.index("done") >= len(phases) - 2
    usage = chunks[-1]["usage"]
    assert usage["think"]["n"] == 3 and chunks[-1]["choices"] == [] and chunks[-2]["usage"] is None
    if strategy != "vote":
        assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_a_client_that_leaves_leaves_nothing_running(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "slow"}], "stream": True, "temperature": 0.0,
            "think": {"strategy": "revise", "n": 2}}  # fmt: skip
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 10
    while server.server.client.in_flight and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.server.client.in_flight == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"think": {"strategy": "guess"}}, "think.strategy"),
        ({"think": {"strategy": "vote", "n": 17}}, "think.n"),
        ({"think": {"strategy": "vote", "n": 0}}, "think.n"),
        ({"think": {"n": 3}}, "think.strategy"),
        ({"think": {"strategy": "vote"}, "n": 2}, "n"),
        ({"think": {"strategy": "vote"}, "temperature": 0}, "temperature"),
        ({"think": {"budget_tokens": -1}}, "think.budget_tokens"),
        ({"think": {"budget": 1}}, "think.budget"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(server: Running, fields: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    response = server.http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    if param in ("think.strategy", "reasoning_effort"):
        assert re.search(r"vote.*best_of.*revise|none.*low.*medium.*high.*max", error["message"]), error["message"]


def test_a_continued_message_is_not_revised(server: Running) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so", "prefix": True}]
    body = {"messages": messages, "think": {"strategy": "revise"}}
    assert server.http.post("/v1/chat/completions", json=body).json()["error"]["param"] == "think.strategy"
