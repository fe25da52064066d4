"""`fathom eval`: how often a model is right, how many tokens it takes, what a budget or more samples bring; or two runs
paired."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom import tasks
from fathom.cli.options import add_engine_options, engine_options
from fathom.errors import InputError

if TYPE_CHECKING:
    from fathom.think.evaluate import EvalConfig, Score

NAME = "eval"
HELP = "Ask a model fresh problems with known answers; print accuracy with 95 % Wilson intervals and tokens used."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom eval`."""
    add = parser.add_argument
    add("--model", default="nano", help='a checkpoint\'s directory, or "nano" (default)')
    add("--family", "--families", metavar="NAMES", help=f"{tasks.CHOICES}; all of the first by default")
    add("--level", "--levels", metavar="LEVELS", help="difficulties, such as 1,2; every level by default")
    add("--language", "--languages", metavar="NAMES", default="en", help="of the questions: en (default), zh, or en,zh")
    add("--n", type=int, default=100, help="problems per family, level and language (default 100)")
    add("--seed", type=int, default=0, help="which problems are drawn (default 0)")
    add(
        "--effort", "--efforts", metavar="NAMES",
        help='"own" is the model\'s own style (default), "none" answers at once; low, medium, high, max: as served',
    )  # fmt: skip
    add("--budgets", metavar="TOKENS", help="budgets of thinking, asked for and enforced, such as 32,64,128")
    add("--asked", metavar="TOKENS", help="the same, asked for only: does the model obey?")
    add("--forced", metavar="TOKENS", help="the same, enforced only: the model's own thought, cut there")
    add("--samples", type=int, default=1, help="answers to each problem: adds pass@k and majority@k (default 1)")
    add("--temperature", type=float, help="of the answers (default 0, or 1 for several samples)")
    add("--split", default="test", help="train, validation or test (default)")
    add("--max-tokens", type=int, default=640, help="longest answer, thinking included (default 640)")
    add_engine_options(parser)
    add("--out", type=Path, metavar="FILE", help="write the result, to report and to compare; call it NAME.eval.json")
    add("--records", type=Path, metavar="FILE", help="write every answer, a JSON object a line")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="evaluate nothing: pair two results, B against A")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; one object for one family, level and mode, else a list under "results"."""
    if args.compare:
        return _compare(*args.compare, as_json=args.json)
    from fathom.engine import LLM, EngineConfig
    from fathom.think.evaluate import run as evaluate
    from fathom.think.results import Result

    config, stream = _config(args), sys.stderr if args.json else sys.stdout
    for path in (args.out, args.records):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path} cannot be written, its directory does not exist; make it first.")
    llm = LLM(args.model, EngineConfig(**engine_options(args)))
    began, total, done = time.perf_counter(), len(config.cells()), 0

    def show(score: Score) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{total}] " * (total > 1) + _line(score), file=stream, flush=True)

    if args.records is None:
        scores = evaluate(llm, config, show)
    else:
        with args.records.open("w", encoding="utf-8") as file:
            scores = evaluate(llm, config, show, lambda record: print(json.dumps(record), file=file))
    if args.out is not None:
        Result.of(args.model, config, scores, time.perf_counter() - began).write(args.out)
    for line in _summary(scores):
        print(line, file=stream)
    if args.json:
        facts = {"model": args.model, "seed": args.seed, "effort": scores[0].effort, "split": args.split}
        rows = [{k: v for k, v in asdict(score).items() if k not in ("right", "used")} for score in scores]
        print(json.dumps(facts | (rows[0] if len(rows) == 1 else {"results": rows})))
    return 0


def _config(args: argparse.Namespace) -> EvalConfig:
    from fathom.think.evaluate import EvalConfig
    from fathom.think.modes import OWN, Mode

    modes: list[Mode] = [Mode.effort(name) for name in _names(args.effort)]
    more: Sequence[tuple[str, Callable[[int], Mode]]] = (
        ("budgets", Mode.budget), ("asked", Mode.asked_for), ("forced", Mode.forced),
    )  # fmt: skip
    for option, make in more:
        modes += [make(tokens) for tokens in _numbers(option, getattr(args, option))]
    temperature = args.temperature if args.temperature is not None else float(args.samples > 1)
    return EvalConfig(
        families=_names(args.family), levels=_numbers("level", args.level), languages=_names(args.language),
        modes=tuple(modes) or (Mode.effort(OWN),), n=args.n, seed=args.seed, split=args.split, samples=args.samples,
        temperature=temperature, max_tokens=args.max_tokens,
    )  # fmt: skip


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise InputError(
            f"--{option} is {text!r}; it must be whole numbers with commas between, such as 1,2."
        ) from None


def _line(score: Score) -> str:
    cut = f"  {score.cut_off} cut off" if score.cut_off else ""
    return (
        f"{score.family:<11} level {score.level or 'all'} {score.language} {score.effort:<10} {score.accuracy:6.1%}  "
        f"({score.low:6.1%} to {score.high:6.1%})  n {score.n}  {score.tokens_mean:6.1f} tokens, "
        f"{score.thinking_mean:.1f} of them thinking{cut}"
    )


def _summary(scores: list[Score]) -> list[str]:
    """What the cells together say: each mode, the worth of samples, asked against used."""
    from fathom.think.results import asked_and_used, gather

    lines = [_line(score) for score in gather(scores, "effort").values()] if len(scores) > 1 else []
    for (effort,), score in gather(scores, "effort").items():
        for name, table in (("pass", score.pass_at), ("majority", score.majority_at)):
            if table:
                lines.append(f"{effort}: " + ", ".join(f"{name}@{k} {value:.1%}" for k, value in table.items()))
    for enforced, what in ((False, "asked for"), (True, "asked for and enforced")):
        if (found := asked_and_used(scores, enforced=enforced)) is not None:
            rank = "undefined" if found.spearman is None else f"{found.spearman:.3f}"
            lines.append(f"length {what}: Spearman {rank}, mean relative error {found.relative_error:.1%}, n {found.n}")
    return lines


def _compare(first: Path, second: Path, *, as_json: bool) -> int:
    from fathom.think.results import Result, compare

    results = Result.read(first), Result.read(second)
    found = compare(*results)
    if as_json:
        facts: dict[str, Any] = {"a": results[0].fingerprint, "b": results[1].fingerprint}
        print(json.dumps(facts | {"pairs": [{"effort": m, "family": f} | asdict(pair) for m, f, pair in found]}))
        return 0
    for letter, result in zip("AB", results, strict=True):
        print(f"{letter}  {result.model}  {result.fingerprint}")
    for mode, family, pair in found:
        chance = "" if pair.p is None else f"  p {pair.p:.3g}"
        print(
            f"{mode:<10} {family:<11} A {pair.a:6.1%}  B {pair.b:6.1%}  B - A {pair.difference:+7.1%}  "
            f"({pair.low:+7.1%} to {pair.high:+7.1%})  n {pair.n}  only A {pair.a_only}  only B {pair.b_only}{chance}"
        )
    return 0
