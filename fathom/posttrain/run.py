"""From nothing to a concise reasoner, in one recipe: base, longer context, cold start, GRPO, rejection, distillation.

    tokenizer   learned from the problems and what is said of them
    base        pretraining in a short context                                           train/trainer.py
    extend      the context made longer with YaRN, a little training in it
    sft         cold start: the base learns to reflect, and to obey budgets              traces.py, sft.py
    grpo        the teacher: reinforcement learning with rewards that check the answer   grpo.py
    reject      the teacher's right, short, consistent replies                           reject.py
    distil      the student: the base again, fine-tuned on these and the house style
    eval        each model from `extend` on, asked the same fresh problems               think/evaluate.py

A recipe with a `start`, a checkpoint, has no base of its own.

As DeepSeek-V3 came from R1 (arXiv:2412.19437, section 5.1; arXiv:2501.12948, section 2.3). A stage knows nothing of the
report: what happened is in the ledgers and results that it leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from fathom.config import build, find_model, read_toml
from fathom.config.recipe import override
from fathom.engine import LLM, EngineConfig
from fathom.errors import ConfigError
from fathom.posttrain import traces
from fathom.posttrain.grpo import GRPO, GRPOConfig, Step
from fathom.posttrain.reject import Counts, RejectConfig, reject
from fathom.posttrain.sft import SFTConfig, train_on
from fathom.posttrain.stages import Pipeline, Stage, Tell
from fathom.posttrain.traces import TraceConfig
from fathom.tasks.mixture import Mixture
from fathom.think.evaluate import EvalConfig, Score
from fathom.think.evaluate import run as evaluate
from fathom.think.modes import Mode
from fathom.think.results import SUFFIX, Result
from fathom.tokenizer import Tokenizer
from fathom.train.samples import Sample, read_samples, write_samples
from fathom.train.trainer import Progress, Recipe, Trainer

MODEL = "model"  # where a stage leaves its checkpoint
MEASURED = ("extend", "sft", "grpo", "distil")
STUDENTS = ("extend", "sft", "grpo")


@dataclass(frozen=True)
class MeasureConfig:
    """What every model is asked, and what the student is asked beside.

    Fields: n: problems of each family, level and language. efforts: of every model. budgets: asked for and enforced;
            asked: asked for only; forced: enforced only; samples: answers to each problem, at temperature 1, for votes;
            all of the student alone, on so many problems of each as `student_n` says.
    """

    n: int = 50
    seed: int = 1
    efforts: tuple[str, ...] = ("own", "none")
    budgets: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    samples: int = 1
    student_n: int = 25
    max_tokens: int = 320


@dataclass(frozen=True)
class Speedrun:
    """All stages. problems: what `traces`, `house`, `grpo` and `reject` draw from unless they say otherwise, and what
    is asked in the end. start: a checkpoint, or nano, that takes the place of tokenizer and base. student: the
    stage whose model becomes the student: extend, as with V3; sft where the base does not know the problems; grpo, the
    expert itself, where its gains shall not depend on what is read.
    planned_s: stage -> seconds, to guess what is left."""

    problems: Mixture
    base: Recipe = field(default_factory=Recipe)
    extend: Recipe = field(default_factory=Recipe)
    start: str = ""
    student: str = "extend"
    traces: TraceConfig = field(default_factory=TraceConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    reject: RejectConfig = field(default_factory=RejectConfig)
    house: TraceConfig = field(default_factory=TraceConfig)
    distil: SFTConfig = field(default_factory=SFTConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    tokenizer_samples: int = 2000
    planned_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.student not in STUDENTS:
            raise ConfigError(f"student is {self.student!r}; it must be one of {', '.join(STUDENTS)}.")


def read(path: Path, overrides: Sequence[str] = ()) -> Speedrun:
    """The recipe in a TOML file. `base` there is a table, or the name of another recipe beside it."""
    table = read_toml(path)
    if isinstance(table.get("base"), str):
        table["base"] = read_toml(path.parent / table["base"])
    override(table, overrides)
    shared = table.get("problems", {})
    if not isinstance(shared, Mapping):
        raise ConfigError(f"{path}: problems is {shared!r}; it must be a table with levels, shares and chinese.")
    for name in ("traces", "house", "grpo", "reject"):
        section = table.setdefault(name, {})
        section["problems"] = {**shared, **section.get("problems", {})}
    return build(Speedrun, table, str(path))


def pipeline(recipe: Speedrun, out: Path, device: str = "cpu") -> Pipeline:
    """The stages of a recipe, in folders of `out`."""
    works = _Works(recipe, out, device)
    parts = asdict(recipe)
    planned = dict(recipe.planned_s)

    def stage(name: str, needs: tuple[str, ...], *sections: str, **more: Any) -> Stage:
        facts = {section: parts[section] for section in sections} | more
        return Stage(name, needs, facts, planned.pop(name, 60.0), getattr(works, name))

    more = {"samples": recipe.tokenizer_samples, "vocab_size": recipe.base.data.vocab_size}
    stages = [
        stage("tokenizer", (), "problems", "start", **more),
        *([] if recipe.start else [stage("base", ("tokenizer",), "base")]),
        stage("extend", ("tokenizer" if recipe.start else "base",), "extend"),
        stage("sft", ("extend",), "traces", "sft"),
        stage("grpo", ("sft",), "grpo"),
        stage("reject", ("grpo",), "reject"),
        stage("distil", (recipe.student, "reject"), "house", "distil"),
        stage("eval", MEASURED, "measure", "problems"),
    ]
    if planned:
        raise ConfigError(
            f"planned_s names {next(iter(planned))!r}; it must be one of {', '.join(s.name for s in stages)}."
        )
    return Pipeline(stages, out)


class _Works:
    """What each stage does, in a folder of its own."""

    def __init__(self, recipe: Speedrun, out: Path, device: str) -> None:
        self.recipe, self.out, self.device = recipe, out, device

    def tokenizer(self, folder: Path, tell: Tell) -> bool:
        recipe = self.recipe
        if recipe.start:
            made = Tokenizer.load(find_model(recipe.start))
        else:
            tell(f"{recipe.tokenizer_samples:,} problems, {recipe.base.data.vocab_size} tokens", None)
            texts = traces.texts(recipe.problems, recipe.tokenizer_samples)
            made = Tokenizer.train(texts, recipe.base.data.vocab_size, digits=1)
        made.save(folder)
        return True

    def base(self, folder: Path, tell: Tell) -> bool:
        Tokenizer.load(self.out / "tokenizer").save(folder / "tokenizer")
        return Trainer(self.recipe.base, folder, self.device).run(training(tell)) is not None

    def extend(self, folder: Path, tell: Tell) -> bool:
        Tokenizer.load(self.out / "tokenizer").save(folder / "tokenizer")
        init = self.recipe.start or str(self.out / "base" / MODEL)
        recipe = self.recipe.extend
        recipe = replace(recipe, train=replace(recipe.train, init=init))
        return Trainer(recipe, folder, self.device).run(training(tell)) is not None

    def sft(self, folder: Path, tell: Tell) -> bool:
        samples = self._made(self.recipe.traces, folder / "traces.jsonl", tell)
        init = self.out / "extend" / MODEL
        return train_on(samples, init, folder, self.recipe.sft, training(tell), self.device) is not None

    def grpo(self, folder: Path, tell: Tell) -> bool:
        def show(step: Step) -> None:
            text = f"step {step.step}/{step.steps}  reward {step.reward:.3f}  right {step.accuracy:.1%}"
            tell(f"{text}  {step.tokens:.0f} tokens  KL {step.kl:.4f}", (step.steps - step.step) * step.step_s)

        return GRPO(self.out / "sft" / MODEL, folder, self.recipe.grpo).run(show) is not None

    def reject(self, folder: Path, tell: Tell) -> bool:
        begun = time.monotonic()

        def show(counts: Counts, problems: int) -> None:
            each = (time.monotonic() - begun) / counts.problems
            text = (
                f"{counts.problems}/{problems} problems  {counts.solved} solved  {counts.kept} kept of {counts.sampled}"
            )
            tell(text, each * (problems - counts.problems))

        config = self.recipe.reject
        engine = EngineConfig(max_sequences=config.at_once * config.samples)
        dropped = folder / "dropped.jsonl"
        reject(self.out / "grpo" / MODEL, folder / "kept.jsonl", config, show, dropped=dropped, engine=engine)
        return True

    def distil(self, folder: Path, tell: Tell) -> bool:
        house = self._made(self.recipe.house, folder / "house.jsonl", tell)
        samples = [*read_samples(self.out / "reject/kept.jsonl"), *house]
        Random(self.recipe.distil.seed).shuffle(samples)
        init = self.out / self.recipe.student / MODEL
        return train_on(samples, init, folder, self.recipe.distil, training(tell), self.device) is not None

    def _made(self, config: TraceConfig, file: Path, tell: Tell) -> list[Sample]:
        """Samples of the solvers, kept in a file to look at."""
        tokenizer = Tokenizer.load(self.out / "tokenizer")
        made = traces.build(config, tokenizer, lambda n, total: tell(f"{n:,} of {total:,} samples made", None))
        write_samples(file, made)
        return made

    def eval(self, folder: Path, tell: Tell) -> bool:
        jobs = list(measurements(self.recipe))
        for number, (name, model, configs) in enumerate(jobs, 1):
            file = folder / f"{number} {name}{SUFFIX}"

            def show(score: Score, name: str = name) -> None:
                tell(_score(name, score), None)

            if not file.exists():
                measure(self.out / model / MODEL, configs, file, show)
        return True


def training(tell: Tell) -> Callable[[Progress], None]:
    """Tells how far a training is."""

    def show(progress: Progress) -> None:
        text = f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {progress.tokens_per_s:,.0f} tok/s"
        tell(text, progress.eta_s)

    return show


def measurements(recipe: Speedrun) -> Iterator[tuple[str, str, list[EvalConfig]]]:
    """(name, stage whose model it is, what it is asked), the students' curves last."""
    wanted = recipe.measure
    every = tuple(Mode.effort(name) for name in wanted.efforts)
    for stage in MEASURED:
        yield stage, stage, list(cells(recipe, modes=every, n=wanted.n))
    ways = (
        *(Mode.budget(tokens) for tokens in wanted.budgets), *(Mode.asked_for(tokens) for tokens in wanted.asked),
        *(Mode.forced(tokens) for tokens in wanted.forced),
    )  # fmt: skip
    if ways:
        yield "distil budgets", "distil", list(cells(recipe, modes=ways, n=wanted.student_n))
    if wanted.samples > 1:
        configs = cells(recipe, modes=(Mode.effort("own"),), n=wanted.student_n)
        yield "distil samples", "distil", [replace(c, samples=wanted.samples, temperature=1.0) for c in configs]


