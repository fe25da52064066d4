"""A small service that is found in milliseconds: nothing of it is a test."""

from functools import cache

from fathom.config import load_config
from fathom.plan.families import find as shape_of
from fathom.plan.hardware import Catalogue, Device
from fathom.plan.pools import Choices, Replica, Workload, replicas, setups
from fathom.plan.serving import Found, find
from fathom.plan.shape import Shape

SMALL = Choices(gpus=16, mtp=(0,), overlap=(False,))


@cache
def shape() -> Shape:
    return shape_of("deepseek-v3")


def device(name: str = "h200") -> Device:
    return Catalogue.read().find(name)


@cache
def found(workload: Workload, choices: Choices = SMALL, name: str = "h200", curve: bool = False) -> Found:
    config = load_config("deepseek-v3")
    return find(shape(), [device(name)], workload, choices, config=config, model="deepseek-v3", curve=curve)


@cache
def there(workload: Workload, choices: Choices = SMALL) -> tuple[Replica, ...]:
    """Replicas whose curves remember what was computed: targets may then be changed at will."""
    return tuple(replicas(setups(shape(), device(), choices, load_config("deepseek-v3")), workload))
