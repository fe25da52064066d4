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
