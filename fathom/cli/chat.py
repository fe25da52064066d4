"""`fathom chat`: a conversation in the terminal, thinking dimmed, in this process."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time

from fathom.cli.local import Local, add_model_arguments, shown
from fathom.errors import ConfigError, RequestError

NAME = "chat"
HELP = "Talk to a model in the terminal. With a question, answer it and exit; piped, print the answer alone."

COMMANDS = """  /new      forget the conversation
  /think    think before answering, or stop doing so
  /exit     leave (Ctrl-D does too)
  Ctrl-C stops an answer."""

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom chat`."""
    parser.add_argument("question", nargs="?", help="one question to answer; without it, a conversation begins")
    parser.add_argument("--system", help="instructions that come before the conversation")
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the one answer as a JSON object")


def run(args: argparse.Namespace) -> int:
    """Answer one question, or converse."""
    if args.json and args.question is None:
        raise ConfigError("--json needs a question, as in `fathom chat --json 'What is 2 + 2?'`.")
    chat = Chat(Local(args), args.system)
    if args.question is None:
        return chat.converse(args.model)
    if args.json:
        return chat.answer_as_json(args.question)
    chat.answer(args.question)
    return 0


class Chat:
    """One conversation and the screen it is on."""

    def __init__(self, local: Local, system: str | None) -> None:
        if not local.takes_chat:
            raise ConfigError("this model has no chat encoding; use `fathom generate --raw`.")
        self._local = local
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._system)
        self._screen = sys.stdout.isatty()

    def converse(self, model: str) -> int:
        """Questions and answers until the person leaves."""
        with contextlib.suppress(ImportError):  # line editing and history, where the platform has it
            import readline  # noqa: F401
        print(f"{model}: ask something.\n{COMMANDS}")
        while True:
            try:
                line = input("\n> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return 0
            if line == "/exit":
                return 0
            if line == "/new":
                self._messages = list(self._system)
                print("a new conversation")
            elif line == "/think":
                self._local.thinking = not self._local.thinking
                print(f"thinking is {'on' if self._local.thinking else 'off'}")
            elif line.startswith("/"):
                print(COMMANDS)
            elif line:
                self._answer_or_say_why(line)

    def answer(self, question: str) -> str:
        """Write the answer as it comes, thinking dimmed, and a line of numbers below; returns the answer."""
        if self._local.args.samples > 1:
            return self._answer_by_vote(question)
        started_s = time.perf_counter()
        choice = self._local.choice(self._local.chat_prompt([*self._messages, _user(question)]))
        dim = False
        try:
            for delta in self._local.run(choice):
                if delta.reasoning and self._screen:
                    self._write(("" if dim else DIM) + shown(delta.reasoning))
                    dim = True
                if delta.content:
                    self._write((f"{PLAIN}\n\n" if dim else "") + shown(delta.content))
                    dim = False
        finally:
            self._write(PLAIN + "\n" if self._screen else "\n")
        if self._screen:
            print(f"{DIM}{_numbers(self._local.result(choice, started_s))}{PLAIN}")
        return choice.content

    def answer_as_json(self, question: str) -> int:
        """Print the whole answer as one object."""
        started_s = time.perf_counter()
        choice, samples, votes = self._local.vote(self._local.chat_prompt([*self._messages, _user(question)]))
        several = (samples, votes) if self._local.args.samples > 1 else ()
        print(json.dumps(self._local.result(choice, started_s, *several)))
        return 0

    def _answer_by_vote(self, question: str) -> str:
        """The answer that most samples gave, once that is sure; below it, how they voted."""
        started_s = time.perf_counter()
        choice, samples, votes = self._local.vote(self._local.chat_prompt([*self._messages, _user(question)]))
        if choice.reasoning and self._screen:
            self._write(f"{DIM}{shown(choice.reasoning)}{PLAIN}\n\n")
        self._write(shown(choice.content) + "\n")
        if self._screen:
            given_up = sum(one.finish_reason == "abort" for one in samples)
            numbers = _numbers(self._local.result(choice, started_s, samples, votes))
            most = next(iter(votes.values()), 0)
            print(f"{DIM}{most} of {len(samples) - given_up} agree, {given_up} given up · {numbers}{PLAIN}")
        return choice.content

    def _answer_or_say_why(self, question: str) -> None:
        """One turn of a conversation, which goes on whatever happens to the turn."""
        try:
            content = self.answer(question)
        except KeyboardInterrupt:
            print("stopped")
        except RequestError as error:
            print(f"{error}\n/new begins again.")
        else:
            self._messages += [_user(question), {"role": "assistant", "content": content}]

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _numbers(result: dict[str, object]) -> str:
    """`118 thinking + 64 answer tokens · 61.3 tok/s · first after 84 ms`"""
    usage, timings = result["usage"], result["timings"]
    assert isinstance(usage, dict) and isinstance(timings, dict), "a result's usage and timings are objects"
    thinking = usage["reasoning_tokens"]
    parts = [f"{thinking} thinking + {usage['completion_tokens'] - thinking} answer tokens"]
    if timings["tokens_per_s"]:
        parts.append(f"{timings['tokens_per_s']:.1f} tok/s")
    parts.append(f"first after {timings['first_token_s'] * 1000:.0f} ms")
    return " · ".join(parts)
