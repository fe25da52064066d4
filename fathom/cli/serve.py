"""`fathom serve`: the page and the OpenAI-compatible API over one model."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom import __version__
from fathom.cli.hosts import add_host_options, hosts_of, read_layout
from fathom.cli.options import add_engine_options, engine_options
from fathom.errors import ConfigError

if TYPE_CHECKING:
    from fathom.cli.hosts import Hosts
    from fathom.layout.deploy import Pool
    from fathom.serve.launch import ServeConfig, Started
    from fathom.serve.messages import Ranks
    from fathom.think.account import Prices

NAME = "serve"
HELP = "Serve a model: the chat page at / and OpenAI's API at /v1. Listens on this machine only unless told otherwise."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom serve`."""
    parser.add_argument("deploy", nargs="?", type=Path, help="a deployment's TOML file: model, pools, engine, router")
    parser.add_argument("--model", help="a model's directory, or nano (default)")
    parser.add_argument("--replicas", type=int, help="engines on this machine, which share its cores (default: 1)")
    parser.add_argument(
        "--worker", action="append", default=[], metavar="HOST:PORT", help="an engine that listens there"
    )
    parser.add_argument("--worker-secret", type=Path, metavar="FILE", help="what those ask for; a file of mode 600")
    parser.add_argument("--ray", metavar="ADDRESS", help="start replicas on this Ray cluster, or local")
    parser.add_argument("--served-name", help="the name clients use (default: the directory's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for any free one (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--api-key-file", type=Path, help="file with one key per line that clients must send")
    parser.add_argument("--api-key", action="append", default=[], help="such a key; others can see it in `ps`")
    parser.add_argument("--allow-host", action="append", default=[], help="another Host name clients may use")
    parser.add_argument("--max-sequences", type=int, help="sequences computed at a time")
    parser.add_argument("--max-batch-tokens", type=int, help="tokens computed in a step")
    parser.add_argument("--num-pages", type=int, help="pages of latent cache")
    parser.add_argument("--spill", metavar="PATH", help="a free name for a file that keeps pages evicted from memory")
    parser.add_argument("--cache-dir", metavar="DIR", help="a folder that keeps pages for the next start too")
    parser.add_argument("--spill-gb", type=float, metavar="N", help="the most either may hold, in GB (default: 8)")
    parser.add_argument("--max-queued", type=int, default=256, help="sequences that may wait (default: %(default)s)")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of this machine, to say what replies cost")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="make these faults, to see what is done about them")
    add_engine_options(parser)
    add_host_options(parser)
    parser.add_argument("--drain", type=float, default=5.0, help="seconds replies may take to finish on Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object when ready")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from fathom.cli.planning.web import plan_page
    from fathom.serve.launch import Server

    config = configured(args)
    if (hosts := hosts_of(args)) is not None and hosts.number > 0:
        return lend(config, hosts)
    server = Server(config, pages=[plan_page()])
    if not args.json:
        print(f"fathom {__version__}   loading {config.model} ...", flush=True)

    def on_ready(started: Started) -> None:
        print(json.dumps(_facts(started)) if args.json else block(started, keys=server.has_keys), flush=True)
        if not args.no_browser and not args.json and sys.stdout.isatty():
            threading.Thread(target=open_page, args=(started.url,), daemon=True).start()

    server.run(on_ready)
    return 0


