"""The checks of `fathom doctor`: each looks at one thing and gives a verdict."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fathom.config import cache_dir, find_model
from fathom.errors import CheckpointError, FathomError

LEAST_PYTHON = (3, 11)
LEAST_DISK_BYTES = 1 << 30
LEAST_OPEN_FILES = 1024


@dataclass(frozen=True)
class Check:
    """One verdict. Fields: fix: what to do, empty when all is well. "warn": it works, but less well than it could."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def python() -> Check:
    """Whether this Python is new enough."""
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "fail", version, f"use Python {'.'.join(map(str, LEAST_PYTHON))} or newer")
    return Check("python", "ok", f"{version}, {platform.system()} {platform.machine()}")


def torch() -> Check:
    """Whether torch is there and fits the hardware."""
    try:
        import torch
    except ImportError as error:
        return Check("torch", "fail", f"cannot be imported ({error})", "pip install torch, or run ./run.sh once")
    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{torch.__version__}, CPU {capability}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Check("torch", "ok", f"{detail}, {torch.cuda.get_device_name()}")
    if shutil.which("nvidia-smi"):
        fix = "pip install torch with CUDA, see pytorch.org/get-started"
        return Check("torch", "warn", f"{detail}; an NVIDIA driver is here, but this torch cannot use it", fix)
    return Check("torch", "ok", detail)


def kernels(*, measured: bool) -> Check:
    """Who runs packed models, and if `measured`, what that is worth."""
    from fathom.ops import describe

    row = describe()[-1]
    factor = ""
    if measured:
        from fathom.engine.slowdown import served

        found = served()
        factor = f"; plain torch is {found.slowdown.times:.0f}x slower, measured on {found.where}"
    if row["answers"] != "reference":
        return Check("kernels", "ok", f"native, {row['answers']}{factor}")
    fix = "install a C compiler (apt install gcc, or xcode-select --install); all works without, more slowly"
    return Check("kernels", "warn", f"none native ({row['why']}): plain torch serves{factor}", fix)


def model(name: str, *, hashes: bool) -> Check:
    """Whether the model's files are there and whole."""
    directory = find_model(name)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return Check("model", "fail", f"{name} has no .safetensors files", "fetch the weights, or name another --model")
    size = f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"
    if not hashes:
        return Check("model", "ok", f"{name}, {size}, hashes not checked")
    try:
        checked = verify(directory)
    except CheckpointError as error:
        return Check("model", "fail", str(error), "fetch the file again: it is damaged or incomplete")
    return Check("model", "ok", f"{name}, {size}, {checked}")


def verify(directory: Path) -> str:
    """Compare files with manifest.json or SHA256SUMS; says what was done. Raises: CheckpointError: one differs."""
    if (directory / "manifest.json").is_file():
        from fathom.checkpoint import verify_manifest

        verify_manifest(directory)
        return "hashes as in manifest.json"
    sums = directory / "SHA256SUMS"
    if not sums.is_file():
        return "no hashes to compare with"
    for line in sums.read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition(" ")
        file = directory / name.strip().removeprefix("*")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, though SHA256SUMS lists it.")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != wanted.lower():
                raise CheckpointError(f"{file} does not have the SHA-256 that SHA256SUMS says.")
    return "hashes as in SHA256SUMS"


def port(host: str, port: int) -> Check:
    """Whether the server could listen."""
    from fathom.serve.launch import bind

    try:
        bind(host, port).close()
    except FathomError as error:
        return Check("port", "warn", str(error), "use another --port, or --port 0 for any free one")
    return Check("port", "ok", f"{port} on {host} is free")


def disk() -> Check:
    """Whether there is room for the cache."""
    place = cache_dir()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:,.1f} GB free for the cache"
    if free < LEAST_DISK_BYTES:
        return Check("disk", "warn", detail, "make room, or point FATHOM_CACHE to a larger disk")
    return Check("disk", "ok", detail)


def open_files() -> Check:
    """Whether enough clients could connect."""
    with contextlib.suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < LEAST_OPEN_FILES:
            return Check("open files", "warn", f"{soft} allowed, one per client", "ulimit -n 65536")
        return Check("open files", "ok", f"{soft} allowed, one per client")
    return Check("open files", "ok", "no limit known on this platform")


def self_test(name: str) -> Check:
    """Whether the engine generates, and the same twice."""
    from fathom.batching.request import SamplingParams
    from fathom.engine import LLM, EngineConfig

    llm = LLM(name, EngineConfig(max_sequences=1, num_pages=4))
    begin = llm.tokenizer.bos_id or 0
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    first, again = (llm.generate([[begin]], params)[0] for _ in range(2))
    if first.token_ids != again.token_ids:
        return Check("self-test", "fail", "one prompt gave two different replies", "report this, with --json's output")
    rate = first.timings.tokens_per_s(len(first.token_ids))
    return Check("self-test", "ok", f"8 tokens generated, {rate:.0f} tok/s, twice the same")
