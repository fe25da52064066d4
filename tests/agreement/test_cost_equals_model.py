"""fathom.cost counts exactly what the model builds: names, shapes, parameters."""

import pytest
import torch

from fathom import cost
from fathom.config import preset
from fathom.model import Transformer

#: In the file, shared in memory: MTP modules carry copies of embedding and head.
SHARED = (".embed_tokens.weight", ".shared_head.head.weight")


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v2-lite", "moonlight", "nano"])
def test_every_tensor_of_the_checkpoint_is_in_the_model(name) -> None:
    """Names, shapes and, for V3, the dtypes of the released files."""
    config = preset(name)
    dtypes = {"F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F32": torch.float32}
    model = Transformer(config, fp8=config.quantization_config is not None, dtype=torch.bfloat16, device="meta")
    built = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in model.state_dict().items()}
    listed = {
        key: (tuple(shape), dtypes[dtype])
        for key, shape, dtype in cost.tensors(config)
        if not (key.startswith("model.layers.") and key.endswith(SHARED))
    }
    assert built == listed


def test_parameters_of_the_main_model() -> None:
    config = preset("deepseek-v3")
    model = Transformer(config, mtp=False, device="meta")
    biases = sum(b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    assert sum(p.numel() for p in model.parameters()) + biases == cost.parameters(config) == 671_026_419_200
