"""The loop: read, differentiate, clip, step, nudge the biases, write down what happened; resume to the bit.

A run directory holds ledger.jsonl, the newest training states (step-NNNNNNNN) and, at the end, model/.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fathom import cost
from fathom.checkpoint import load_latest, load_weights, mtp_layers, save_state, save_weights
from fathom.config import ModelConfig, find_model
from fathom.errors import ConfigError, TrainingError
from fathom.model import Routing, Transformer, init_weights
from fathom.tokenizer import Tokenizer
from fathom.train import optim
from fathom.train.data import DataConfig, TaskData, train_tokenizer
from fathom.train.ledger import Ledger
from fathom.train.loss import Criterion, LossConfig, compute, next_token
from fathom.train.packing import Packed

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GENERATION = "generation_config.json"  # how a checkpoint likes to be sampled


@dataclass(frozen=True)
class TrainConfig:
    """Where to begin, how long, how much at once, how often to save."""

    init: str = ""  # a checkpoint: nano, or a directory; "": random weights
    steps: int = 1000
    rows: int = 8  # of data.row_tokens, in one optimiser step
    micro_rows: int = 8
    seed: int = 0
    init_std: float = 0.006  # DeepSeek-V3, section 4.2; small models want more
    compute_dtype: str = "bfloat16"  # of activations and GEMMs; weights and optimiser are float32
    log_every: int = 10
    save_every: int = 200
    threads: int = 0  # 0: torch's choice

    def __post_init__(self) -> None:
        if self.compute_dtype not in DTYPES:
            raise ConfigError(f"compute_dtype is {self.compute_dtype!r}; it must be one of {', '.join(DTYPES)}.")
        if self.rows % self.micro_rows:
            raise ConfigError(f"rows is {self.rows}, which micro_rows={self.micro_rows} does not divide.")


@dataclass(frozen=True)
class Recipe:
    """One run, as a TOML file: model, data, train, optim, loss. With train.init, `model` says what differs from it."""

    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: optim.OptimConfig = field(default_factory=optim.OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass
class Progress:
    """What the log line says of the last steps."""

    step: int
    steps: int
    loss: float
    mtp_loss: float
    mtp_accuracy: float
    max_violation: float
    grad_norm: float
    lr: float
    tokens_per_s: float
    mfu: float
    eta_s: float


class Source(Protocol):
    """Where a step's rows come from: a pure function of the step, so that resuming needs no state."""

    row_tokens: int  # of a row, at most
    facts: dict[str, Any]  # what decides its rows, as plain JSON values: a resumed run must have the same

    def batch(self, step: int, rows: int, first_row: int = 0) -> Packed:
        """Rows first_row .. first_row + rows of a step, or as many of them as it has."""
        ...


