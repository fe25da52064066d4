"""What is read from the environment is checked, and has defaults; launchers say which host this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fathom.config import Host, cache_dir, child_environment, launched_host, ops_choice, use_interface
from fathom.errors import ConfigError


def test_ops_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FATHOM_OPS", raising=False)
    assert ops_choice() == "auto"
    monkeypatch.setenv("FATHOM_OPS", "reference")
    assert ops_choice() == "reference"
    monkeypatch.setenv("FATHOM_OPS", "gpu")
    with pytest.raises(ConfigError, match="FATHOM_OPS is 'gpu'; it must be one of auto, reference, cpu\\."):
        ops_choice()


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FATHOM_CACHE", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "fathom"
    monkeypatch.setenv("FATHOM_CACHE", "~/kernels")
    assert cache_dir() == tmp_path / "kernels"


LAUNCHERS = (
    "SLURM_NNODES", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_STEP_ID", "SLURM_JOB_NODELIST",
    "GROUP_WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK", "MASTER_ADDR",
)  # fmt: skip
SLURM = {"SLURM_STEP_ID": "0", "SLURM_NNODES": "4", "SLURM_NODEID": "3", "SLURM_LOCALID": "0"}
TORCHRUN = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.7"}


def launched(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> Host | None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    return launched_host()


@pytest.mark.parametrize(
    ("said", "host"),
    [
        ({}, None),
        (SLURM, Host(4, 3)),
        (SLURM | {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}, Host(4, 3, "10.0.0.1")),
        (SLURM | {"SLURM_JOB_NODELIST": "node[03-07,9],other"}, Host(4, 3, "node03")),
        (SLURM | {"SLURM_JOB_NODELIST": "alpha,beta"}, Host(4, 3, "alpha")),
        (SLURM | {"SLURM_NNODES": "1", "SLURM_NODEID": "0"}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}, None),  # inside salloc, no srun
        (TORCHRUN, Host(2, 1, "10.0.0.7")),
        (TORCHRUN | SLURM, Host(4, 3)),
    ],
)
def test_launchers_say_which_host_this_is(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], host: Host | None
) -> None:
    assert launched(monkeypatch, said) == host


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (SLURM | {"SLURM_NODEID": "4"}, "SLURM_NNODES is '4' and SLURM_NODEID is '4'"),
        (TORCHRUN | {"GROUP_RANK": "first"}, "GROUP_RANK is 'first'"),
        (TORCHRUN | {"LOCAL_RANK": "1"}, "LOCAL_RANK is 1; start one task per node"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_an_error(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        launched(monkeypatch, said)


def test_what_torch_reads_is_set_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "before")
    use_interface("eth7")
    assert child_environment()["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    assert child_environment()["TORCH_CPP_LOG_LEVEL"] == "ERROR"
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    assert child_environment()["TORCH_CPP_LOG_LEVEL"] == "INFO", "whoever asks for more gets it"
