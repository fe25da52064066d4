"""Random kills of ranks, leaders and replicas under load: what changed, how late anything came, and what was left.

    OMP_NUM_THREADS=1 python benchmarks/kills.py --kills 210

Every layout serves mixed requests (tests/cluster/killing.py) while its processes get SIGKILL or SIGSTOP at random
moments; each reply is compared with that of one process that nobody disturbs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from measure import ROOT, machine, write

sys.path.insert(0, str(ROOT))
from fathom.layout import Layout
from tests.cluster.killing import BEAT_S, SILENT_BEATS, TIMEOUT_S, soaked
from tests.cluster.test_kills import LAYOUTS

SHARES = {
    "tp2": 5, "dp2-ep2": 5, "pp2": 4, "tp2-ep2": 5, "dp2-tp2-ep4": 3, "pp2-dp2-ep2": 3, "dp2": 2, "2 replicas": 4,
}  # fmt: skip
"""Of the kills; crews that take longer to start get fewer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=210)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one of the layouts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kills.json")
    args = parser.parse_args()
    report = machine() | {"timeout_s": TIMEOUT_S, "beat_s": BEAT_S, "silent_beats": SILENT_BEATS, "layouts": {}}
    began_s = time.monotonic()
    for name, share in SHARES.items():
        if args.only not in (None, name):
            continue
        kills = -(-args.kills * share // sum(SHARES.values()))
        layout = {**LAYOUTS, "dp2": Layout(dp=2)}.get(name, Layout())
        soak = asyncio.run(soaked(layout, kills, args.seed, replicas=2 if name == "2 replicas" else 1))
        report["layouts"][name] = soak.report()
        print(name, soak.report(), file=sys.stderr, flush=True)
    found = report["layouts"].values()
    report["total"] = {
        "kills": sum(one["kills"] for one in found), "requests": sum(one["requests"] for one in found),
        **{name: sum(len(one[name]) for one in found) for name in ("wrong", "errors", "late", "left")},
        "seconds": round(time.monotonic() - began_s),
    }  # fmt: skip
    write(report, args.out)


if __name__ == "__main__":
    main()
