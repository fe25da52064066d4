"""`fathom plan deploy`: whether a deployment fits, and what each of its ranks holds and sends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from fathom.cli.info import PART_NAMES
from fathom.config import load_config
from fathom.cost import plan_pool
from fathom.errors import ConfigError
from fathom.layout.deploy import read_deploy

NAME = "deploy"
SUMMARY = "check a deployment: experts, memory and traffic of each rank"
HELP = (
    "Check a deployment by calculation: experts, weights and cache of a rank, bytes between ranks. Loads no weights. "
    "Exits 2 if a model cannot be divided like that or does not fit."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan deploy`."""
    parser.add_argument("deploy", help="a TOML file, for example recipes/deploy/deepseek-v3-service.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help='override: model="deepseek-r1"')
    parser.add_argument(
        "--memory-gb", type=float, default=80.0, metavar="N", help="of a rank, for weights and cache (default: 80)"
    )
    parser.add_argument("--node-ranks", type=int, default=8, metavar="N", help="ranks of a node (default: 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what each pool of `args.deploy` comes to."""
    if not 0 < args.memory_gb < 1e6:
        raise ConfigError(f"--memory-gb is {args.memory_gb}; it must be above 0, and below 1e6.")
    deploy = read_deploy(args.deploy, args.set)
    config = load_config(deploy.model)
    mtp = deploy.engine.get("spec") != "off"  # an engine drafts by default where it can
    memory_bytes = int(args.memory_gb * 1e9)
    pools = [
        plan_pool(config, pool, memory_bytes=memory_bytes, node_ranks=args.node_ranks, mtp=mtp) for pool in deploy.pool
    ]
    found = {"model": deploy.model, "ranks": deploy.world_size, "memory_bytes": memory_bytes, "pools": pools}
    print(json.dumps(found) if args.json else "\n".join(report(found)))
    return 0


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines of the table that a person reads."""
    memory = found["memory_bytes"] / 1e9
    yield f"{found['model']}: {found['ranks']:,} ranks of {memory:g} GB"
    for pool in found["pools"]:
        yield ""
        times = f"{pool['replicas']} replicas of " if pool["replicas"] > 1 else ""
        yield f"{pool['name']} ({pool['role']}): {times}{pool['ranks']:,} ranks on {pool['nodes']:,} nodes"
        yield from _experts(pool)
        yield from _memory(pool, memory)
        yield from _traffic(pool)


def _experts(pool: dict[str, Any]) -> Iterator[str]:
    yield _row("experts per layer, with copies", f"{pool['slots']:,}")
    shared = pool["shared_experts_per_rank"]
    yield _row("  of a rank", f"{pool['experts_per_rank']:,}", f"and {shared} shared" if shared else "")
    move = pool["expert_move_bytes"] / 1e6
    yield _row("  to move one", f"{move:,.1f} MB", "of one layer")


def _memory(pool: dict[str, Any], memory: float) -> Iterator[str]:
    total = pool["weight_bytes"]
    yield _row("weights of a rank", f"{total / 1e9:,.2f} GB", f"{total / 1e9 / memory:.0%} of its memory")
    for part, title in (PART_NAMES | {"mtp": "MTP modules"}).items():
        if part in pool["weight_bytes_by_part"]:
            yield _row(f"  {title}", f"{pool['weight_bytes_by_part'][part] / 1e9:,.2f} GB")
    yield _row("latent cache of a token", f"{pool['cache_bytes_per_token']:,} B", "on a rank")
    yield _row("  tokens that fit", f"{pool['cache_tokens_per_rank']:,}", "in the rest of a rank")
    yield _row("  tokens of a replica", f"{pool['cache_tokens']:,}")


def _traffic(pool: dict[str, Any]) -> Iterator[str]:
    sent = pool["all_to_all"]
    if not sent["ranks"]:
        yield _row("between ranks of experts", "nothing")
        return
    rows = f"a row: {sent['dispatch_row_bytes']:,} B out in FP8, {sent['combine_row_bytes']:,} B back in BF16"
    yield _row("ranks that a token visits", f"{sent['ranks']}", f"at most; {rows}")
    yield _row("  in a layer", f"{sent['layer_bytes'] / 1e3:,.1f} kB")
    yield _row("  in a step", f"{sent['step_bytes'] / 1e6:,.2f} MB", "per token, both ways")
    if sent["nodes"]:
        yield _row("nodes that it visits", f"{sent['nodes']}", "at most, if rows are passed on within a node")
        yield _row("  in a layer", f"{sent['layer_bytes_between_nodes'] / 1e3:,.1f} kB")
        yield _row("  in a step", f"{sent['step_bytes_between_nodes'] / 1e6:,.2f} MB", "per token, both ways")


def _row(title: str, value: str, note: str = "") -> str:
    return f"  {title:<32}{value:>16}  {note}".rstrip()
