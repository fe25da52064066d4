"""The `fathom` command: one file per subcommand, each imported only when it is the one asked for.

A command file has NAME, HELP, add_arguments(parser) and run(args) -> exit code, and imports torch inside functions
only, so that every --help answers at once. May import everything; nothing imports it. Read info.py as the example.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fathom import __version__
from fathom.config import nearest
from fathom.errors import FathomError, InputError

COMMANDS = {
    "serve": "serve a model: page and OpenAI-compatible API",
    "scale": "show and change the replicas of a running server",
    "chat": "talk to a model in the terminal",
    "generate": "continue one prompt",
    "train": "train a model from a recipe",
    "sft": "fine-tune a model on samples",
    "distill": "teach a model the distribution of another",
    "reject": "sample a model, keep its right, short, consistent replies",
    "grpo": "reinforcement learning on problems with a checker",
    "speedrun": "all of it: from nothing to a reasoner and a report",
    "eval": "measure a model on tasks with known answers",
    "report": "render a run's ledgers and evaluations as one page",
    "bench": "measure speed, and what bounds it",
    "replay": "execute a step log again, to the bit",
    "info": "count a model: parameters, bytes, FLOPs",
    "deploy": "write what starts a deployment on Slurm or Kubernetes",
    "plan": "what fits, how fast, how many, what it costs",
    "init": "make a model of a known shape with random weights",
    "convert": "rewrite a checkpoint: precision, shard size",
    "doctor": "check this machine",
    "version": "print the version",
}
INTERRUPTED, PIPE_CLOSED = 130, 141  # what a shell reports for SIGINT and SIGPIPE


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are InputErrors that end with where to look."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, so that one place prints errors."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `fathom` command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = _dispatch(argv)
        sys.stdout.flush()  # a closed pipe shows here, not at interpreter exit
        return code
    except FathomError as error:
        _report(error, as_json="--json" in argv)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except SystemExit as exit_:  # argparse, after --help
        return exit_.code if isinstance(exit_.code, int) else 0


def _dispatch(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name in ("version", "-V", "--version"):
        print(f"fathom {__version__}")
        return 0
    if name not in COMMANDS:
        raise InputError(f"{name!r} is not a fathom command{nearest(name, COMMANDS)}; see `fathom --help`.")
    for word in rest:
        if word.startswith("--") and word.endswith("=--"):  # argparse would drop the value
            raise InputError(f"{word} has no value; see `fathom {name} --help`.")
    command: Any = importlib.import_module(f"fathom.cli.{name}")
    parser = Parser(prog=f"fathom {name}", description=command.HELP, allow_abbrev=False)
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(rest)))


def _overview() -> str:
    lines = "\n".join(f"  {name:<10}{COMMANDS[name]}" for name in COMMANDS)
    return (
        "usage: fathom COMMAND [OPTIONS]\n\n"
        "Train, serve and size DeepSeek-V3-class models, from one definition.\n\n"
        f"{lines}\n\n"
        "`fathom COMMAND --help` explains a command."
    )


def _report(error: FathomError, *, as_json: bool) -> None:
    """Print `error` on stderr (red on a terminal), and as one JSON object on stdout where the caller asked for JSON."""
    text = f"error: {error}"
    print(f"\x1b[31m{text}\x1b[0m" if sys.stderr.isatty() else text, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"message": str(error), "type": type(error).__name__}}))
