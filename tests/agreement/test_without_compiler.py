"""A machine without a compiler gives the same replies: slower, and with one warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.ops.cpu import build
from tests.ops.conftest import library, native  # noqa: F401

PROMPTS = ["What is 384 + 2957?", "Sort 7, 2, 9, 4"]
SENTENCE = (
    "WARNING: no native kernels (no C compiler (cc, gcc or clang) on the PATH): "
    "plain torch computes, one token at a time and many times slower"
)


def generated(prompt: str, *options: str, **environment: str) -> tuple[list[int], list[str]]:
    """Token ids of a greedy reply in a process of its own, and the lines of its stderr."""
    command = [sys.executable, "-m", "fathom", "generate", "--prompt", prompt, "--temperature", "0", "--json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FATHOM_")}
    done = subprocess.run(
        [*command, "--max-tokens", "24", *options],
        env=kept | environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    return json.loads(done.stdout)["token_ids"], done.stderr.splitlines()


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, str]:
    """A machine with no compiler, where no kernels were ever kept."""
    if any((build.HERE / "compiled").glob("*.so")):
        pytest.skip("kernels are kept beside the package, as the cache folder could not be written")
    return {"PATH": str(tmp_path), "FATHOM_CACHE": str(tmp_path / "cache")}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_warning_and_the_tokens_of_the_kernels(prompt: str, nothing: dict[str, str], native: object) -> None:  # noqa: F811
    """In float32 the two differ by rounding (PACKED_EQUALS_MODEL), far less than the leads of a trained model."""
    alone, said = generated(prompt, "--bits", "32", **nothing)
    assert said == [SENTENCE]
    assert generated(prompt, "--bits", "32") == (alone, [])


def test_guesses_change_no_token_without_kernels_either(nothing: dict[str, str]) -> None:
    replies = [generated(PROMPTS[0], "--spec", spec, **nothing) for spec in ("off", "3")]
    assert replies[0] == replies[1] and len(replies[0][0]) > 10 and replies[0][1] == [SENTENCE]
