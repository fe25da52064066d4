"""The kernels under the compiler's sanitizers: drive.c in a process of its own, every buffer of exactly its size."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fathom.ops.cpu import build

DRIVE = Path(__file__).with_name("drive.c")
SANITIZERS = {
    "memory": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-fsanitize=thread",),
}
# The variant that most machines serve with, and the plainest, sixteen lanes in plain C, which takes longest.
PLAINEST = next(iter(build.variants()))
SERVING = "avx2" if "avx2" in build.variants() else PLAINEST
OTHERS = [(name, what) for name in dict.fromkeys((PLAINEST, SERVING)) for what in SANITIZERS]


def compiler(flags: tuple[str, ...], work: Path) -> str:
    """The C compiler, once it has linked and run a program with these flags; skips with its words otherwise."""
    cc = build.compiler()
    if cc is None:
        pytest.skip("no C compiler (cc, gcc or clang) on the PATH")
    (work / "empty.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
    for command in ([cc, *flags, str(work / "empty.c"), "-o", str(work / "empty")], [str(work / "empty")]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{cc} has no {flags[0]}: {(done.stderr.strip() or 'it does not run').splitlines()[0]}")
    return cc


def drive(variant: str, sanitizer: str, much: str, work: Path) -> subprocess.CompletedProcess[str]:
    """Compile one variant with the driver and run it."""
    flags = (*SANITIZERS[sanitizer], "-O1", "-g1")
    cc = compiler(flags, work)
    exact = [flag for flag in build.FLAGS if flag != "-O3"]  # what keeps sums as written, without the minutes of -O3
    variants = dict.fromkeys((PLAINEST, variant))
    for name in variants:
        how = flags if name == variant else ("-O0",)  # select.c wants it, nobody drives it
        what = [f"-DVARIANT={name}", "-c", str(build.HERE / "kernels.c"), "-o", str(work / f"{name}.o")]
        subprocess.run([cc, *exact, *how, *build.variants()[name], *what], check=True)
    program = str(work / "drive")
    parts = [str(DRIVE), str(build.HERE / "select.c"), str(build.HERE / "team.c")]
    parts += [str(work / f"{name}.o") for name in variants]
    defines = [f"-DWITH_{name.upper()}" for name in variants]
    link = [cc, *exact, *flags, "-D_POSIX_C_SOURCE=200809L", f"-I{build.HERE}", *defines, *parts]
    subprocess.run([*link, "-lm", "-lpthread", "-o", program], check=True)
    # No search for leaks: it needs ptrace, which many containers forbid, and the driver frees all it takes.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([program, variant, much], capture_output=True, text=True, env=environment)


@pytest.mark.timeout(600)  # 15 s alone on one core; a busy machine must not fail it
def test_kernels_touch_only_what_is_theirs(tmp_path: Path) -> None:
    done = drive(SERVING, "memory", "short", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("variant", "sanitizer"), OTHERS)
def test_kernels_are_clean_through_every_batch(variant: str, sanitizer: str, tmp_path: Path) -> None:
    done = drive(variant, sanitizer, "full", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]
