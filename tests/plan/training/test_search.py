"""A layout that fits is found where there is one."""

import pytest

from fathom.errors import ConfigError
from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.job import SOFTWARE
from fathom.plan.training.memory import fits
from fathom.plan.training.search import asked, best, published
from fathom.plan.training.step import step

CATALOGUE = Catalogue.read()
H100 = CATALOGUE.find("h100")
MEGATRON = SOFTWARE["megatron"]


@pytest.mark.parametrize(("model", "gpus"), [("llama-3.1-8b", 8), ("llama-2-70b", 64), ("qwen3-235b-a22b", 256)])
def test_the_layout_found_fits_and_uses_every_device(model: str, gpus: int) -> None:
    job = best(find(model), H100, gpus, MEGATRON)
    assert fits(job) and job.gpus == gpus


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match=r"does not train on 8 H100.*use \d+ or more"):
        best(find("llama-3.1-405b"), H100, 8, MEGATRON)


def test_more_devices_never_train_fewer_tokens_a_second() -> None:
    rates = []
    for gpus in (64, 128, 256, 512):
        job = best(find("llama-2-70b"), H100, gpus, MEGATRON)
        rates.append(job.tokens / step(job).seconds)
    assert rates == sorted(rates)


def test_the_published_layout_is_taken_for_v3_only() -> None:
    h800 = CATALOGUE.find("h800")
    job, why = asked(find("deepseek-v3"), h800, 2048)
    assert (job.layout.pp, job.layout.ep, job.schedule) == (16, 64, "dualpipe") and "published" in why
    assert published(find("deepseek-v2"), h800, 2048) is None
    assert "fastest" in asked(find("llama-3.1-8b"), h800, 8)[1]


def test_a_layout_is_taken_as_given() -> None:
    cut = {"pp": 8, "tp": 8, "cp": 1, "ep": 1, "vp": 2}
    job, _ = asked(find("llama-3.1-405b"), H100, 1024, cut=cut, precision="bf16")
    assert (job.layout.pp, job.layout.tp, job.layout.dp, job.schedule) == (8, 8, 16, "interleaved")
    with pytest.raises(ConfigError, match="use a multiple"):
        asked(find("llama-3.1-405b"), H100, 100, cut=cut)
