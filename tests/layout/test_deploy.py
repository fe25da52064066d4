import pytest

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
        ('model = "nano"\npool = []', "no \\[\\[pool\\]\\]"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_deploy(written(tmp_path, text))
