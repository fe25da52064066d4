"""The `fathom` command: help is instant, errors are one line and an exit code, interruption is quiet."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from fathom import __version__, cli
from fathom.cli import COMMANDS, info, main
from fathom.errors import FathomError

HEAVY = ("torch", "numpy", "fastapi", "tokenizers", "safetensors")
MOST_IMPORTS = 200  # modules, the standard library's with them: some 0.05 s


@pytest.mark.parametrize("flag", [[], ["-h"], ["--help"]])
def test_the_overview_names_every_command_once(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flag) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_help_imports_little_and_so_is_instant(name: str) -> None:
    script = (
        "import sys; before = len(sys.modules); from fathom.cli import main; code = main([sys.argv[1], '--help']);"
        f"print([m for m in {HEAVY} if m in sys.modules], len(sys.modules) - before, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"usage: fathom {name}" in done.stdout
    heavy, _, imported = done.stderr.strip().rpartition(" ")
    assert heavy == "[]" and int(imported) < MOST_IMPORTS


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_a_command_file_has_the_four_parts(name: str) -> None:
    command = importlib.import_module(f"fathom.cli.{name}")
    assert name == command.NAME
    assert command.HELP and callable(command.add_arguments) and callable(command.run)


@pytest.mark.parametrize("argument", ["version", "--version", "-V"])
def test_version(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 0
    assert capsys.readouterr().out == f"fathom {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inf"], "error: 'inf' is not a fathom command (did you mean 'info'?); see `fathom --help`."),
        (["info"], "error: the following arguments are required: model; see `fathom info --help`."),
        (["info", "nano", "--jso"], "error: unrecognized arguments: --jso; see `fathom info --help`."),
        (["info", "absent"], "error: absent does not exist; give a config.json, its directory, or a preset's name."),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err == message + "\n"
    assert printed.out == ""


def test_with_json_the_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "absent", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "ConfigError"
    assert error["message"].startswith("absent does not exist")


@pytest.mark.parametrize(("raised", "code"), [(FathomError("the engine stopped"), 1), (KeyboardInterrupt(), 130)])
def test_failure_and_interruption_have_their_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise raised

    monkeypatch.setattr(info, "run", fail)
    assert main(["info", "nano"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_errors_are_red_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["info", "absent"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("\x1b[31merror: absent") and printed.endswith("\x1b[0m\n")


def test_a_reader_that_left_early_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "fathom", "info", "deepseek-v3"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (cli.PIPE_CLOSED, "")


def test_python_dash_m_fathom_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fathom", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: fathom")