class Trainer:
    """Trains the recipe's model in `run_dir`; continues there if it holds a training state.

    Args:    source: what is read; the recipe's `data` if None. criterion: what a prediction costs (train/loss.py).
    """

    def __init__(
        self, recipe: Recipe, run_dir: Path, device: str = "cpu", *, source: Source | None = None,
        criterion: Criterion = next_token,
    ) -> None:  # fmt: skip
        self.recipe, self.run_dir, self.device = recipe, run_dir, device
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        torch.use_deterministic_algorithms(True)
        # A debugging aid of the line above that would cost a fifth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.init = find_model(recipe.train.init) if recipe.train.init else None
        self.tokenizer = self._tokenizer()
        self.config = self._config()
        self.data: Source = source or TaskData(recipe.data, self.tokenizer, recipe.train.seed)
        self.criterion = criterion
        self.model = Transformer(self.config, compute_dtype=DTYPES[recipe.train.compute_dtype], device=device)
        if self.init:
            load_weights(self.model, self.init)
        else:
            init_weights(self.model, recipe.train.init_std, recipe.train.seed)
        self.optimiser = optim.build(self.model, recipe.optim)
        self.step = 0
        self._stop = False
        self._resume()
        self.flops_per_token = cost.training_flops(
            self.config, self.data.row_tokens, mtp=recipe.loss.mtp > 0, mtp_depth=recipe.loss.mtp_depth
        )
        self.peak_flops = measure_peak(self.device, DTYPES[recipe.train.compute_dtype])

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> Path | None:
        """Train to the end and export; returns the model's directory, or None if interrupted (a state is saved)."""
        recipe, ledger = self.recipe, Ledger(self.run_dir)
        facts = {"tokens_per_step": self.tokens_per_step, "peak_flops": self.peak_flops, "torch": torch.__version__}
        ledger.append("start", step=self.step, recipe=self.described, threads=torch.get_num_threads(), **facts)
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, self._interrupt) for number in caught}
        began, tokens, since = time.perf_counter(), 0, self.step
        try:
            while self.step < recipe.train.steps and not self._stop:
                measured = self._one_step()
                tokens += int(measured.pop("tokens"))
                if self.step % recipe.train.log_every == 0 or self.step == recipe.train.steps:
                    elapsed, done = time.perf_counter() - began, self.step - since
                    progress = self._progress(measured, tokens / elapsed, elapsed / done)
                    began, tokens, since = time.perf_counter(), 0, self.step
                    ledger.append("step", **asdict(progress), loss_bits=measured["loss"].hex())
                    report(progress)
                if self.step % recipe.train.save_every == 0 or self._stop or self.step == recipe.train.steps:
                    self._save()
                    ledger.append("save", step=self.step)
            if self.step < recipe.train.steps:
                ledger.append("interrupted", step=self.step)
                return None
            target = self.run_dir / "model"
            self.export(target)
            ledger.append("export", step=self.step, directory=target.name)
            return target
        finally:
            ledger.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def tokens_per_step(self) -> int:
        """Tokens read in one optimiser step, at most."""
        return self.recipe.train.rows * self.data.row_tokens

    @property
    def described(self) -> dict[str, Any]:
        """The recipe with what is really read: all that decides the run's numbers."""
        return asdict(self.recipe) | {"data": self.data.facts}

    def export(self, directory: Path) -> None:
        """Write the model as a bfloat16 Hugging Face checkpoint with its tokenizer."""
        self.tokenizer.save(directory.parent / "tokenizer")
        files = {f.name: f.read_bytes() for f in sorted((directory.parent / "tokenizer").iterdir())}
        if self.init and (self.init / GENERATION).is_file():
            files[GENERATION] = (self.init / GENERATION).read_bytes()
        config = replace(self.config, torch_dtype="bfloat16", quantization_config=None)
        save_weights(directory, export_tensors(self.model, torch.bfloat16), config.to_dict(), extra_files=files)

    def _one_step(self) -> dict[str, float]:
        """One optimiser step; returns what it measured."""
        recipe, step = self.recipe, self.step
        count = recipe.train.rows // recipe.train.micro_rows
        found = (self.data.batch(step, recipe.train.micro_rows, i * recipe.train.micro_rows) for i in range(count))
        parts = [part for part in found if part.rows]
        rows = sum(part.rows for part in parts)
        counted = max(1, sum(int(part.counted.sum()) for part in parts))  # long prompts may fill every row
        totals = dict.fromkeys(("main", "mtp", "balance", "mtp_correct"), 0.0)
        loads: dict[int, Tensor] = {}
        self.optimiser.zero_grad(set_to_none=True)
        for part in parts:
            routing = Routing()
            losses = compute(self.model, part, recipe.loss, counted, rows, routing, self.criterion)
            losses.total.backward()
            for name in totals:
                totals[name] += getattr(losses, name)
            for layer, load in routing.counts(self.config.n_routed_experts).items():
                loads[layer] = loads[layer] + load if layer in loads else load
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optim.clip_norm))
        loss = totals["main"] / counted
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"step {step}: loss is {loss}, gradient norm {norm}; both must be finite. The last state in "
                f"{self.run_dir} is from before; lower optim.lr and run again."
            )
        lr = optim.learning_rate(recipe.optim, step, recipe.train.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        violations = optim.update_bias(self.model, loads, recipe.optim.bias_speed)
        self.step += 1
        return {
            "loss": loss, "mtp_loss": totals["mtp"] / counted, "mtp_accuracy": totals["mtp_correct"] / counted,
            "max_violation": sum(violations.values()) / max(1, len(violations)), "grad_norm": norm, "lr": lr,
            "tokens": sum(len(part.tokens) for part in parts),
        }  # fmt: skip

    def _progress(self, facts: dict[str, float], rate: float, step_s: float) -> Progress:
        left = (self.recipe.train.steps - self.step) * step_s
        mfu = rate * self.flops_per_token / self.peak_flops
        return Progress(self.step, self.recipe.train.steps, **facts, tokens_per_s=rate, mfu=mfu, eta_s=left)

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self._own_tensors().items()}
        for index, parameter in enumerate(self._trained()):
            state = self.optimiser.state[parameter]
            tensors |= {f"optimiser.{index}.{name}": state[name] for name in ("exp_avg", "exp_avg_sq", "step")}
        save_state(self.run_dir, self.step, tensors, {"recipe": self.described})

    def _resume(self) -> None:
        found = load_latest(self.run_dir)
        if found is None:
            return
        self.step, tensors, meta = found
        _check_same(meta["recipe"], self.described, self.run_dir)
        with torch.no_grad():
            for name, tensor in self._own_tensors().items():
                tensor.copy_(tensors[f"model.{name}"])
        for index, parameter in enumerate(self._trained()):
            names = ("exp_avg", "exp_avg_sq", "step")
            self.optimiser.state[parameter] = {name: tensors[f"optimiser.{index}.{name}"].clone() for name in names}
        log.info("resumed at step %d of %d", self.step, self.recipe.train.steps)

    def _own_tensors(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _tokenizer(self) -> Tokenizer:
        """The run's tokenizer: the one in its folder, else the initial checkpoint's, else learned now."""
        directory = self.run_dir / "tokenizer"
        if not (directory / "tokenizer.json").exists():
            if self.init:
                return Tokenizer.load(self.init)
            train_tokenizer(self.recipe.data, self.recipe.train.seed).save(directory)
        return Tokenizer.load(directory)

    def _config(self) -> ModelConfig:
        if self.init is None:
            return model_config(self.recipe, self.tokenizer)
        config = initial_config(self.init, self.recipe.model)
        if self.tokenizer.vocab_size > config.vocab_size:
            raise ConfigError(
                f"{self.init}: the tokenizer has {self.tokenizer.vocab_size} tokens, the model {config.vocab_size}; "
                "fetch the tokenizer that belongs to it."
            )
        return config

    def _interrupt(self, *_: object) -> None:
        self._stop = True  # the step in progress ends first, then its state is saved


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> ModelConfig:
    """The recipe's architecture, with the tokenizer's vocabulary."""
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    return ModelConfig.from_dict(recipe.model | {"vocab_size": tokenizer.vocab_size} | ids, "recipe: model")


def initial_config(init: Path, changes: dict[str, Any]) -> ModelConfig:
    """The architecture of a checkpoint to go on from, with the MTP modules that it really holds.

    Args:    changes: keys of config.json that shall differ, such as rope_scaling; the weights must still fit.
    """
    config = ModelConfig.from_dict(ModelConfig.read(init).to_dict() | changes, f"recipe: model, over {init}")
    if config.packed:
        raise ConfigError(f"{init} is packed at {config.packed.bits} bits; use the checkpoint that it was made from.")
    held = mtp_layers(init)
    if held < config.num_nextn_predict_layers:
        log.warning("%s holds %d of %d MTP modules; the rest is left out", init, held, config.num_nextn_predict_layers)
    return replace(config, num_nextn_predict_layers=min(held, config.num_nextn_predict_layers))


def export_tensors(model: Transformer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights under checkpoint names; MTP modules carry copies of embedding and head, as in the released files."""
    tensors = {
        name: tensor if name.endswith("e_score_correction_bias") else tensor.to(dtype)
        for name, tensor in model.state_dict().items()
    }
    for depth in range(model.config.num_nextn_predict_layers):
        prefix = f"model.layers.{model.config.num_hidden_layers + depth}"
        tensors[f"{prefix}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[f"{prefix}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    return tensors


def measure_peak(device: str, dtype: torch.dtype, size: int = 1024) -> float:
    """GEMM rate of this machine right now [FLOP/s]: the denominator of MFU here; the best of several tries."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = math.inf
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _check_same(before: dict[str, Any], now: dict[str, Any], run_dir: Path) -> None:
    """A resumed run must be the same run: everything that decides its numbers is equal."""
    for section in ("model", "data", "optim", "loss", "train"):
        for key, value in before[section].items():
            current = now[section].get(key)
            if (section, key) in {("train", "log_every"), ("train", "save_every")} or current == value:
                continue
            if isinstance(value, list) and list(current or ()) == value:
                continue
            raise ConfigError(
                f"{section}.{key} is {current!r}, but {run_dir} was begun with {value!r}; use another --out, or the "
                f"same value to go on."
            )
