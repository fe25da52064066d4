"""Fit the two shares of a training run to measured rows, and say how far they err on groups left out.

    python benchmarks/fit_training.py ROWS.csv [--write]

ROWS.csv has the columns of `fathom plan validate`. --write replaces fathom/plan/data/training.toml.
"""

import argparse
import csv
import json

from fathom.errors import ConfigError
from fathom.plan.training.knobs import FILE, Ratio, errors, pooled
from fathom.plan.training.predict import computed

HEAD = """# Measured over computed, pooled over groups of runs; low and high: ratios to it that hold 80 % of the runs.
# step: tokens a second of a step. run: of a whole run by its device hours, with restarts and idle time.
# Written by benchmarks/fit_training.py from benchmark pages (torchtitan, llm-foundry, Megatron-Bridge, nanochat, verl),
# Llama model cards, DeepSeek-V2's report, Epoch AI's table of models (CC-BY). DeepSeek-V3's runs are not among them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    ratios: dict[str, list[Ratio]] = {"step": [], "run": []}
    with open(args.rows, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "training" and "dsv3" not in row["group"]]
    for row in rows:
        try:
            found = computed(row)
        except ConfigError as error:
            print(f"left out: {row['id']} {row['model']}: {error}")
            continue
        if found is not None:
            ratios[found[0]].append(found[1])
    shares = {name: pooled(found) for name, found in ratios.items()}
    print(json.dumps({name: errors(found) for name, found in ratios.items()}, indent=1))
    text = HEAD + "\n".join(f"\n[{name}]\n{share.to_toml()}" for name, share in shares.items()) + "\n"
    print(text)
    if args.write:
        FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
