"""Group relative policy optimisation: sample, judge, learn, write down what happened; resume to the bit.

    collect    prompts and answers by our own engine, rewards, advantages           groups.py, rollout.py, rewards.py
    score      the answers by the policy and by the reference, in the kernels       scoring.py
    learn      mini-batches: clipped ratios, k3, the MTP module beside              update.py, objective.py

A step is a function of (weights, optimiser, reference, seed, step), so a state of these resumes the run to the bit.
Source: DeepSeekMath, arXiv:2402.03300; DeepSeek-V3, section 5.2; DeepSeek-R1, section 2.2.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.checkpoint import load_latest, load_packed, mtp_layers, save_state, save_weights, unpacked
from fathom.config import ModelConfig, find_model
from fathom.engine.load import eos_token_ids
from fathom.errors import ConfigError
from fathom.model import Transformer
from fathom.posttrain.groups import Collector, facts
from fathom.posttrain.objective import ObjectiveConfig
from fathom.posttrain.prompts import ProblemConfig
from fathom.posttrain.rewards import RewardConfig
from fathom.posttrain.rollout import Actor, RolloutConfig
from fathom.posttrain.scoring import Twin
from fathom.posttrain.update import Learner, Measured, OptimiserConfig, engine_gap, lessons, mini_batches, teaching
from fathom.tokenizer import Tokenizer
from fathom.train.ledger import Ledger
from fathom.train.trainer import DTYPES, export_tensors

log = logging.getLogger(__name__)

TOO_MANY_CUT = 0.2  # share of truncated answers above which a run is warned about: their rewards say little
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class GRPOConfig:
    """One run, as a TOML file. threads: of kernels and of torch, 0 for torch's choice."""

    steps: int = 100
    seed: int = 0
    save_every: int = 20
    threads: int = 0
    device: str = "cpu"
    problems: ProblemConfig = field(default_factory=ProblemConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "save_every": 1, "threads": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")


@dataclass(frozen=True)
class Step:
    """What the log line says of a step. gap: of engine and trainer; torch_gap: of kernels and torch [nats]."""

    step: int
    steps: int
    reward: float
    accuracy: float
    tokens: float
    truncated: float
    zero_variance: float
    kl: float
    clip_share: float
    gap: float
    torch_gap: float
    ratio_low: float
    ratio_high: float
    mtp_acceptance: float | None
    tokens_per_s: float
    step_s: float


class GRPO:
    """Trains the model in `model_dir`; continues in `run_dir` if it holds a state."""

    def __init__(self, model_dir: str | Path, run_dir: Path, config: GRPOConfig) -> None:
        self.config, self.run_dir, self.source = config, run_dir, find_model(model_dir)
        self.threads = config.threads or torch.get_num_threads()
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.tokenizer = Tokenizer.load(self.source)
        self.model = load_transformer(self.source, config.device, DTYPES[config.optim.compute_dtype])
        self.learner = Learner(self.model, config.optim)
        self.step = 0
        reference = self._resume()
        tensors = self.model.state_dict()
        self.actor = Actor(self._twin(tensors), config.rollout, eos_token_ids(self.model.config, self.tokenizer.eos_id))
        self.reference = self._twin(reference or tensors) if config.objective.kl else None
        worth = replace(config.rewards, max_tokens=config.rollout.max_tokens)
        self.collector = Collector(self.actor, self.tokenizer, config.problems, worth, config.objective, config.seed)
        self._stop = self._warned = False

    def run(self, report: Callable[[Step], None] = lambda step: None) -> Path | None:
        """Train to the end and export; returns the model's directory, or None if interrupted (a state is saved)."""
        config, ledger = self.config, Ledger(self.run_dir)
        ledger.append("start", stage="grpo", step=self.step, model=str(self.source), config=asdict(config))
        try:
            with self._interruptible():
                while self.step < config.steps and not self._stop:
                    done = self.one_step(ledger)
                    if done is not None:
                        report(done)
                    due = self.step % config.save_every == 0 or self.step == config.steps
                    if self._stop or (done is not None and due):
                        self._save()
                        ledger.append("save", step=self.step)
            if self.step < config.steps:
                ledger.append("interrupted", step=self.step)
                return None
            target = self.run_dir / "model"
            self._export(target)
            ledger.append("export", step=self.step, directory=target.name)
            return target
        finally:
            ledger.close()

    def one_step(self, ledger: Ledger | None = None) -> Step | None:
        """One rollout and one inner epoch; None if it was interrupted before anything was learnt."""
        config, clock = self.config, _Clock()
        drafted, accepted = self.actor.guesses()
        with _threads(1):  # two teams of threads on the same cores wait for each other
            collected = self.collector.collect(self.step, lambda: self._stop)
            if collected is None:
                return None
            clock.lap("rollout_s")
            trials = [trial for group in collected.groups for trial in group.trials]
            old = self.actor.twin.score(trials, config.rollout.temperature)
            reference = None
            if self.reference is not None:
                reference = self.reference.score(trials, config.rollout.temperature)
            clock.lap("score_s")
        gap = engine_gap(trials, old)
        measured = self._learn(mini_batches(
            lessons(collected.groups, old, reference, config.objective), config.optim.mini_batches
        ), clock)  # fmt: skip
        self._refresh_reference()
        self.step += 1
        now = self.actor.guesses()
        guessed = now[0] - drafted
        found = facts(collected)
        sampled = round(found["tokens"] * config.rollout.samples * collected.drawn)
        found |= {
            "kl": measured.kl / max(1, measured.tokens), "clip_share": measured.clipped / max(1, measured.tokens),
            "ratio_low": measured.ratio_low, "ratio_high": measured.ratio_high, "gap": gap,
            "torch_gap": measured.torch_gap, "torch_gap_mean": measured.torch_gap_sum / max(1, measured.tokens),
            "grad_norm": max(measured.grad_norms, default=0.0),
            "mtp_loss": measured.mtp / measured.mtp_tokens if measured.mtp_tokens else None,
            "mtp_acceptance": (now[1] - accepted) / guessed if guessed else None,
            "lr": config.optim.at(config.optim.lr, self.step - 1), "tokens_per_s": sampled / clock.laps["rollout_s"],
            "step_s": sum(clock.laps.values()), **clock.laps,
        }  # fmt: skip
        self._warn(found["truncated"])
        if ledger is not None:
            ledger.append("step", stage="grpo", step=self.step, steps=config.steps, **_json(found))
        names = Step.__dataclass_fields__
        return Step(step=self.step, steps=config.steps, **{k: v for k, v in found.items() if k in names})

    def _learn(self, parts: list[list[Any]], clock: _Clock) -> Measured:
        """The inner epoch; afterwards the actor has the new weights."""
        config, measured = self.config, Measured()
        for number, batch in enumerate(parts):
            now = [lesson.old for lesson in batch]
            if number:
                self.actor.take(self.model.state_dict())
                clock.lap("repack_s")
                kept = teaching(batch, config.objective)
                with _threads(1):
                    scored = self.actor.twin.score([batch[i] for i in kept], config.rollout.temperature)
                for i, found in zip(kept, scored, strict=True):
                    now[i] = found
                clock.lap("score_s")
            with _threads(self.threads):
                self.learner.mini_batch(
                    batch, now, config.rollout.temperature, config.objective, self.step, measured
                )  # fmt: skip
            clock.lap("update_s")
        self.actor.take(self.model.state_dict())
        clock.lap("repack_s")
        return measured

    def _refresh_reference(self) -> None:
        every = self.config.objective.ref_every
        if self.reference is not None and every and (self.step + 1) % every == 0:
            self.reference.take(self.model.state_dict())

    def _warn(self, truncated: float) -> None:
        """Once in a run; the ledger has it of every step."""
        if truncated > TOO_MANY_CUT and not self._warned:
            self._warned = True
            log.warning(
                "step %d: %.0f %% of the answers were cut off at %d tokens and earn little; raise rollout.max_tokens, "
                "or give the reward `overlong` a weight", self.step, 100 * truncated, self.config.rollout.max_tokens,
            )  # fmt: skip

    def _twin(self, tensors: dict[str, Tensor]) -> Twin:
        return Twin(self.model.config, tensors, self.threads, self.config.device)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the step in progress: sampling is given up, an update is finished."""
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, self.interrupt) for number in caught}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def interrupt(self, *_: object) -> None:
        """Stop soon, with a state to go on from."""
        self._stop = True

    def _export(self, directory: Path) -> None:
        """A Hugging Face checkpoint of the type that the model came in, with its tokenizer."""
        config = self.model.config
        kept = config.torch_dtype == "float32"
        dtype = torch.float32 if kept else torch.bfloat16
        stored = replace(config, torch_dtype="float32" if kept else "bfloat16", quantization_config=None)
        save_weights(directory, export_tensors(self.model, dtype), stored.to_dict(), extra_files=self.tokenizer.files())

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self._own().items()}
        for index, parameter in enumerate(self.learner.trained()):
            state = self.learner.optimiser.state.get(parameter, {})
            tensors |= {f"optimiser.{index}.{name}": state[name] for name in MOMENTS if name in state}
        if self.reference is not None:
            tensors |= {f"reference.{name}": tensor for name, tensor in self.reference.tensors().items()}
        save_state(self.run_dir, self.step, tensors, {"config": asdict(self.config), "model": str(self.source)})

    def _resume(self) -> dict[str, Tensor]:
        """Take up the state in run_dir; returns the reference's weights, none if there is no state or no reference."""
        found = load_latest(self.run_dir)
        if found is None:
            return {}
        self.step, tensors, meta = found
        _check_same(meta["config"], asdict(self.config), self.run_dir)
        with torch.no_grad():
            for name, tensor in self._own().items():
                tensor.copy_(tensors[f"model.{name}"])
        for index, parameter in enumerate(self.learner.trained()):
            held = {name: tensors.get(f"optimiser.{index}.{name}") for name in MOMENTS}
            if all(value is not None for value in held.values()):
                self.learner.optimiser.state[parameter] = {k: v.clone() for k, v in held.items() if v is not None}
        return {name[10:]: tensor for name, tensor in tensors.items() if name.startswith("reference.")}

    def _own(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())


@dataclass(frozen=True)
class Check:
    """What a run with learning rate 0 showed. gap, torch_gap [nats]: as in Step; moved: weights that changed."""

    steps: int
    gap: float
    torch_gap: float
    ratio_low: float
    ratio_high: float
    moved: int
    exact: bool

    @property
    def passed(self) -> bool:
        """Engine and trainer agree to the bit, and nothing moved."""
        return self.gap == 0.0 and self.ratio_low == self.ratio_high == 1.0 and self.moved == 0


def check(
    model_dir: str | Path, config: GRPOConfig, steps: int = 2, report: Callable[[Step], None] = lambda step: None
) -> Check:
    """Some steps with learning rate 0: the gap must be 0, every ratio 1, and no weight may move."""
    still = replace(config, steps=steps, optim=replace(config.optim, lr=0.0, mtp_lr=0.0))
    with tempfile.TemporaryDirectory() as directory:
        run = GRPO(model_dir, Path(directory), still)
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        done = []
        for _ in range(steps):
            step = run.one_step()
            assert step is not None, "nobody interrupts a check"
            done.append(step)
            report(step)
        moved = sum(int((before[name] != tensor).sum()) for name, tensor in run.model.state_dict().items())
    learnt = [step for step in done if math.isfinite(step.ratio_low)]
    return Check(
        steps, max(step.gap for step in done), max(step.torch_gap for step in done),
        min((step.ratio_low for step in learnt), default=1.0), max((step.ratio_high for step in learnt), default=1.0),
        moved, run.actor.twin.exact,
    )  # fmt: skip


def load_transformer(directory: Path, device: str = "cpu", compute_dtype: torch.dtype = torch.float32) -> Transformer:
    """A checkpoint of any kind as a Transformer with float32 weights, with the MTP modules that it holds."""
    config = ModelConfig.read(directory)
    modules = min(config.num_nextn_predict_layers, mtp_layers(directory)) if config.num_nextn_predict_layers else 0
    config = replace(config, num_nextn_predict_layers=modules)
    weights = load_packed(directory, config, mtp=modules > 0)
    model = Transformer(config, mtp=modules > 0, device=device, compute_dtype=compute_dtype)
    model.load_state_dict(unpacked(weights, config))
    return model


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._since
        self._since = now


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch's threads, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _json(found: dict[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has: a step without a lesson has no ratios."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def _check_same(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """A resumed run must be the same run; it may be longer, and save at other times."""
    plain = json.loads(json.dumps(now))
    for key, value in before.items():
        if key not in ("steps", "save_every") and plain.get(key) != value:
            raise ConfigError(
                f"{key} is {plain.get(key)!r}, but {run_dir} was begun with {value!r}; use another --out, or the same "
                "value to go on."
            )
