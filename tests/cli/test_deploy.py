"""`fathom deploy` writes what `fathom serve` understands, and says what is missing."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.cli import serve as serve_command
from fathom.cli.hosts import hosts_of

FILE = 'model = "nano"\n[[pool]]\nlayout = { dp = 2, ep = 2 }\n'


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    file = tmp_path / "deploy.toml"
    file.write_text(FILE)
    return file


def test_the_command_in_a_slurm_file_is_one_that_serve_takes(deploy: Path, tmp_path: Path) -> None:
    out = tmp_path / "job.sh"
    asked = ["deploy", "slurm", str(deploy), "--nnodes", "2", "--group-secret", "g.key", "--out", str(out)]
    assert main(asked) == 0
    inner = shlex.split(out.read_text().splitlines()[-1])[-1]
    words = shlex.split(inner.replace("$SLURM_NODEID", "1").replace("$MASTER", "node01"))
    assert words[:3] == ["exec", "fathom", "serve"]
    parser = argparse.ArgumentParser()
    serve_command.add_arguments(parser)
    args = parser.parse_args(words[3:])
    hosts = hosts_of(args)
    assert args.deploy == deploy and hosts is not None
    assert (hosts.count, hosts.number, hosts.host, hosts.port) == (2, 1, "node01", 29400)


def test_what_is_missing_is_said(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "lws", str(deploy)]) == 2 and "--image" in capsys.readouterr().err
    assert main(["deploy", "slurm", str(deploy), "--nnodes", "2"]) == 2
    assert "--group-secret FILE" in capsys.readouterr().err
    assert main(["deploy", "slurm", str(deploy), "--out", "/nowhere/x"]) == 2
    assert main(["deploy", "lws", str(deploy), "--image", "i"]) == 0
    assert 'kind: "LeaderWorkerSet"' in capsys.readouterr().out
