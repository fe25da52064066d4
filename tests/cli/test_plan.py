"""`fathom plan`: its works explain themselves at once, and 200 bad inputs give one line each and exit code 2."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from random import Random

import pytest

from fathom.cli import main
from fathom.cli.plan import WORKS

GOOD = {
    "fit": ["deepseek-v3", "--on", "8xh200"],
    "train": ["deepseek-v3", "--tokens", "14.8T", "--gpu", "h800", "--gpus", "2048"],
    "serve": ["deepseek-v3", "--gpu", "h800", "--in", "4096", "--out", "1024", "--ttft", "2s", "--tpot", "50ms"],
    "demand": ["recipes/plan/deepseek-day.toml"],
    "crossover": ["--training-usd", "5576000", "--inference-usd-per-day", "87072"],
    "deploy": ["recipes/deploy/deepseek-v3-service.toml"],
}  # fmt: skip
BAD = (
    "", "-1", "0", "nan", "inf", "-inf", "1e999", "none", "8x", "0xh100", "8xh1000", "tp=0", "tp=3", "=", "a,b",
    "../..", "/nowhere.toml", "9" * 40, "1.5.2", "ü", "h100;rm", "deepseek", "{}", "[", "14.8X", "50", "-5ms", "0s",
)  # fmt: skip


@pytest.mark.parametrize("name", WORKS)
def test_a_work_has_its_parts_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"fathom.cli.planning.{name}")
    assert name == module.NAME and module.SUMMARY and module.HELP
    assert main(["plan", name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: fathom plan {name}")


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from fathom.cli import main; main(['plan', '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in WORKS)
    assert not {"numpy", "torch", "PIL", "fastapi"} & set(done.stderr.split())


def spoilt(rng: Random) -> list[str]:
    """A command that is right but for one argument."""
    work = rng.choice([name for name in GOOD if name in WORKS])
    arguments = list(GOOD[work])
    places = [at for at, text in enumerate(arguments) if not text.startswith("--")]
    arguments[rng.choice(places)] = rng.choice(BAD)
    return ["plan", work, *arguments]


def test_two_hundred_bad_inputs_give_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    rng, refused = Random(0), 0
    for number in range(200):
        command = [*spoilt(rng), *(["--json"] if number % 2 else [])]
        code = main(command)
        out, error = capsys.readouterr()
        assert code in (0, 1, 2), command
        assert "Traceback" not in error, command
        assert code == 2 or not re.search(r"\b(nan|inf|infinity)\b", out, re.IGNORECASE), command
        if code == 2:
            refused += 1
            assert error.startswith("error: ") and error.count("\n") == 1, (command, error)
            assert not number % 2 or "error" in json.loads(out)
    assert refused > 150
