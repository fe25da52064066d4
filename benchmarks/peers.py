"""The peers that fathom is measured against: llama.cpp, built here for this machine, and transformers.

    python benchmarks/peers.py        builds what is missing (10 to 20 minutes on two cores) and prints where it is

llama.cpp comes inside the source distribution of llama-cpp-python, in the version of requirements/constraints.txt,
fetched by pip and compiled with the instructions of this processor. One build serves its tools and, through
LLAMA_CPP_LIB_PATH, the Python bindings, which then need no second one:

    CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install --no-binary llama-cpp-python llama-cpp-python==VERSION
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from fathom.config import cache_dir

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("llama-bench", "llama-batched-bench", "llama-server")
OPTIONS = {  # of CMake; the rest is as llama.cpp has it
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "ON", "GGML_NATIVE": "ON",
    "LLAMA_CURL": "OFF", "LLAMA_OPENSSL": "OFF", "LLAMA_BUILD_UI": "OFF", "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF",
}  # fmt: skip


@dataclass(frozen=True)
class LlamaCpp:
    """A built llama.cpp: the folder of its tools and libraries, and the release it came with."""

    folder: Path
    release: str

    def tool(self, name: str) -> str:
        """The path of one of TOOLS."""
        return str(self.folder / name)


def pinned(package: str) -> str:
    """The version of a package in requirements/constraints.txt."""
    text = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", text, re.MULTILINE)
    if found is None:
        sys.exit(f"requirements/constraints.txt has no pin for {package}")
    return found[1]


def ensure() -> LlamaCpp:
    """llama.cpp, built on the first call; ends the program with what is missing if it cannot be."""
    release = pinned("llama-cpp-python")
    place = cache_dir() / "peers" / f"llama-cpp-python-{release}"
    built = LlamaCpp(place / "build" / "bin", f"llama-cpp-python {release}")
    if not (place / "ready").is_file():
        if lacking := missing():
            sys.exit(f"llama.cpp cannot be built here; install first: {', '.join(lacking)}")
        place.mkdir(parents=True, exist_ok=True)
        print(f"building llama.cpp in {place}; its output is in build.log there", file=sys.stderr)
        with (place / "build.log").open("w") as log:
            _build(place, release, log)
        (place / "ready").touch()
    if gone := [name for name in TOOLS if not (built.folder / name).is_file()]:
        sys.exit(f"{built.folder} lacks {', '.join(gone)}; delete {place} and try again")
    return built


def missing() -> list[str]:
    """What a build needs and this machine lacks."""
    needed = {"cmake": ("cmake",), "a C++ compiler": ("c++", "g++", "clang++"), "make or ninja": ("ninja", "make")}
    lacking = [what for what, names in needed.items() if not any(map(shutil.which, names))]
    return lacking + [name for name in ("pip", "gguf") if importlib.util.find_spec(name) is None]


def _build(place: Path, release: str, log: object) -> None:
    def call(*command: str | Path) -> None:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command[:4]))} ... failed; see {place / 'build.log'}")

    archive = f"llama_cpp_python-{release}.tar.gz"
    if not (place / archive).is_file():
        wanted = f"llama-cpp-python=={release}"
        call(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", place, wanted)
    source = place / archive.removesuffix(".tar.gz")
    if not source.is_dir():
        with tarfile.open(place / archive) as file:
            file.extractall(place, filter="data")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    call("cmake", "-S", source / "vendor/llama.cpp", "-B", place / "build", *generator, *options)
    call("cmake", "--build", place / "build", "--parallel", str(os.cpu_count() or 1), "--target", *TOOLS)


if __name__ == "__main__":
    peer = ensure()
    print(f"{peer.release}: {peer.folder}")
    for package in ("transformers", "llama_cpp"):
        print(f"{package}: {'installed' if importlib.util.find_spec(package) else 'not installed'}")
