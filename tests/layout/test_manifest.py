"""Files for Slurm and Kubernetes: a shell and a YAML reader take them, and they say what the deployment says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout import manifest as made
from fathom.layout.deploy import Deploy, Pool
from fathom.layout.manifest import Hosts, leader_worker_set, ray_job, slurm

DEPLOY = Deploy("nano", (Pool(layout=Layout(dp=2, ep=2)),))
TEXT = 'model = "nano"\n\n[[pool]]\nlayout = { dp = 2, ep = 2 }\n'

# The fields of the CRD that are used, from api/leaderworkerset/v1/leaderworkerset_types.go (v0.8).
CRD: dict[str, Any] = {
    "replicas": int,
    "startupPolicy": {"LeaderCreated", "LeaderReady"},
    "leaderWorkerTemplate": {
        "size": int,
        "restartPolicy": {"Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
        "leaderTemplate": dict,
        "workerTemplate": dict,
    },
}


def fits(value: Any, schema: Any) -> bool:
    if isinstance(schema, type):
        return type(value) is schema
    if isinstance(schema, set):
        return value in schema
    return isinstance(value, dict) and all(key in schema and fits(item, schema[key]) for key, item in value.items())


def run_on(tmp_path: Path, script: str, node: int, nodes: list[str]) -> list[str]:
    """What `fathom` is started with on one host: Slurm's programs and fathom are played."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name, body in {
        "scontrol": "printf '%s\\n' " + " ".join(nodes),
        "srun": 'while [ "$1" != sh ]; do shift; done; exec "$@"',
        "fathom": 'printf "%s\\n" "$@"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    environment = {"PATH": path, "SLURM_JOB_NODELIST": "node[01-02]", "SLURM_NODEID": str(node)}
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("file", ["deploy.toml", "it's a $(file).toml"])
def test_a_slurm_file_starts_each_host_with_its_number(tmp_path: Path, file: str) -> None:
    text = slurm(DEPLOY, file, Hosts(2, 16, "big-model", "/keys/group secret"))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert options == {
        "job-name": "big-model", "nodes": "2", "ntasks-per-node": "1", "cpus-per-task": "16", "signal": "TERM@30",
        "output": "big-model-%j.log",
    }  # fmt: skip
    assert len(options) == text.count("#SBATCH"), "an option that was not understood"
    for node in (0, 1):
        assert run_on(tmp_path, text, node, ["node01", "node02"]) == [
            "serve", file, "--no-browser", "--nnodes", "2", "--node-rank", str(node), "--master", "node01:29400",
            "--group-secret", "/keys/group secret",
        ]  # fmt: skip


def test_a_slurm_file_for_one_host_knows_no_group() -> None:
    text = slurm(Deploy("nano", (Pool(replicas=3), Pool("other"))), "d.toml", Hosts())
    assert "exec fathom serve d.toml --no-browser'" in text and "--node-rank" not in text


def test_a_manifest_has_the_fields_of_the_published_crd() -> None:
    text = leader_worker_set(DEPLOY, TEXT, Hosts(2, 4, "big"), image="registry.example/fathom:1", groups=3)
    config, group, service = yaml.safe_load_all(text)
    assert config["data"] == {"deploy.toml": TEXT} and config["kind"] == "ConfigMap"
    assert (group["apiVersion"], group["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert group.keys() == {"apiVersion", "kind", "metadata", "spec"} and fits(group["spec"], CRD)
    assert not fits({"size": 1}, CRD), "the check finds fields in the wrong place"
    assert group["spec"]["replicas"] == 3
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    assert service["spec"]["selector"] == {
        "leaderworkerset.sigs.k8s.io/name": "big", "leaderworkerset.sigs.k8s.io/worker-index": "0"
    }  # fmt: skip
    for kind in ("leaderTemplate", "workerTemplate"):
        (container,) = template[kind]["spec"]["containers"]
        command = container["command"]
        at = command.index("--nnodes")
        assert command[at : at + 6] == [
            "--nnodes", "2", "--node-rank", "$(LWS_WORKER_INDEX)", "--master", "$(LWS_LEADER_ADDRESS):29400"
        ]  # fmt: skip
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template[kind]["spec"]["volumes"]}
        assert mounts == volumes.keys() and volumes["secret"]["secret"]["defaultMode"] == 0o400
        assert ("readinessProbe" in container) == (kind == "leaderTemplate")


@pytest.mark.parametrize(
    "text", [" model = 'x'\n", "a = 'é\u2028'\nb = 1\n", "x", "a\tb\n\n  c: |\n---\n", "# :\n\n\n"]
)
def test_any_file_survives_the_manifest(text: str) -> None:
    config = next(yaml.safe_load_all(leader_worker_set(DEPLOY, text, Hosts(), image="i")))
    assert config["data"]["deploy.toml"].rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("deploy", "count", "match"),
    [
        (Deploy("nano", (Pool(replicas=2),)), 2, "one pool of one replica"),
        (Deploy("nano", (Pool(), Pool("b"))), 2, "one pool of one replica"),
        (DEPLOY, 4, "2 ranks do not divide among 4 hosts"),
    ],
)
def test_what_cannot_be_one_group_is_refused(deploy: Deploy, count: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        slurm(deploy, "d.toml", Hosts(count))
    with pytest.raises(ConfigError, match=match):
        leader_worker_set(deploy, TEXT, Hosts(count), image="i")


def test_names_and_numbers_are_checked() -> None:
    for wrong in ("Big", "a b", "-a", "a;b", "a" * 60, ""):
        with pytest.raises(ConfigError, match="name is"):
            Hosts(name=wrong)
    with pytest.raises(ConfigError, match="count is 0"):
        Hosts(0)
    with pytest.raises(ConfigError, match="groups is 0"):
        leader_worker_set(DEPLOY, TEXT, Hosts(), image="i", groups=0)
    assert made.GROUP_PORT == 29400  # the one that `fathom serve` takes under Slurm when --master is left out


# The fields of KubeRay's CRDs that are used, from ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go (v1.4).
RAY: dict[str, Any] = {
    "entrypoint": str,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode"},
    "shutdownAfterJobFinishes": bool,
    "rayClusterSpec": {"headGroupSpec": dict, "workerGroupSpecs": list},
}
GROUP: dict[str, Any] = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": dict,
}  # fmt: skip


def test_a_ray_job_has_a_cluster_of_hosts_and_a_front_on_its_head() -> None:
    config, job = yaml.safe_load_all(ray_job(DEPLOY, TEXT, Hosts(3, 8), image="i:1"))
    assert config["data"]["deploy.toml"] == TEXT and job["kind"] == "RayJob"
    assert fits(job["spec"], RAY)
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert fits(group, GROUP) and group["replicas"] == 3 and group["rayStartParams"] == {"num-cpus": "8"}
    for pod in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = pod["spec"]["containers"]
        assert container["image"] == "i:1" and "command" not in container
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["fathom", "serve"] and words[words.index("--ray") + 1] == "auto"


def test_ray_takes_no_replica_that_is_larger_than_a_host() -> None:
    with pytest.raises(ConfigError, match="2 ranks, and Ray puts it on one host of 1 CPUs"):
        ray_job(DEPLOY, TEXT, Hosts(3, 1), image="i")
