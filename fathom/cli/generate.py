"""`fathom generate`: one prompt, answered in this process; what scripts and tests compare."""

from __future__ import annotations

import argparse
import json
import sys
import time

from fathom.cli.local import Local, add_model_arguments, shown

NAME = "generate"
HELP = "Answer one prompt and exit. A text is a chat turn, unless --raw or the model takes no chat; token ids are raw."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom generate`."""
    add_model_arguments(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text to answer, or with --raw to continue; - reads standard input")
    prompt.add_argument("--token-ids", help="prompt as token ids, such as 1,2,3")
    parser.add_argument("--raw", action="store_true", help="continue the text as it stands")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    local = Local(args)
    prompt = local.prompt(args)
    started_s = time.perf_counter()
    choice, samples, votes = local.vote(prompt)
    if args.json:
        several = (samples, votes) if args.samples > 1 else ()
        print(json.dumps(local.result(choice, started_s, *several)))
        return 0
    if choice.reasoning:
        print(dimmed(shown(choice.reasoning)), end="\n\n")
    print(shown(choice.content))
    return 0


def dimmed(text: str) -> str:
    """Text in the terminal's faint style, where there is a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stdout.isatty() else text
