"""A model in this process, for the commands that need no server: `fathom generate` and `fathom chat`."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fathom.cli.options import add_engine_options, engine_options
from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.serve.stream import Choice, Delta


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that both commands have."""
    parser.add_argument("--model", default="nano", help="a model's directory, or nano (default)")
    parser.add_argument("--max-tokens", type=int, help="longest reply, with its thinking (default: what fits)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token (default: the model's, else 1)")
    parser.add_argument("--seed", type=int, help="same seed, same reply (default: a new one each time)")
    parser.add_argument("--no-thinking", action="store_true", help="answer at once")
    parser.add_argument("--effort", choices=("none", "low", "medium", "high"), help="none is --no-thinking")
    add_engine_options(parser)


class Local:
    """A model in this process that answers as the server would: same prompt, same parsing, same text."""

    def __init__(self, args: argparse.Namespace) -> None:
        from fathom.config import find_model
        from fathom.engine import Engine, EngineConfig, load_model
        from fathom.engine.load import eos_token_ids
        from fathom.serve.defaults import Defaults
        from fathom.serve.vocabulary import load_tokenizer

        self.args = args
        self.thinking = not args.no_thinking and args.effort != "none"
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
        from fathom.tokenizer import encode_chat

        return encode_chat(self.tokenizer, messages, thinking=self.thinking)

    def choice(self, prompt: Sequence[int]) -> Choice:
        """A reply to be, not yet begun."""
        from fathom.batching.request import Request, SamplingParams
        from fathom.serve.stream import Choice

        args, defaults = self.args, self._defaults
        room = max(1, self._engine.context_tokens - len(prompt))
        params = SamplingParams(
            max_tokens=args.max_tokens if args.max_tokens is not None else min(defaults.max_tokens or room, room),
            temperature=defaults.temperature if args.temperature is None else args.temperature,
            top_p=defaults.top_p,
            top_k=defaults.top_k,
            seed=secrets.randbits(63) if args.seed is None else args.seed,
        )
        return Choice(0, Request("local", tuple(prompt), params), self.tokenizer)

    def run(self, choice: Choice) -> Iterator[Delta]:
        """The reply as it comes; leaving early stops it."""
        self._moments = []
        self._engine.add(choice.request)
        try:
            while choice.finish_reason is None:
                for output in self._engine.step():
                    if output.token_ids:
                        self._moments.append(time.perf_counter())
                    yield choice.feed(output)
        finally:
            self._engine.abort(choice.request.id)

    def result(self, choice: Choice, started_s: float) -> dict[str, Any]:
        """The reply as one JSON object."""
        prompt, output = len(choice.request.prompt_token_ids), len(choice.token_ids)
        first_s, last_s = self._moments[0], self._moments[-1]
        return {
            "token_ids": choice.token_ids,
            "text": choice.content,
            "reasoning": choice.reasoning,
            "finish_reason": choice.finish_reason,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
                "reasoning_tokens": choice.reasoning_tokens,
                "cached_tokens": choice.cached_tokens,
                "accepted_prediction_tokens": choice.accepted_drafts,
                "rejected_prediction_tokens": choice.rejected_drafts,
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
