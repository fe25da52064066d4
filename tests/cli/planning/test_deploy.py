"""`fathom plan deploy` prints what the arithmetic says, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.config import preset
from fathom.cost import plan_pool
from fathom.layout.deploy import read_deploy

DEPLOYS = sorted(Path("recipes/deploy").glob("deepseek-*.toml"))
PAPER, SERVICE = (f"recipes/deploy/deepseek-v3-{name}.toml" for name in ("paper", "service"))


@pytest.mark.parametrize("deploy", DEPLOYS, ids=lambda path: path.stem)
def test_every_deployment_that_is_shown_fits(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "deploy", str(deploy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    read = read_deploy(deploy)
    config = preset(read.model)
    assert found["ranks"] == read.world_size
    assert found["pools"] == [plan_pool(config, pool, memory_bytes=80 * 10**9) for pool in read.pool]


def test_the_table_shows_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "deploy", SERVICE]) == 0
    table = capsys.readouterr().out
    for line in ("176 ranks of 80 GB", "144 ranks on 18 nodes", "9  and 1 shared", "2  and 1 shared", "70,272 B"):
        assert line in table
    assert "7,392 B out in FP8, 14,336 B back in BF16" in table and "MTP" not in table
    assert max(map(len, table.splitlines())) <= 120


def test_mtp_modules_are_counted_unless_they_stay_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "deploy", SERVICE, "--set", 'engine.spec="auto"', "--json"]) == 0
    pools = json.loads(capsys.readouterr().out)["pools"]
    assert all(pool["weight_bytes_by_part"]["mtp"] > 0 for pool in pools)
    assert {pool["cache_bytes_per_token"] for pool in pools} == {62 * 576 * 2}


def test_one_rank_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deploy.toml").write_text('model = "nano"\n[[pool]]\nreplicas = 2\n')
    assert main(["plan", "deploy", str(tmp_path / "deploy.toml")]) == 0
    table = capsys.readouterr().out
    assert "2 replicas of 1 ranks" in table and "nothing" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([PAPER, "--memory-gb", "30"], "pool prefill: the weights of a rank take 31.4 GB of 30.0 GB"),
        ([PAPER, "--memory-gb", "0"], "--memory-gb is 0.0"),
        ([PAPER, "--node-ranks", "0"], "a node has 0 ranks"),
        ([PAPER, "--set", 'model="deepseek-v2-lite"'], "pool decode: shared_copies is 32"),
        (["missing.toml"], "missing.toml"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["plan", "deploy", *options, "--json"])
    printed = capsys.readouterr()
    assert code == 2, printed.out
    assert message in json.loads(printed.out)["error"]["message"]
