"""What the planner writes is what the server and `fathom plan deploy` read."""

import tomllib
from math import inf
from pathlib import Path

import pytest

from fathom.config import load_config
from fathom.cost import plan_pool
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.deploy import Deploy, Pool, read_deploy
from fathom.layout.manifest import Hosts, leader_worker_set, slurm
from fathom.plan.deployment import deployment, from_deployment, to_toml
from fathom.plan.hardware import Catalogue
from fathom.plan.pools import Choices, Workload
from fathom.serve.deployment import fitted
from fathom.serve.messages import Hello
from tests.plan.served import SMALL, device, found, shape

ROOT = Path(__file__).resolve().parents[2]
ASK = Workload(input=2000, output=500, rps=40.0)
KINDS = {"split": (True,), "aggregated": (False,)}


def plan(kind: str):
    return found(ASK, Choices(gpus=16, mtp=(0, 1), overlap=(False,), split=KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_plan_is_read_back_as_it_was_and_fits(kind, tmp_path) -> None:
    made = deployment(plan(kind).chosen, "deepseek-v3", ASK)
    file = tmp_path / "deploy.toml"
    file.write_text(to_toml(made, ("a plan", "")))
    read = read_deploy(file)
    assert read == made and read.world_size == plan(kind).chosen.gpus
    assert {pool.role for pool in read.pool} == ({"prefill", "decode"} if kind == "split" else {"both"})
    config, memory = load_config("deepseek-v3"), int(device().memory_bytes)
    for pool in read.pool:
        fits = plan_pool(config, pool, memory_bytes=memory, mtp=pool.engine["spec"] != "off")
        assert fits["cache_tokens_per_rank"] >= pool.engine["num_pages"] * pool.engine["page_tokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_takes_the_settings_of_each_pool(kind) -> None:
    for pool in deployment(plan(kind).chosen, "m", ASK).pool:
        hello = fitted(Hello("m"), pool, "x-0")
        assert hello.max_sequences == pool.engine["max_sequences"] and hello.max_stretch == inf
        assert hello.max_batch_tokens is not None and hello.max_batch_tokens >= hello.max_sequences
        assert hello.layout == (pool.layout.pp, pool.layout.dp, pool.layout.tp, pool.layout.ep)


def test_the_schedulers_of_others_take_one_replica_of_it() -> None:
    pool = Pool(layout=Layout(dp=16, ep=16), engine={"max_sequences": 8})
    deploy = Deploy("deepseek-v3", (pool,))
    text = to_toml(deploy)
    assert "srun" in slurm(deploy, "deploy.toml", Hosts(2, 8))
    assert "max_sequences = 8" in leader_worker_set(deploy, text, Hosts(2, 8), image="i", groups=3)


def test_only_what_differs_is_written() -> None:
    text = to_toml(Deploy("m", (Pool(engine={"max_stretch": inf}),), engine={"spec": "off"}), ("why",))
    assert text.startswith("# why\n\nmodel") and "replicas" not in text and "layout" not in text
    assert tomllib.loads(text) == {
        "model": "m", "pool": [{"name": "main", "engine": {"max_stretch": inf}}], "engine": {"spec": "off"}
    }  # fmt: skip


def test_a_deployment_that_exists_becomes_points() -> None:
    deploy = read_deploy(ROOT / "recipes/deploy/deepseek-v3-service.toml")
    one = from_deployment(deploy, shape(), Catalogue.read(), device("h200"), SMALL, Workload(hit=0.5))
    assert one.prefill is not None and (one.decode.gpus, one.prefill.gpus) == (144, 32)
    assert one.decode.replica.setup.device.name == "h800_sxm"  # the file says so
    assert one.decode.replica.setup.redundant == one.prefill.replica.setup.redundant == 32


@pytest.mark.parametrize(
    ("deploy", "said"),
    [
        (Deploy("m", (Pool("a"), Pool("b"))), "has one pool, or one that prefills"),
        (Deploy("m", (Pool("a", layout=Layout(dp=2, ep=2)),)), "pool a .* has no room"),
        (Deploy("m", (Pool("a", layout=Layout(dp=8, ep=8)),)), "pool a .* keeps the target at no load"),
    ],
)
def test_a_deployment_that_cannot_be_compared_says_why(deploy, said) -> None:
    with pytest.raises(ConfigError, match=said):
        from_deployment(deploy, shape(), Catalogue.read(), device(), SMALL, Workload(tpot_s=0.001))
