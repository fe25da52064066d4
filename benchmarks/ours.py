"""Fathom's side of a comparison: the model, and its speed through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from clients import Load, serving
from measure import ROOT

THREADS = 2
LOAD = Load(clients=16, prompt_tokens=128, max_tokens=64)
Side = Callable[[], float]


def call(*command: str | Path | int) -> str:
    """The standard output of a command; ends the program with its complaint if it fails."""
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def fathom(*arguments: str | Path | int) -> tuple[str, ...]:
    """A call of the `fathom` command."""
    return (sys.executable, "-m", "fathom", *map(str, arguments))


def made(shape: str, folder: Path, bits: int | None = None) -> Path:
    """The directory of the random model of a shape, packed at some bits or in bfloat16, made where it is missing."""
    found = folder / (shape if bits is None else f"{shape}-{bits}")
    if not found.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        packed = () if bits is None else ("--bits", bits)
        call(*fathom("init", shape, found, "--random", "--seed", 0, *packed))
    return found


@dataclass(frozen=True)
class Ours:
    """A packed model."""

    model: Path

    @property
    def load(self) -> tuple[str, str]:
        """Copied into huge pages where that leaves room for the files' own pages; else mapped."""
        size = sum(file.stat().st_size for file in self.model.glob("*.safetensors"))
        return "--load", "copy" if 3 * size < psutil.virtual_memory().total else "map"

    def bench(self, mode: str, **options: int) -> float:
        """Tokens per second of one `fathom bench`."""
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        common = ("--model", self.model, *self.load, "--threads", THREADS, "--repeats", 1, "--json")
        return float(json.loads(call(*fathom("bench", mode, *common, *flags)))["tokens_per_s"]["median"])

    def cases(self, vocabulary: int) -> dict[str, Side]:
        """What can be measured, by name."""
        serve = fathom(
            "serve", "--model", self.model, *self.load, "--threads", THREADS, "--max-sequences", LOAD.clients,
            "--no-browser", "--port", "{port}",
        )  # fmt: skip
        return {
            "decode_short": partial(self.bench, "decode", context=0, tokens=128),
            "decode_1024": partial(self.bench, "decode", context=1024, tokens=64),
            "prefill_512": partial(self.bench, "prefill", context=512),
            "batch_16": partial(self.bench, "batch", batch=16, context=128, tokens=64),
            "clients_16": partial(serving, serve, LOAD, vocabulary),
        }
