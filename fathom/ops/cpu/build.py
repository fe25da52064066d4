"""Compile the kernels once for this machine and keep them: `python -m fathom.ops.cpu.build`.

A library is named by the hash of sources, flags and processor, and by that of the compiler's version. It is made in a
temporary folder, tried in a process of its own (an illegal instruction dies there) and moved into place in one step, so
that no one ever loads half a file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from fathom.config import cache_dir

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
# No contraction and no fast math: the order and rounding of every sum is what the source says.
FLAGS = ("-std=c11", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
WIDE = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx2", "-mfma", "-mf16c")
X86 = {
    "generic": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": WIDE,
    "avx512bf16": (*WIDE, "-mavx512bf16"),
}
ARM = {"neon": (), "dotprod": ("-march=armv8.2-a+dotprod",)}
# `python -I -S -c TRY library`: loads it and runs a little of every variant that this processor claims to support.
TRY = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).fathom_probe())"
COMPILE_LIMIT_S = 300.0


class Unavailable(RuntimeError):
    """There is no native library, and why."""


def variants() -> dict[str, tuple[str, ...]]:
    """Instruction sets to compile for, the plainest first, with their flags."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return X86
    return ARM if machine in ("aarch64", "arm64") else {"generic": ()}


def sources() -> list[Path]:
    return sorted([*HERE.glob("*.c"), *HERE.glob("*.h")])


@cache
def processor() -> str:
    """What tells this processor from another that might share the cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = [line for line in lines if line.split("\t")[0].strip() in ("model name", "flags", "Features", "CPU part")]
    return "\n".join([sys.platform, platform.machine(), *(kept or [platform.processor()])])


def compiler() -> str | None:
    """Path of the C compiler, if there is one."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _digest(*parts: bytes) -> str:
    joined = hashlib.sha256()
    for part in parts:
        joined.update(len(part).to_bytes(8, "little") + part)
    return joined.hexdigest()[:16]


def _source_key() -> str:
    flags = repr((FLAGS, variants()))
    return _digest(flags.encode(), processor().encode(), *(path.read_bytes() for path in sources()))


@cache
def _compiler_key(path: str) -> str:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{path} does not run: {error}") from error
    return _digest(said.stdout)


def folders() -> list[Path]:
    """Where a library may be kept, best first."""
    return [cache_dir() / "kernels", HERE / "compiled"]


def _ours(path: Path) -> bool:
    """Whether nobody but this user or root can have written the file: loading it runs it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def find() -> Path | None:
    """The library built from these sources by this compiler, or by any if there is no compiler now."""
    key, cc = _source_key(), compiler()
    pattern = f"kernels-{key}-{_compiler_key(cc) if cc else '*'}.so"
    return next((path for folder in folders() for path in sorted(folder.glob(pattern)) if _ours(path)), None)


def ensure() -> Path:
    """The library, compiled now if need be. Raises Unavailable with the reason."""
    found = find()
    if found is not None:
        return found
    cc = compiler()
    if cc is None:
        raise Unavailable("no C compiler (cc, gcc or clang) on the PATH")
    failures = []
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
                built = _compile(cc, Path(work))
                built.chmod(0o755)
                target = folder / f"kernels-{_source_key()}-{_compiler_key(cc)}.so"
                os.replace(built, target)
                return target
        except OSError as error:  # not writable, or full: try the next folder
            failures.append(str(error))
    raise Unavailable("no folder to keep the kernels in: " + "; ".join(failures))


def _compile(cc: str, work: Path) -> Path:
    """Compile every variant the compiler knows, link, try. Raises Unavailable with the compiler's words."""
    running = {}
    for name, flags in variants().items():
        what = [f"-DVARIANT={name}", "-c", str(HERE / "kernels.c"), "-o", str(work / f"{name}.o")]
        command = [cc, *FLAGS, *flags, *what]
        running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = {name: _finish(process) for name, process in running.items()}
    plainest = next(iter(variants()))
    if said[plainest]:
        raise Unavailable(f"{cc} cannot compile the kernels: {said[plainest]}")
    good = [name for name, words in said.items() if not words]
    for name in said.keys() - set(good):
        log.warning("kernels: %s cannot compile the %s variant (%s)", cc, name, said[name])
    library = work / "kernels.so"
    defines = [f"-DWITH_{name.upper()}" for name in good]
    plain = (HERE / f"{name}.c" for name in ("select", "team", "shared"))
    parts = [*map(str, plain), *(str(work / f"{name}.o") for name in good)]
    command = [cc, *FLAGS, *defines, "-shared", *parts, "-lm", "-lpthread", "-o", str(library)]
    words = _finish(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    if words:
        raise Unavailable(f"{cc} cannot link the kernels: {words}")
    tried = subprocess.run([sys.executable, "-I", "-S", "-c", TRY, str(library)], capture_output=True, timeout=60)
    if tried.returncode:
        raise Unavailable(f"the compiled kernels do not run on this processor (exit {tried.returncode})")
    return library


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait for a compiler; the first line of its complaint, "" if it succeeded."""
    try:
        _, words = process.communicate(timeout=COMPILE_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"not done after {COMPILE_LIMIT_S:.0f} s"
    if not process.returncode:
        return ""
    lines = words.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else f"exit {process.returncode}")


def main() -> int:
    began = time.perf_counter()
    try:
        ready = find()
        library = ready or ensure()
    except Unavailable as error:
        print(f"kernels: none ({error}); plain torch serves")
        return 1
    how = "ready" if ready else f"compiled in {time.perf_counter() - began:.1f} s"
    print(f"kernels: {how}, {library}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
