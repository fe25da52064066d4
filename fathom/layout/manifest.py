"""A deployment as the schedulers of others read it: a Slurm batch file, or a manifest for Kubernetes.

Slurm and LeaderWorkerSet start `fathom serve` once on each host of a group; host 0 serves, the others lend it their
ranks. A RayJob starts it once, and Ray places the replicas. There are no secrets in the files, only the names of what
holds them.

Sources: sbatch(1) and srun(1) of Slurm; LeaderWorkerSet, leaderworkerset.x-k8s.io/v1 (kubernetes-sigs/lws); RayJob,
ray.io/v1 (ray-project/kuberay).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fathom.errors import ConfigError
from fathom.layout.deploy import Deploy

GROUP_PORT, HTTP_PORT = 29400, 8000
MOUNT, SECRET_MOUNT = "/etc/fathom/deploy", "/etc/fathom/secret"

READY = {"httpGet": {"path": "/ready", "port": HTTP_PORT}, "periodSeconds": 5}


@dataclass(frozen=True)
class Hosts:
    """The hosts that run one group. Fields: cpus: of each. secret: a file on every host, or a Secret of Kubernetes."""

    count: int = 1
    cpus: int = 8
    name: str = "fathom"
    secret: str = "group-secret"  # noqa: S105 - a name, not a secret

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", self.name):
            raise ConfigError(f"name is {self.name!r}; it must be of small letters, digits and -, such as fathom.")
        for field in ("count", "cpus"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1.")

    def check(self, deploy: Deploy) -> None:
        """Raise ConfigError if the deployment cannot be one group on these hosts."""
        if self.count == 1:
            return
        if len(deploy.pool) != 1 or deploy.pool[0].replicas != 1:
            raise ConfigError(f"{self.count} hosts can share one replica; give the deployment one pool of one replica.")
        ranks = deploy.world_size
        if ranks % self.count:
            raise ConfigError(f"{ranks} ranks do not divide among {self.count} hosts; change the layout or --nnodes.")


def serve_command(file: str, hosts: Hosts, *, rank: str, master: str, secret: str) -> list[str]:
    """The words that start one host of the group; on a host alone there is no group."""
    group = ["--nnodes", str(hosts.count), "--node-rank", rank, "--master", master, "--group-secret", secret]
    return ["fathom", "serve", file, "--no-browser", *(group if hosts.count > 1 else [])]


def slurm(deploy: Deploy, file: str, hosts: Hosts) -> str:
    """A file for `sbatch`. Args: file: the deployment's, as every host finds it.

    Raises: ConfigError: the deployment cannot be divided among these hosts.
    """
    hosts.check(deploy)
    # The shell of the batch file leaves $... to the one that srun starts on each host, which knows its number.
    words = [shlex.quote(file), shlex.quote(hosts.secret)]
    command = serve_command(words[0], hosts, rank='"$SLURM_NODEID"', master=f'"$MASTER:{GROUP_PORT}"', secret=words[1])
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={hosts.name}",
            f"#SBATCH --nodes={hosts.count}",
            "#SBATCH --ntasks-per-node=1",
            f"#SBATCH --cpus-per-task={hosts.cpus}",
            "#SBATCH --signal=TERM@30",
            f"#SBATCH --output={hosts.name}-%j.log",
            "set -eu",
            'MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "export MASTER",
            f"srun --kill-on-bad-exit=1 --cpus-per-task={hosts.cpus} sh -c {shlex.quote('exec ' + ' '.join(command))}",
            "",
        ]
    )


def leader_worker_set(deploy: Deploy, text: str, hosts: Hosts, *, image: str, groups: int = 1) -> str:
    """A manifest for `kubectl apply`: the deployment's file, groups of pods, and one address for the leaders.

    Each group has a front of its own. The Secret has two entries: `group`, what ranks must know, and `api-keys`, what
    clients must send. Args: text: the deployment's file.

    Raises: ConfigError: the deployment cannot be divided among these hosts, or there is no group.
    """
    hosts.check(deploy)
    if groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1.")
    name = hosts.name
    labels = {"leaderworkerset.sigs.k8s.io/name": name, "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    group = {
        "size": hosts.count,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": _pod(hosts, image, readinessProbe=READY),
        "workerTemplate": _pod(hosts, image),
    }
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"deploy.toml": text}},
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": name},
            "spec": {"replicas": groups, "startupPolicy": "LeaderCreated", "leaderWorkerTemplate": group},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{name}-http"},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": HTTP_PORT, "targetPort": HTTP_PORT}]},
        },
    ]
    return "---\n".join("".join(f"{line}\n" for line in yaml(document)) for document in documents)


def ray_job(deploy: Deploy, text: str, hosts: Hosts, *, image: str) -> str:
    """A manifest for `kubectl apply` with KubeRay: the deployment's file, a cluster of hosts, a front on its head.

    Ray puts each replica on one host, with a CPU for each rank at least. Args: text: the deployment's file.

    Raises: ConfigError: a replica has more ranks than a host has CPUs.
    """
    for pool in deploy.pool:
        if pool.layout.world_size > hosts.cpus:
            raise ConfigError(
                f"pool {pool.name}: a replica has {pool.layout.world_size} ranks, and Ray puts it on one host of "
                f"{hosts.cpus} CPUs; take hosts with more (--cpus), a smaller layout, or lws."
            )
    name = hosts.name
    words = ["fathom", "serve", f"{MOUNT}/deploy.toml", "--ray", "auto", "--no-browser"]
    words += ["--host", "0.0.0.0"]  # noqa: S104
    words += ["--port", str(HTTP_PORT), "--api-key-file", f"{SECRET_MOUNT}/api-keys"]
    head = {"rayStartParams": {"num-cpus": "0"}, "template": _ray_pod(hosts, image, "ray-head")}
    workers = {
        "groupName": "replicas",
        "replicas": hosts.count,
        "minReplicas": hosts.count,
        "maxReplicas": hosts.count,
        "rayStartParams": {"num-cpus": str(hosts.cpus)},
        "template": _ray_pod(hosts, image, "ray-worker"),
    }
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"deploy.toml": text}},
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name},
            "spec": {
                "entrypoint": shlex.join(words),
                "submissionMode": "HTTPMode",
                "shutdownAfterJobFinishes": True,
                "rayClusterSpec": {"headGroupSpec": head, "workerGroupSpecs": [workers]},
            },
        },
    ]
    return "---\n".join("".join(f"{line}\n" for line in yaml(document)) for document in documents)


def _ray_pod(hosts: Hosts, image: str, name: str) -> dict[str, Any]:
    pod = _pod(hosts, image)["spec"]
    container = {key: value for key, value in pod["containers"][0].items() if key != "command"}
    ports = [{"containerPort": HTTP_PORT}] if name == "ray-head" else []
    return {"spec": {"containers": [{**container, "name": name, "ports": ports}], "volumes": pod["volumes"]}}


def _pod(hosts: Hosts, image: str, **more: Any) -> dict[str, Any]:
    """One host of a group."""
    command = serve_command(
        f"{MOUNT}/deploy.toml",
        hosts,
        rank="$(LWS_WORKER_INDEX)",  # Kubernetes puts these in; LeaderWorkerSet declares them before ours
        master=f"$(LWS_LEADER_ADDRESS):{GROUP_PORT}",
        secret=f"{SECRET_MOUNT}/group",
    )
    reached = ["--host", "0.0.0.0", "--port", str(HTTP_PORT), "--api-key-file", f"{SECRET_MOUNT}/api-keys"]  # noqa: S104
    container = {
        "name": "fathom",
        "image": image,
        "command": [*command, *reached],
        "resources": {"requests": {"cpu": str(hosts.cpus)}},
        "ports": [{"containerPort": HTTP_PORT}, {"containerPort": GROUP_PORT}],
        "volumeMounts": [
            {"name": "deploy", "mountPath": MOUNT, "readOnly": True},
            {"name": "secret", "mountPath": SECRET_MOUNT, "readOnly": True},
        ],
        **more,
    }
    volumes = [
        {"name": "deploy", "configMap": {"name": hosts.name}},
        {"name": "secret", "secret": {"secretName": hosts.secret, "defaultMode": 0o400}},
    ]
    return {"spec": {"containers": [container], "volumes": volumes}}


def yaml(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML: tables and lists in blocks, and every value as JSON writes it, which YAML reads the same."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}:"
            yield from yaml(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield f"{indent}{key}:"
            for entry in item:
                first, *rest = yaml(entry, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from rest
        elif isinstance(item, str) and item.isascii() and re.match(r"\S.*\n", item):  # else it needs more than a block
            yield f"{indent}{key}: |"
            yield from (f"{indent}  {line}".rstrip() for line in item.splitlines())
        else:
            yield f"{indent}{key}: {json.dumps(item)}"
