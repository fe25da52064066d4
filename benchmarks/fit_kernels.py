"""Fit the constants of the laws of kernels to the measured ones, and say how far they err on groups left out.

    python benchmarks/fit_kernels.py [--by source] [--write]

--by: what is left out together, a column of fathom/plan/data/kernels.csv. --write puts the constants into kernels.toml.
"""

import argparse
import re
from collections import defaultdict

import numpy as np

from fathom.plan.kernel_fit import FAMILIES, error, fit, left_out
from fathom.plan.kernel_rows import device_of, shipped_rows
from fathom.plan.kernels import FILE, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--by", default="group")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows = shipped_rows()
    reach = fit(rows)
    text = FILE.read_text(encoding="utf-8")
    for name in (name for family in FAMILIES.values() for name in family.start):
        value = f"{getattr(reach, name):.3g}"
        print(f"{name} = {value}")
        text = re.sub(
            rf"(?m)^{name} = [\d.]+ *(#|$)",
            lambda found, new=f"{name} = {value}": f"{new:<26}{found[1]}".rstrip(),
            text,
        )
    inside, outside, held = defaultdict(list), defaultdict(list), defaultdict(list)
    for place, off in left_out(rows, args.by).items():
        law, own = error(rows[place], reach) or ("", 0.0)
        inside[law].append(abs(own))
        outside[law].append(abs(off))
        held[law].append(abs(off) <= spread(law, device_of(rows[place]["hardware"])))
    print()
    print("| law | kernels | median error, fitted | median, left out | nine in ten, left out | held by the interval |")
    print("| --- " * 6 + "|")
    for law, off in outside.items():
        figures = (np.median(inside[law]), np.median(off), np.quantile(off, 0.9), np.mean(held[law]))
        print(f"| {law} | {len(off)} | " + " | ".join(f"{100 * figure:.1f} %" for figure in figures) + " |")
    if args.write:
        FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
