"""`fathom plan web`: the planner as a page, without a model behind it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.serve.pages import Page

NAME = "web"
SUMMARY = "the planner as a page: inputs on one side, plots on the other"
HELP = (
    "Serve the planner's page on this machine: fit, layouts, training, demand and crossover, drawn and told in tables, "
    "with inputs in the address, to share. `fathom serve` has the same page at /plan."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan web`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8010, help="port, 0 for any free one (default: %(default)s)")
    parser.add_argument("--api-key", action="append", default=[], help="that a page opened as /plan#key=KEY sends")
    parser.add_argument("--allow-host", action="append", default=[], help="another Host name clients may use")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from fathom.serve.alone import Alone
    from fathom.serve.guard import Access

    alone = Alone([plan_page()], args.host, args.port, Access.for_host(args.host, args.api_key, args.allow_host))
    url = f"{alone.url}/plan"

    def on_ready() -> None:
        print(json.dumps({"url": url}) if args.json else f"  The planner: {url}\n  Ctrl-C stops.", flush=True)
        if not args.no_browser and not args.json and sys.stdout.isatty():
            from fathom.cli.serve import open_page

            threading.Thread(target=open_page, args=(url,), daemon=True).start()

    asyncio.run(alone.serve(on_ready))
    return 0


def plan_page() -> Page:
    """The page with what answers it: a process of its own, started by the first question."""
    from fathom.plan.desk import Desk
    from fathom.serve.pages import Page

    return Page("plan", Desk())
