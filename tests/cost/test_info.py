"""What `fathom info` prints is counted, for plain and for packed checkpoints."""

from __future__ import annotations

from dataclasses import replace

from fathom import cost
from fathom.config import preset

NANO = preset("nano")


def test_a_packed_checkpoint_is_counted_as_it_lies_on_disk() -> None:
    packed = replace(NANO, quantization_config={"quant_method": "fathom", "bits": 8, "group": None})
    found, plain = cost.info(packed), cost.info(NANO)
    assert found["checkpoint_bytes"] == cost.packed_size(NANO, "i8").bytes
    assert found["checkpoint_tensors"] == sum(1 for _ in cost.packed_tensors(NANO, "i8"))
    assert set(found["checkpoint_elements_by_dtype"]) == {"BF16", "F16", "F32", "I8"}
    assert found["parameters_total"] == plain["parameters_total"]


def test_memory_is_weights_cache_and_workspace() -> None:
    found = cost.memory(NANO, 8, tokens=1000, workspace_bytes=5)
    assert found["cache_bytes"] == 1000 * cost.cache_bytes_per_token(NANO, 2)
    assert found["total_bytes"] == cost.packed_size(NANO, "i8").bytes + found["cache_bytes"] + 5
    parts = ("weights_bytes", "scales_bytes", "plain_bytes", "cache_bytes", "workspace_bytes")
    assert found["total_bytes"] == sum(found[part] for part in parts)


def test_the_longest_context_is_cached_unless_said_otherwise() -> None:
    found = cost.memory(NANO, 32)
    assert found["cache_tokens"] == NANO.max_position_embeddings
    assert found["cache_bytes"] == NANO.max_position_embeddings * cost.cache_bytes_per_token(NANO, 4)
