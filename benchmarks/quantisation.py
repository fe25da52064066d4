"""What fewer bits cost: perplexity and top-1 agreement of a packed model against its weights as they are stored.

    python benchmarks/quantisation.py nano --out benchmarks/results/quantisation_nano.json

Each conversion is `fathom convert MODEL DST --bits B --report`: worked problems of the test split, of which neither
training nor calibration has seen any; only tokens of answers count. `meets` holds it to the bars below.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, write
from ours import call, fathom

BARS = {8: (0.99, 0.005), 4: (0.95, 0.03)}  # bits -> least agreement, most relative change of perplexity


def converted(model: str, folder: Path, bits: int, *options: str) -> dict[str, Any]:
    """The report on one conversion."""
    target = folder / "-".join((str(bits), *options)).replace("--", "")
    found = json.loads(call(*fathom("convert", model, target, "--bits", bits, *options, "--report", "--json")))
    quality = found["quality"]
    row = {"bits": bits, "options": list(options), "bits_per_weight": found["bits_per_weight"]} | quality
    agreement, change = BARS[bits]
    return row | {"meets": quality["agreement"] >= agreement and abs(quality["perplexity_change"]) <= change}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="nano, or a model's directory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for bits, options in ((8, ()), (4, ()), (4, ("--rounding", "nearest"))):
            rows.append(converted(args.model, Path(folder), bits, *options))
            print(json.dumps(rows[-1]), file=sys.stderr)
    bars = {str(bits): {"agreement": least, "perplexity_change": most} for bits, (least, most) in BARS.items()}
    write(machine() | {"model": Path(args.model).name, "bars": bars, "rows": rows}, args.out)
    sys.exit(0 if all(row["meets"] for row in rows if not row["options"]) else 1)


if __name__ == "__main__":
    main()
