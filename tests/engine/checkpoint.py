"""A checkpoint on disk with everything an engine needs: the tiny model's shapes, a small tokenizer, random weights."""

from dataclasses import replace

from fathom.checkpoint import save_weights
from fathom.model import Transformer, init_weights
from fathom.tokenizer import Tokenizer
from tests.engine.tiny import CONFIG

MODULE = f"model.layers.{CONFIG.num_hidden_layers}."


def save_tiny(directory, *, mtp=True):
    """Write it to `directory` and return its model. mtp=False: without the MTP module that its config.json names."""
    tokenizer = Tokenizer.train(["what is 2 + 3? 5"], vocab_size=300)
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size, num_nextn_predict_layers=1, torch_dtype="float32", **ends)
    model = init_weights(Transformer(config), std=0.3, seed=1)
    stored = {name: tensor for name, tensor in model.state_dict().items() if mtp or not name.startswith(MODULE)}
    save_weights(directory, stored, config.to_dict())
    tokenizer.save(directory)
    return model
