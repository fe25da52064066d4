"""DeepSeek-V3, once, for trainer and server. It knows no rank and no process: it is given a Shard and a Comm.

Module attributes are the names of the Hugging Face checkpoint, so `state_dict()` keys need no map.
Must not import parallel, checkpoint, tokenizer or anything above them.
Read in this order: attention.py (MLA), moe.py (DeepSeekMoE), transformer.py, mtp.py; then packed.py, which runs
the same in native kernels.
"""

from fathom.model.alone import OneAtATime
from fathom.model.cache import Batch, LatentCache, Routing
from fathom.model.packed import PackedTransformer
from fathom.model.transformer import Transformer, init_weights

Model = Transformer | PackedTransformer | OneAtATime  # whatever an engine can run

__all__ = [
    "Batch", "LatentCache", "Model", "OneAtATime", "PackedTransformer", "Routing", "Transformer", "init_weights",
]  # fmt: skip
