"""The memory of a running model is the sum of what it holds, and follows what it is asked to hold."""

from __future__ import annotations

from dataclasses import replace

from fathom import cost
from fathom.config import SHAPES, preset

NANO = preset("nano")


def test_the_total_is_the_sum_of_its_parts() -> None:
    found = cost.memory(NANO, 8, tokens=1000)
    assert found["cache_bytes"] == 1000 * cost.cache_bytes_per_token(NANO, 2, mtp=True)
    parts = ("weights", "scales", "plain", "cache", "workspace", "process")
    assert found["total_bytes"] == sum(found[f"{part}_bytes"] for part in parts)
    size = cost.packed_size(NANO, "i8")
    assert size.bytes == found["weights_bytes"] + found["scales_bytes"] + found["plain_bytes"]


def test_the_longest_context_is_cached_unless_said_otherwise() -> None:
    found = cost.memory(NANO, 32)
    assert found["cache_tokens"] == NANO.max_position_embeddings
    assert found["cache_bytes"] == NANO.max_position_embeddings * cost.cache_bytes_per_token(NANO, 4, mtp=True)


def test_drafting_takes_a_layer_more_of_cache_and_wider_rows() -> None:
    with_mtp, without = (cost.memory(NANO, 8, mtp=mtp) for mtp in (True, False))
    assert with_mtp["cache_bytes"] * 5 == without["cache_bytes"] * 6
    assert with_mtp["workspace_bytes"] > without["workspace_bytes"]
    assert with_mtp["weights_bytes"] == without["weights_bytes"]
    assert cost.memory(NANO, 8) == with_mtp, "an engine drafts by default where it can"
    plain = replace(NANO, num_nextn_predict_layers=0)
    assert cost.memory(plain, 8) == cost.memory(plain, 8, mtp=False)


def test_a_larger_step_works_in_more() -> None:
    sizes = [cost.workspace_bytes(SHAPES["m4b"], tokens, 2) for tokens in (1, 16, 512)]
    assert sizes == sorted(sizes) and sizes[2] > 20 * sizes[1]
