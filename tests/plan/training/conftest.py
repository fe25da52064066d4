"""The run that is published best: DeepSeek-V3 on 2,048 H800."""

import pytest

from fathom.plan.families import find
from fathom.plan.hardware import Catalogue
from fathom.plan.training.job import Job
from fathom.plan.training.search import deepseek


@pytest.fixture(scope="session")
def v3() -> Job:
    return deepseek(find("deepseek-v3"), Catalogue.read().find("h800"))
