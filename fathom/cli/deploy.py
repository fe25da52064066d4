"""`fathom deploy`: files with which Slurm or Kubernetes start a deployment."""

from __future__ import annotations

import argparse
from pathlib import Path

from fathom.errors import ConfigError
from fathom.layout.deploy import read_deploy
from fathom.layout.manifest import Hosts, leader_worker_set, ray_job, slurm

NAME = "deploy"
HELP = (
    "Write what starts a deployment: a Slurm batch file (slurm), or for Kubernetes a LeaderWorkerSet (lws) or a RayJob "
    "of KubeRay (ray)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fathom deploy`."""
    parser.add_argument("kind", choices=("slurm", "lws", "ray"), help="slurm: for sbatch; lws, ray: for kubectl")
    parser.add_argument("deploy", type=Path, help="the deployment's TOML file; slurm: as every host finds it")
    parser.add_argument("--nnodes", type=int, default=1, help="hosts that run its ranks (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=8, help="CPUs of each host (default: %(default)s)")
    parser.add_argument("--name", default="fathom", help="of the job (default: %(default)s)")
    parser.add_argument(
        "--group-secret", metavar="NAME", help="what ranks must know; slurm: a file of mode 600; lws: a Secret's name"
    )
    parser.add_argument("--image", help="lws, ray: a container image with fathom in it")
    parser.add_argument("--groups", type=int, default=1, help="lws: groups, each with a front (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> int:
    """Print the file, or write it."""
    deploy = read_deploy(args.deploy)
    hosts = Hosts(args.nnodes, args.cpus, args.name, args.group_secret or _secret(args))
    if args.kind == "slurm":
        text = slurm(deploy, str(args.deploy), hosts)
    elif args.image is None:
        raise ConfigError(
            f"{args.kind} needs --image, a container image with fathom in it, such as registry.example/fathom:1."
        )
    elif args.kind == "ray":
        text = ray_job(deploy, args.deploy.read_text(encoding="utf-8"), hosts, image=args.image)
    else:
        text = leader_worker_set(
            deploy, args.deploy.read_text(encoding="utf-8"), hosts, image=args.image, groups=args.groups
        )
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.out} cannot be written ({error.strerror}).") from error
    return 0


def _secret(args: argparse.Namespace) -> str:
    """The name of what holds the secret, where none was given."""
    if args.kind == "slurm" and args.nnodes > 1:
        raise ConfigError("ranks on several hosts need --group-secret FILE: the same on each, of mode 600.")
    return str(args.name)
