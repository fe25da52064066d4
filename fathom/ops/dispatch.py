"""The one table (op, device, needs grad) -> implementation, and who runs packed models.

A backend is a module with `load() -> dict[str, Callable]`, inference only, that answers ops for one device type; it
raises when it cannot. What it does not answer the reference does. On a CPU no backend answers op by op: there a packed
model (fathom/ops/packed.py) runs whole layers in native kernels. Every fall to the reference is logged once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from fathom.config import OPS_CHOICES, ops_choice
from fathom.errors import ConfigError
from fathom.ops import reference

if TYPE_CHECKING:
    from fathom.ops.cpu.native import Library

log = logging.getLogger(__name__)

OPS = (
    "rms_norm", "linear", "rotate", "attention", "append_latent", "gather_latent", "mla_decode", "swiglu", "route",
    "experts", "cross_entropy",
)  # fmt: skip
PACKED = "packed model"  # the row of `describe()` for whole layers in native kernels
BACKENDS: dict[str, str] = {}  # device type -> module

_forced: list[str] = []  # a stack: `use()` nests


@contextmanager
def use(choice: str) -> Iterator[None]:
    """Force a backend inside a `with` block: "auto", "reference" or "cpu"."""
    if choice not in OPS_CHOICES:
        raise ConfigError(f"ops choice is {choice!r}; it must be one of {', '.join(OPS_CHOICES)}.")
    _forced.append(choice)
    try:
        yield
    finally:
        _forced.pop()


def _choice() -> str:
    return _forced[-1] if _forced else _environment_choice()


@cache
def _environment_choice() -> str:
    return ops_choice()


@cache
def _backend(device: str) -> tuple[dict[str, Callable[..., Any]], str]:
    """Implementations for a device type, and why there are none ("" if there are)."""
    module = BACKENDS.get(device)
    if module is None:
        return {}, "plain torch; packed models have kernels of their own" if device == "cpu" else "no native ops yet"
    try:
        return importlib.import_module(module).load(), ""
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("ops: reference on %s (%s)", device, error)
        return {}, str(error)


def pick(op: str, like: torch.Tensor, *weights: torch.Tensor) -> Callable[..., Any]:
    """The implementation of `op` for tensors such as `like`; one with a gradient if any of the tensors needs it."""
    grad = torch.is_grad_enabled() and (like.requires_grad or any(weight.requires_grad for weight in weights))
    if not grad and _choice() != "reference":
        native = _backend(like.device.type)[0].get(op)
        if native is not None:
            return native
    return getattr(reference, op)


@cache
def _load_library() -> tuple[Library | None, str]:
    from fathom.ops.cpu import native

    try:
        return native.load(), ""
    except (OSError, RuntimeError) as error:
        log.warning("no native kernels (%s): plain torch computes, one token at a time and many times slower", error)
        return None, str(error)


def library() -> Library | None:
    """The native kernels for this processor; None, said once, if there are none or the reference was asked for."""
    return None if _choice() == "reference" else _load_library()[0]


def describe(device: str = "cpu") -> list[dict[str, str]]:
    """One row per op, and one for packed models: who answers for inference on `device`, and why not a native one."""
    asked = "reference was asked for"
    natives, why = ({}, asked) if _choice() == "reference" else _backend(device)
    rows = []
    for op in OPS:
        native = op in natives
        reason = "" if native else why or "the reference is as fast or not on the hot path"
        rows.append({"op": op, "device": device, "answers": device if native else "reference", "why": reason})
    if device == "cpu":
        found = library()
        why = "" if found else asked if _choice() == "reference" else _load_library()[1]
        rows.append({"op": PACKED, "device": device, "answers": found.name if found else "reference", "why": why})
    return rows
