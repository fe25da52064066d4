import pytest

from fathom.config import preset
from fathom.errors import ConfigError
from fathom.layout import Layout
from fathom.layout.deploy import Deploy, Pool, read_deploy

SPLIT = """
model = "nano"

[[pool]]
name = "prefill"
role = "prefill"
layout = { tp = 2, ep = 2 }

[[pool]]
name = "decode"
role = "decode"
replicas = 3
layout = { dp = 4, ep = 4 }
redundant_experts = 4
eplb = "auto"

[engine]
max_sequences = 64
"""


def written(tmp_path, text):
    file = tmp_path / "deploy.toml"
    file.write_text(text)
    return file


def test_pools_have_layouts_of_their_own(tmp_path) -> None:
    deploy = read_deploy(written(tmp_path, SPLIT))
    assert [pool.layout for pool in deploy.pool] == [Layout(tp=2, ep=2), Layout(dp=4, ep=4)]
    assert deploy.world_size == 2 + 3 * 4
    assert deploy.engine == {"max_sequences": 64}


def test_one_engine_is_the_default(tmp_path) -> None:
    assert read_deploy(written(tmp_path, 'model = "nano"')) == Deploy("nano", (Pool(),))


@pytest.mark.parametrize(
    "text, message",
    [
        ('model = "nano"\n[[pool]]\nreplica = 1', "did you mean 'replicas'"),
        ('model = "nano"\n[[pool]]\nlayout = { ep = 2 }', "does not divide"),
        ('model = "nano"\n[[pool]]\n[[pool]]', "two pools are called 'main'"),
        ('model = "nano"\n[[pool]]\nrole = "decode"', "need each other"),
        ('model = "nano"\n[[pool]]\nreplicas = 0', "at least 1"),
        ('model = "nano"\n[[pool]]\nshared_copies = -1', "shared_copies is -1"),
        ('model = "nano"\npool = []', "no \\[\\[pool\\]\\]"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_deploy(written(tmp_path, text))


def test_experts_and_copies_divide_among_the_ranks() -> None:
    v3 = preset("deepseek-v3")
    decode = Pool(layout=Layout(dp=144, ep=144), redundant_experts=32)
    decode.check(v3)
    assert (decode.slots(v3), decode.slots_per_rank(v3)) == (288, 2)
    paper = Pool(layout=Layout(dp=80, tp=4, ep=320), redundant_experts=32, shared_copies=32)
    paper.check(v3)
    assert (paper.slots(v3), paper.slots_per_rank(v3)) == (320, 1)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            Pool("d", layout=Layout(dp=4, ep=4), redundant_experts=2),
            "pool d: n_routed_experts \\+ redundant is 18, which",
        ),
        (Pool("d", layout=Layout(dp=2, ep=2), redundant_experts=18), "redundant_experts is 18; on 2 ranks at most 16"),
        (Pool("d", layout=Layout(tp=3)), "pool d: num_attention_heads is 4, which tp=3"),
    ],
)
def test_a_model_that_a_pool_cannot_serve_is_refused(pool: Pool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pool.check(preset("nano"))


def test_only_a_single_shared_expert_is_placed_like_a_routed_one() -> None:
    with pytest.raises(ConfigError, match="n_shared_experts is 2, so leave it out"):
        Pool(shared_copies=1).check(preset("deepseek-v2-lite"))