def lend(config: ServeConfig, hosts: Hosts) -> int:
    """Run this host's ranks for the one that serves, until that lets them go."""
    from fathom.engine.join import join
    from fathom.serve.secret import read_token

    ranks = hosts.ranks(config.pools[0].layout.world_size)
    print(f"fathom {__version__}   ranks {ranks[0]} to {ranks[-1]} for {hosts.host}:{hosts.port}", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        join(hosts.host, hosts.port, ranks, read_token(hosts.secret))
    return 0


def configured(args: argparse.Namespace) -> ServeConfig:
    """What the options ask for, and the deployment where there is one; an option goes before what the file says.

    Raises: ConfigError: they contradict each other, or the file cannot be used.
    """
    from fathom.config import build
    from fathom.config.faults import read_faults
    from fathom.layout.deploy import read_deploy
    from fathom.serve.deployment import read_engine
    from fathom.serve.front import Limits
    from fathom.serve.launch import ENGINE, ServeConfig
    from fathom.serve.router import RouterConfig
    from fathom.serve.secret import read_secret

    settings: dict[str, Any] = {}
    pools, router = _pools(args), RouterConfig()
    if args.deploy is not None:
        if any(given is not None for given in (args.replicas, args.model, args.layout)):
            raise ConfigError(
                f"{args.deploy} says which model and how many replicas; drop --model, --replicas and --layout."
            )
        deploy = read_deploy(args.deploy)
        engine = read_engine(deploy.engine, str(args.deploy))
        settings = {name: getattr(engine, name) for name in ENGINE}
        pools, router = deploy.pool, build(RouterConfig, deploy.router, f"{args.deploy}: router")
    far = bool(args.worker) or any(pool.workers for pool in pools)
    if far and args.worker_secret is None:
        raise ConfigError("workers elsewhere need --worker-secret FILE, the secret that they were started with.")
    given = {
        **engine_options(args),
        "max_sequences": args.max_sequences,
        "max_batch_tokens": args.max_batch_tokens,
        "num_pages": args.num_pages,
        "spill_path": args.spill,
        "spill_bytes": _bytes(args.spill_gb),
        "cache_dir": None if args.cache_dir is None else str(Path(args.cache_dir).resolve()),
        "faults": None if args.faults is None else read_faults(args.faults),
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if (hosts := hosts_of(args)) is not None:
        if args.ray:
            raise ConfigError("--ray puts a replica on one node; drop it, or --nnodes.")
        settings["ranks"] = _shared(pools, hosts, settings.get("ranks"))
    return ServeConfig(
        model=deploy.model if args.deploy is not None else args.model or "nano",
        host=args.host,
        port=_port(args.port),
        served_name=args.served_name,
        api_keys=(*args.api_key, *read_keys(args.api_key_file)),
        allow_hosts=tuple(args.allow_host),
        **settings,
        pools=pools,
        router=router,
        workers=tuple(args.worker),
        secret=read_secret(args.worker_secret) if far else b"",
        ray=args.ray or "",
        drain_s=args.drain,
        prices=_prices(args),
        limits=Limits(max_queued=args.max_queued),
    )


def _prices(args: argparse.Namespace) -> Prices:
    from fathom.think.account import Prices

    return Prices(per_hour=args.price_per_hour)


def _pools(args: argparse.Namespace) -> tuple[Pool, ...]:
    """The replicas that options ask for on this machine: one, unless there are some elsewhere."""
    from fathom.layout import Layout
    from fathom.layout.deploy import Pool

    layout = Layout() if args.layout is None else read_layout(args.layout)
    if args.replicas is None:
        return () if args.worker else (Pool(layout=layout),)
    return (Pool(replicas=args.replicas, layout=layout),)


def _shared(pools: tuple[Pool, ...], hosts: Hosts, ranks: Ranks | None) -> Ranks:
    """How the ranks of the only replica find each other on several hosts."""
    from msgspec.structs import replace

    from fathom.serve.messages import Ranks

    if len(pools) != 1 or pools[0].replicas != 1:
        raise ConfigError(f"{hosts.count} hosts can share one replica; serve the others each by a front of its own.")
    here = len(hosts.ranks(pools[0].layout.world_size))
    found = ranks or Ranks()
    return replace(found, host=hosts.host, port=hosts.port, here=here, secret=str(hosts.secret.resolve()))


def block(started: Started, *, keys: bool) -> str:
    """What a person reads when the server is ready."""
    facts = started.facts
    key = "asked for" if keys else "none (this machine only)"
    return (
        f"\n  Ready in {started.seconds:.1f} s   {facts.parameters:,} parameters, context {facts.context:,} tokens\n"
        f"    Chat page     {started.url}/\n"
        f"    Planner       {started.url}/plan\n"
        f"    OpenAI API    {started.url}/v1     model: {started.model}     key: {key}\n"
        f"    Try           fathom chat   ·   fathom doctor\n"
        "  Ctrl-C stops."
    )


def open_page(url: str) -> None:
    """Show the page in a browser with windows; a browser for terminals would take ours over."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser:
            browser.open(url)


def _facts(started: Started) -> dict[str, object]:
    return {
        "url": f"{started.url}/",
        "api": f"{started.url}/v1",
        "model": started.model,
        "ready_s": round(started.seconds, 3),
        "parameters": started.facts.parameters,
        "context": started.facts.context,
        "pid": os.getpid(),
    }


def _bytes(gigabytes: float | None) -> int | None:
    if gigabytes is None:
        return None
    if not 0.0 < gigabytes < 1e9:
        raise ConfigError(f"spill-gb is {gigabytes:g}; it must be above 0.")
    return int(gigabytes * 1e9)


def _port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}; it must be 0 to 65535.")
    return port


def read_keys(file: Path | None) -> list[str]:
    """The keys in a file, one per line; blank lines and lines that begin with # do not count."""
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); it must hold one API key per line.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"{file} holds no key; write one per line, such as the output of `openssl rand -hex 24`.")
    return keys
