"""A model in this process, for the commands that need no server: `fathom generate` and `fathom chat`."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fathom.cli.options import add_engine_options, engine_options
from fathom.config.effort import EFFORTS
from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.serve.stream import Choice, Delta
    from fathom.think.steering import Steering


MAX_SAMPLES = 64


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that both commands have."""
    parser.add_argument("--model", default="nano", help="a model's directory, or nano (default)")
    parser.add_argument("--max-tokens", type=int, help="longest reply, with its thinking (default: what fits)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token (default: the model's, else 1)")
    parser.add_argument("--seed", type=int, help="same seed, same reply (default: a new one each time)")
    parser.add_argument("--no-thinking", action="store_true", help="answer at once")
    parser.add_argument("--effort", choices=tuple(EFFORTS), help="how long to think; none is --no-thinking")
    parser.add_argument("--budget", type=int, metavar="N", help="the longest thought in tokens; before --effort's")
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="answers, of which most decide (default: 1)"
    )
    add_engine_options(parser)


class Local:
    """A model in this process that answers as the server would: same prompt, same parsing, same text."""

    def __init__(self, args: argparse.Namespace) -> None:
        from fathom.config import find_model
        from fathom.engine import Engine, EngineConfig, load_model
        from fathom.engine.load import eos_token_ids
        from fathom.serve.defaults import Defaults
        from fathom.serve.vocabulary import load_tokenizer

        if not 1 <= args.samples <= MAX_SAMPLES:
            raise ConfigError(f"--samples is {args.samples}; it must be 1 to {MAX_SAMPLES}.")
        self.args = args
        self.thinking = not args.no_thinking and args.effort != "none" and args.budget != 0
        directory = find_model(args.model)
        self._defaults = Defaults.read(directory)
        self.tokenizer = load_tokenizer(directory)
        config = EngineConfig(**engine_options(args))
        model = load_model(directory, mtp=config.mtp, **config.loading)
        ends = eos_token_ids(model.config, self.tokenizer.eos_id)
        self._engine = Engine(model, config=config, eos_token_ids=ends)
        self._moments: list[float] = []

    def prompt(self, args: argparse.Namespace) -> list[int]:
        """Token ids of what the options ask."""
        if args.token_ids is not None:
            return _ids(args.token_ids)
        text = sys.stdin.read() if args.prompt == "-" else args.prompt
        if args.raw or not self.takes_chat:
            begin = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            return [*begin, *self.tokenizer.encode(text)]
        return self.chat_prompt([{"role": "user", "content": text}])

    @property
    def takes_chat(self) -> bool:
        """Whether the tokenizer has a chat encoding."""
        try:
            self.chat_prompt([{"role": "user", "content": ""}])
        except ConfigError:
            return False
        return True

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation."""
        from fathom.config.effort import with_control
        from fathom.tokenizer import encode_chat

        steering = self.steering
        return encode_chat(self.tokenizer, with_control(messages, steering.line), thinking=steering.thinking)

    @property
    def steering(self) -> Steering:
        """How much a reply may think, as the options say."""
        from fathom.think.steering import Steering, steer

        if not self.thinking:
            return Steering(thinking=False, limited=True, budget_tokens=0)
        effort = None if self.args.effort == "none" else self.args.effort  # /think has switched it on again
        return steer(self.tokenizer, self._engine.context_tokens, effort, self.args.budget or None)

    def choice(self, prompt: Sequence[int], index: int = 0, seed: int | None = None) -> Choice:
        """A reply to be, not yet begun. Args: index: of several with one seed, each with its own noise."""
        from fathom.batching.request import Request, SamplingParams, sibling_seed
        from fathom.serve.stream import Choice
        from fathom.think.steering import TEMPERATURE, share

        args, defaults = self.args, self._defaults
        room = max(1, self._engine.context_tokens - len(prompt))
        total, limit = share(
            self.steering, self.tokenizer, prompt, room, most=args.max_tokens, usual=defaults.max_tokens
        )
        temperature = defaults.temperature if args.temperature is None else args.temperature
        if args.samples > 1 and args.temperature is None:
            temperature = temperature or TEMPERATURE
        params = SamplingParams(
            max_tokens=total if args.max_tokens is None else args.max_tokens,
            temperature=temperature,
            top_p=defaults.top_p,
            top_k=defaults.top_k,
            seed=sibling_seed(self._seed() if seed is None else seed, index),
            thinking=limit,
        )
        return Choice(index, Request(f"local-{index}", tuple(prompt), params), self.tokenizer)

    def _seed(self) -> int:
        return secrets.randbits(63) if self.args.seed is None else self.args.seed

    def vote(self, prompt: Sequence[int]) -> tuple[Choice, list[Choice], dict[str, int]]:
        """--samples replies at once: the one whose answer most gave, all of them, and the votes.

        Those that cannot change the result are given up. Raises: ConfigError: all would be the same.
        """
        from fathom.think.votes import Vote, normalised

        count = self.args.samples
        if count > 1 and self.args.temperature == 0:
            raise ConfigError("--temperature is 0: all samples would be the same; give one above 0.")
        seed, vote = self._seed(), Vote(count)
        choices = [self.choice(prompt, index, seed) for index in range(count)]
        for delta in self.run(*choices):
            if delta.finish_reason is None:
                continue
            ended = choices[delta.index]
            vote.add(ended.index, normalised(ended.content) if ended.finish_reason == "stop" else None)
            for choice in choices:
                if vote.decided and choice.finish_reason is None and choice.index not in vote.wanted:
                    self._engine.abort(choice.request.id)
                    choice.finish_reason = "abort"
        return choices[vote.winner or 0], choices, vote.counts

    def run(self, *choices: Choice) -> Iterator[Delta]:
        """The replies as they come; leaving early stops them."""
        self._moments = []
        named = {choice.request.id: choice for choice in choices}
        try:
            for choice in choices:
                self._engine.add(choice.request)
            while any(choice.finish_reason is None for choice in choices):
                for output in self._engine.step():
                    if output.token_ids:
                        self._moments.append(time.perf_counter())
                    if named[output.request_id].finish_reason is None:  # else given up a moment ago
                        yield named[output.request_id].feed(output)
        finally:
            for choice in choices:
                self._engine.abort(choice.request.id)

    def result(
        self, choice: Choice, started_s: float, samples: Sequence[Choice] = (), votes: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """The reply as one JSON object; `usage` counts all samples, where there are several."""
        every = samples or [choice]
        prompt, output = len(choice.request.prompt_token_ids), sum(len(one.token_ids) for one in every)
        first_s, last_s = self._moments[0], self._moments[-1]
        voted = {} if votes is None else {"samples": len(every), "votes": votes}
        return voted | {
            "token_ids": choice.token_ids,
            "text": choice.content,
            "reasoning": choice.reasoning,
            "finish_reason": choice.finish_reason,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
                "reasoning_tokens": sum(one.reasoning_tokens for one in every),
                "cached_tokens": every[0].cached_tokens,
                "accepted_prediction_tokens": sum(one.accepted_drafts for one in every),
                "rejected_prediction_tokens": sum(one.rejected_drafts for one in every),
            },
            "timings": {
                "first_token_s": round(first_s - started_s, 6),
                "total_s": round(last_s - started_s, 6),
                "tokens_per_s": round((output - 1) / (last_s - first_s), 3) if output > 1 else None,
            },
        }


def shown(text: str) -> str:
    """The model's text, safe for a terminal: no reply moves the cursor or sets the title. A pipe gets it as it is."""
    return text.translate(_VISIBLE) if sys.stdout.isatty() else text


_VISIBLE = dict.fromkeys(range(127, 160), 0xFFFD) | {code: 0x2400 + code for code in range(32) if code not in (9, 10)}


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--token-ids is {text!r}; it must be integers with commas, such as 1,2,3.") from None