def cells(recipe: Speedrun, *, modes: tuple[Mode, ...], n: int) -> Iterator[EvalConfig]:
    """One configuration for each family: its levels are its own."""
    for family in recipe.problems.families:
        yield EvalConfig(
            families=(family,), levels=recipe.problems.levels_of(family), languages=recipe.problems.languages,
            modes=modes, n=n, seed=recipe.measure.seed, max_tokens=recipe.measure.max_tokens,
        )  # fmt: skip


def measure(model: Path, configs: Sequence[EvalConfig], file: Path, report: Callable[[Score], None]) -> Result:
    """Ask a model all of it, and write the result."""
    begun = time.monotonic()
    llm = LLM(model, EngineConfig(max_sequences=64))
    scores = [score for config in configs for score in evaluate(llm, config, report)]
    families = tuple(config.families[0] for config in configs)
    asked = replace(configs[0], families=families, levels=())
    result = Result.of(model, asked, scores, time.monotonic() - begun)
    result.write(file)
    return result


def _score(name: str, score: Score) -> str:
    where = f"{score.family} {score.level}" + (f" {score.language}" if score.language != "en" else "")
    return f"{name}: {where} {score.effort}  {score.accuracy:.1%}  {score.tokens_mean:.0f} tokens"


def summary(out: Path) -> list[dict[str, Any]]:
    """What the models reached, all families together: one row for each evaluation and mode."""
    from fathom.think.results import gather

    rows = []
    for file in sorted((out / "eval").glob(f"*{SUFFIX}")):
        for (mode,), score in gather(Result.read(file).scores, "effort").items():
            rows.append(
                {
                    "model": file.name.removesuffix(SUFFIX).split(" ", 1)[1], "mode": mode, "n": score.n,
                    "accuracy": score.accuracy, "low": score.low, "high": score.high, "tokens": score.tokens_mean,
                    "thinking": score.thinking_mean,
                }
            )  # fmt: skip
    return rows
