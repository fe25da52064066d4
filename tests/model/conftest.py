"""Tests of packed models need the kernels; without a compiler they skip and say so, under CI they fail."""

from tests.ops.conftest import library, native

__all__ = ["library", "native"]
