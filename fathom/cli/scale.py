"""`fathom scale`: the replicas of a running server, seen and changed."""

from __future__ import annotations

import argparse
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fathom.cli.serve import read_keys
from fathom.errors import ConfigError, WorkerError

NAME = "scale"
HELP = "Show the replicas of a running server; with a number, have so many. No reply is lost."

TIMEOUT_S = 10.0
COLUMNS = ("name", "state", "requests", "due_tokens", "restarts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom scale`."""
    parser.add_argument("replicas", nargs="?", type=int, help="how many replicas the pool shall have")
    parser.add_argument("--pool", default="main", help="the pool's name (default: %(default)s)")
    parser.add_argument("--renew", metavar="REPLICA", help="let this one finish what it has, then start it afresh")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server is (default: %(default)s)")
    parser.add_argument("--api-key-file", type=Path, help="file whose first line is the key that the server asks for")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Ask the server, and print what it has now."""
    if args.replicas is not None and args.renew is not None:
        raise ConfigError("give a number of replicas or --renew REPLICA, not both.")
    keys = read_keys(args.api_key_file)
    if args.renew is not None:
        reply = ask(args.url, keys, "/fleet/renew", {"replica": args.renew})
    elif args.replicas is not None:
        reply = ask(args.url, keys, "/fleet/scale", {"replicas": args.replicas, "pool": args.pool})
    else:
        reply = ask(args.url, keys, "/fleet")
    print(json.dumps(reply) if args.json else table(reply["replicas"]))
    return 0


def ask(url: str, keys: list[str], path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's answer; a body makes it a POST.

    Raises: ConfigError: the server refuses what is asked. WorkerError: it does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"url is {url!r}; it must be like http://127.0.0.1:8000.")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        content = None if body is None else json.dumps(body)
        headers |= {} if body is None else {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, content, headers)
        response = connection.getresponse()
        reply = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WorkerError(f"no fathom server answers at {url} ({error})") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise ConfigError(f"{reply['error']['message']} ({response.status})")
    return reply


def table(replicas: list[dict[str, Any]]) -> str:
    """One line for each replica, under a head."""
    rows = [COLUMNS, *[tuple(str(replica[column]) for column in COLUMNS) for replica in replicas]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
