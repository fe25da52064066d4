"""`fathom plan fit`: whether a model fits on some devices, with the arithmetic."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fathom.layout import Layout
    from fathom.plan.fit import Fit

NAME = "fit"
SUMMARY = "whether a model fits on some devices"
HELP = (
    "Whether a model fits on some devices, with the arithmetic: weights, runtime, activations, room for contexts, what "
    "binds, and the smallest change that would make it fit. Exits 0 if it fits, 1 if it does not, 2 on bad input."
)
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom plan fit`."""
    parser.add_argument("model", help="a preset such as deepseek-v3 or llama-3.1-405b, or a config.json")
    parser.add_argument("--on", required=True, metavar="DEVICES", help="such as 8xh100")
    parser.add_argument(
        "--precision", default="", help="of the weights: bf16, fp8, nvfp4, int4, ... (default: as stored)"
    )
    parser.add_argument("--cache", default="bf16", choices=("bf16", "fp8"), help="of the cache (default: bf16)")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of a request (default: 4096)")
    parser.add_argument("--chunk", type=int, default=8192, metavar="N", help="of prompts, in a step (default: 8192)")
    parser.add_argument("--layout", metavar="L", help="such as tp8, tp8,pp2 or dp8,ep8 (default: the roomiest)")
    parser.add_argument("--mtp", action="store_true", help="with the multi-token prediction module")
    parser.add_argument(
        "--redundant", type=int, default=0, metavar="N", help="copies of experts per layer (default: 0)"
    )
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="a TOML file with devices of your own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Answer; 0 yes, 1 no."""
    from fathom.plan import families
    from fathom.plan.fit import fit, read_layout
    from fathom.plan.hardware import Catalogue

    count, device = Catalogue.read(args.hardware).counted(args.on)
    found = fit(
        families.find(args.model), device, count, precision=args.precision, cache=args.cache, context=args.context,
        layout=read_layout(args.layout) if args.layout else None, mtp=args.mtp, redundant=args.redundant,
        chunk=args.chunk,
    )  # fmt: skip
    print(json.dumps(facts(found)) if args.json else "\n".join(report(found)))
    return 0 if found.fits else 1


def facts(found: Fit) -> dict[str, Any]:
    """As JSON; bytes are those of one device."""
    setup, held = found.setup, found.memory
    return {
        "fits": found.fits, "model": setup.shape.name, "device": setup.device.name, "count": found.count,
        "precision": setup.weights.name, "cache": setup.cache, "context_tokens": found.context,
        "chunk_tokens": found.chunk, "layout": _degrees(setup.layout), "stage": held.stage,
        "bytes_per_device": {name: round(size) for name, size in held.parts.items()},
        "weight_bytes_by_type": {name: round(size) for name, size in (held.stored or {}).items()},
        "used_bytes": round(held.used), "capacity_bytes": round(held.capacity),
        "memory_bytes": round(setup.device.driver_bytes),
        "missing_bytes": round(found.missing), "cache_bytes_per_token": held.token_bytes,
        "state_bytes_per_sequence": held.state_bytes,
        "cache_tokens": int(min(held.room, 1e18)), "contexts": int(min(found.contexts, 1e18)),
        "binding": found.bound, "changes": list(found.changes),
        "layouts": [
            {"layout": _degrees(one.setup.layout), "fits": one.fits, "used_bytes": round(one.memory.used),
             "contexts": int(min(one.contexts, 1e18))} for one in found.tried
        ],
        "device_grade": setup.device.grade, "device_source": setup.device.source,
    }  # fmt: skip


def report(found: Fit) -> Iterator[str]:
    """The lines that a person reads."""
    setup, held = found.setup, found.memory
    answer = "fits" if found.fits else "does not fit"
    machine = f"{found.count} x {setup.device.title}, {_cut(setup.layout)}"
    yield f"{setup.shape.name} in {setup.weights.name.upper()} {answer} on {machine}"
    yield "per device" if setup.layout.pp == 1 else f"per device of stage {held.stage + 1}, which has least room"
    for name, size in held.parts.items():
        if size >= 5e6:
            yield _row(name.replace("_", " "), f"{size / GB:,.2f} GB", "largest" if name == found.bound else "")
    yield _row("together", f"{held.used / GB:,.2f} GB")
    share, whole = held.capacity / setup.device.driver_bytes, setup.device.driver_bytes / GB
    yield _row("of", f"{held.capacity / GB:,.2f} GB", f"{share:.0%} of {whole:,.1f} GB, as engines allow themselves")
    token = f"{held.token_bytes:,.0f} B a token on each device"
    if found.fits:
        yield _row("left for the cache", f"{held.free / GB:,.2f} GB", token)
        if held.token_bytes:
            yield _row("tokens of the replica", f"{held.room:,.0f}")
        yield _row(f"contexts of {found.context:,} tokens", f"{found.contexts:,.0f}")
    else:
        note = f"for one context of {found.context:,} tokens ({found.one / GB:,.2f} GB), {held.token_bytes:,.0f} B each"
        yield _row("missing", f"{found.missing / GB:,.2f} GB", note)
    kept = sorted((held.stored or {}).items(), key=lambda item: -item[1])
    yield "weights: " + ", ".join(f"{size / GB:,.2f} GB in {name.upper()}" for name, size in kept if size >= 5e6)
    if len(found.tried) > 1:
        yield f"layouts (contexts of {found.context:,} tokens): " + "; ".join(
            f"{_cut(one.setup.layout)}: {one.contexts:,.0f}" for one in found.tried[:4]
        )
    if not found.fits:
        yield "it would fit with " + ("\n             or with ".join(found.changes) or "nothing this planner knows of")


def _degrees(layout: Layout) -> dict[str, int]:
    return {"pp": layout.pp, "dp": layout.dp, "tp": layout.tp, "ep": layout.ep}


def _cut(layout: Layout) -> str:
    return ", ".join(f"{name} {n}" for name, n in _degrees(layout).items() if n > 1) or "one device"


def _row(title: str, value: str, note: str = "") -> str:
    return f"  {title:<32}{value:>16}  {note}".rstrip()
