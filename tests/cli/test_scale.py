"""`fathom scale` against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.serve.launch import ServeConfig
from tests.serve.conftest import running, scripted_model  # noqa: F401


def test_it_shows_and_changes_the_replicas(
    scripted_model: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nkey\n")
    with running(ServeConfig(model=str(scripted_model), drain_s=0.1, api_keys=("key",))) as server:
        here = ["--url", server.url, "--api-key-file", str(file)]
        assert main(["scale", *here]) == 0
        head, line = capsys.readouterr().out.splitlines()
        assert head.split() == ["name", "state", "requests", "due_tokens", "restarts"]
        assert line.split() == ["main-0", "ready", "0", "0", "0"]
        assert main(["scale", "2", *here, "--json"]) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)["replicas"]] == ["main-0", "main-1"]
        assert main(["scale", "--renew", "x", *here]) == 2
        assert "there is no replica 'x'" in capsys.readouterr().err
        assert main(["scale", "--url", server.url]) == 2 and "API key" in capsys.readouterr().err


def test_what_cannot_be_asked_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for options, code, match in (
        (["2", "--renew", "main-0"], 2, "not both"),
        (["--url", "ftp://x"], 2, "must be like"),
        (["--url", "http://127.0.0.1:1"], 1, "no fathom server answers"),
    ):
        assert main(["scale", *options]) == code
        assert match in capsys.readouterr().err
