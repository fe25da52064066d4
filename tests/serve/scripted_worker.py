"""A worker whose model is a script: the real loop and scheduler, without torch, with replies that tests choose.

What the last user message says decides the reply: `crash`, `long`, `slow`, `html`, `emoji`, `noise`, `echo TEXT`, ...
With `guess` in it, tokens are guessed ahead; with `agree` the answer is 7, after a thought as long as the seed says.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time

import msgspec

from fathom.batching.plan import Row, Sampled, Sampling
from fathom.batching.request import Output, Request, TokenLogprob
from fathom.batching.scheduler import Scheduler, SchedulerConfig
from fathom.errors import CheckpointError, ConfigError
from fathom.serve import messages
from fathom.serve.worker import main
from fathom.tokenizer import Tokenizer

REPLIES = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)></think>",
    "emoji": "naïve 👩‍🚀 数学 é",
    "newlines": 'a\nb\r\nc\u2028d "quoted" \\ \x00 end',
    "count": "1 2 3 4 5 6 7 8 9",
}


def thought_tokens(seed: int) -> int:
    """Length of a thought before an answer that all agree on."""
    return 3 + hashlib.sha256(str(seed).encode()).digest()[0]


class ScriptedSeeing:
    """Two ranks, of which the first is busier until somebody asks for a rebalance."""

    def __init__(self) -> None:
        self.asked = 0

    def experts(self) -> dict[str, object]:
        return {"counted": True, "ranks": 2, "load": {"3": [30, 10]}, "pid": os.getpid(), "asked": self.asked}

    def rebalance(self) -> None:
        if os.environ.get("EPLB") == "off":
            raise ConfigError("experts stay where they are: eplb is off.")
        self.asked += 1

    def trace(self, *, name: str, first_pid: int) -> bytes:
        return msgspec.json.encode([{"ph": "X", "name": "forward", "pid": first_pid, "cat": name}])

    def figures(self) -> dict[str, object]:
        gain = {"moves": self.asked, "predicted_gain": 1.25} if self.asked else {}
        return {"op_s": {"forward": 1.5}, "experts": {"imbalance": 1.5, "rank_rows": (30, 10)} | gain}


class ScriptedEngine:
    """An engine whose next token is written down. It has no latents, hence no pages to give."""

    pages = None
    seeing = ScriptedSeeing()

    def __init__(self, tokenizer: Tokenizer, config: SchedulerConfig) -> None:
        self.tokenizer = tokenizer
        self.scheduler = Scheduler(config, [tokenizer.eos_id])
        self.scripts: dict[str, list[int]] = {}
        self.slow: set[str] = set()
        self.guessing: set[str] = set()
        self.agreeing: set[str] = set()

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request) -> None:
        self.scheduler.add(request)
        text = self.tokenizer.decode(request.prompt_token_ids)
        question = text.rpartition("<｜User｜>")[2].partition("<｜Assistant｜>")[0]
        if "slow" in question:
            self.slow.add(request.id)
        if "guess" in question:
            self.guessing.add(request.id)
        if "agree" in question:
            self.agreeing.add(request.id)
        if "crash" in question:
            os._exit(9)
        self.scripts[request.id] = self._script(question, request)

    def abort(self, request_id: str) -> Output | None:
        self.slow.discard(request_id)
        return self.scheduler.abort(request_id)

    @property
    def running(self) -> list[str]:
        return [sequence.request.id for sequence in self.scheduler.running]

    @property
    def live(self) -> list[str]:
        return list(self.scheduler.live)

    def stats(self) -> messages.Stats:
        scheduler, tables = self.scheduler, self.scheduler.tables
        return messages.Stats(
            len(scheduler.running), len(scheduler.waiting), scheduler.pool.used, scheduler.config.num_pages,
            scheduler.steps, scheduler.preemptions, tables.copied,
            drafted_by_depth=scheduler.drafted_by_depth, accepted_by_depth=scheduler.accepted_by_depth,
        )  # fmt: skip

    def watch(self, on_lost) -> None: ...

    def close(self) -> None: ...

    def save_pages(self) -> bool:
        return False

    def step(self) -> list[Output]:
        plan = self.scheduler.schedule(3 if self.guessing & self.scheduler.live.keys() else 0)
        if self.slow & self.scheduler.live.keys():
            time.sleep(0.02)
        return self.scheduler.update(plan, [self._answer(row, row.sampling) for row in plan.rows if row.sampling])

    def _answer(self, row: Row, state: Sampling) -> Sampled:
        """Tokens of the script, as many as there are guesses and one more; each third guess is wrong."""
        found: list[Sampled] = []
        for guess in (*row.token_ids[len(row.token_ids) - row.drafts :], None):
            found.append(self._sample(row.request_id, state))
            state = state.after(found[-1].token_ids[0])
            if found[-1].token_ids[0] != guess:
                break
        guesses: list[int] = []
        for _ in range(row.propose):
            guesses.append(self._sample(row.request_id, state).token_ids[0] + (state.position % 3 == 0))
            state = state.after(guesses[-1])
        tokens, logprobs = ([item for one in found for item in getattr(one, n)] for n in ("token_ids", "logprobs"))
        return Sampled(tuple(tokens), tuple(logprobs), tuple(guesses))

    def _script(self, question: str, request: Request) -> list[int]:
        reply = REPLIES.get(question.strip(), f"You said: {question}")
        if question.startswith("echo "):
            reply = question.removeprefix("echo ")
        if "long" in question or "slow" in question:
            reply = "word " * 2000
        if "agree" in question:
            thought = self.tokenizer.encode("x") * thought_tokens(request.params.seed)
            return [*thought, self.tokenizer.end_think_id, *self.tokenizer.encode("7."), self.tokenizer.eos_id]
        answer = [*self.tokenizer.encode(reply), self.tokenizer.eos_id]
        if request.prompt_token_ids[-1] != self.tokenizer.think_id:
            return answer
        thought = self.tokenizer.encode("Let me think step by step." if "deep" not in question else "deep " * 50)
        return [*thought, self.tokenizer.end_think_id, *answer]

    def _sample(self, request_id: str, sampling: Sampling) -> Sampled:
        at = sampling.position - len(self.scheduler.live[request_id].request.prompt_token_ids)
        script = self.scripts[request_id]
        token = script[at] if at < len(script) else self.tokenizer.eos_id
        if (
            sampling.params.temperature > 0 and request_id not in self.agreeing
        ):  # as noise would: another token, by seed and position
            noise = hashlib.sha256(f"{sampling.params.seed} {sampling.position}".encode()).digest()
            token = self.tokenizer.encode("abcdefgh"[noise[0] % 8])[0]
        token = token if sampling.forced_token_id is None else sampling.forced_token_id
        if sampling.params.logprobs is None:
            return Sampled((token,))
        top = tuple((token + i, -0.5 - i) for i in range(sampling.params.logprobs))
        return Sampled((token,), (TokenLogprob(token, -0.5, top),))


def load(hello: messages.Hello) -> tuple[ScriptedEngine, messages.Ready]:
    if "broken" in hello.model:
        raise CheckpointError("model.safetensors is truncated; fetch it again.")
    tokenizer = Tokenizer.load(hello.model)
    config = SchedulerConfig(max_batch_tokens=64, max_sequences=4, page_tokens=8, num_pages=256, max_context_tokens=512)
    facts = messages.Ready(
        vocab_size=tokenizer.vocab_size, context=config.context_tokens, load_s=0.0, parameters=1234,
        max_sequences=config.max_sequences, fingerprint=os.environ.get("FINGERPRINT", "scripted"),
    )  # fmt: skip
    return ScriptedEngine(tokenizer, config), facts


if __name__ == "__main__":
    sys.exit(main(load=load))
