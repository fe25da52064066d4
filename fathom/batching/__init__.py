"""Who runs next, and on which pages of the latent cache: pure Python, decided once, before any tensor exists.

The product of this room is a Plan: one immutable message that says what the next step computes. It is what the
runner executes, what the step log records and what the planner simulates.

Imports no torch, model or engine. Read first: request.py (a request's life), then scheduler.py.
"""

from fathom.batching.limits import SchedulerConfig
from fathom.batching.pages import PagePool
from fathom.batching.plan import Plan, Row, Sampled, Sampling
from fathom.batching.request import (
    Output,
    Request,
    SamplingParams,
    ThinkingParams,
    leaves_thinking_open,
    sibling_seed,
    split_reasoning,
)
from fathom.batching.scheduler import Scheduler
from fathom.batching.steptime import StepTime

__all__ = [
    "Output",
    "PagePool",
    "Plan",
    "Request",
    "Row",
    "Sampled",
    "Sampling",
    "SamplingParams",
    "Scheduler",
    "SchedulerConfig",
    "StepTime",
    "ThinkingParams",
    "leaves_thinking_open",
    "sibling_seed",
    "split_reasoning",
]
