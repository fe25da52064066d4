"""What several rooms test with: a whole model directory of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a failure belongs to a change; --hypothesis-profile=explore draws new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights and a small tokenizer, as `fathom train` leaves them."""
    from fathom.checkpoint import save_weights
    from fathom.model import Transformer, init_weights
    from fathom.tokenizer import Tokenizer
    from tests.engine.tiny import CONFIG

    directory = tmp_path_factory.mktemp("models") / "tiny"
    texts = ["What is two plus two? Let me think step by step. The answer is four. 0 1 2 3 4 5 6 7 8 9 + ="] * 4
    tokenizer = Tokenizer.train(texts, 320, digits=1)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size, **ids)
    model = init_weights(Transformer(config, mtp=False), std=0.3, seed=1)
    save_weights(directory, model.state_dict(), config.to_dict())
    tokenizer.save(directory)
    return directory
