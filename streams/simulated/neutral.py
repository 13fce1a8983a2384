"""A launch's function is not touched by what happens to be open around it.

A simulated device calls functions wherever its clock is moved on: in a callback of the
loop, or in the middle of a task that asks whether an event is complete. On a device
with threads of its own they would see none of that task's context and torch modes.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["call_apart"]

T = TypeVar("T")


def call_apart(call: Callable[[], T]) -> T:
    """Make ``call`` in an empty context, with torch as a new thread would find it."""
    return next(_called(call))


def _called(call: Callable[[], T]) -> Iterator[T]:
    # The frames of an error lead back to their callers, and a failed launch keeps its error.
    # At a generator that was left they end: else whoever moved the clock would stay alive,
    # with all that he had in hand.
    yield contextvars.Context().run(_call_neutral, call)


def _call_neutral(call: Callable[[], T]) -> T:
    if _is_neutral():
        return call()
    with ExitStack() as stack:
        stack.enter_context(_no_function_modes())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        return call()


def _is_neutral() -> bool:
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 0
    )


@contextmanager
def _no_function_modes() -> Iterator[None]:
    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]  # type: ignore[no-untyped-call]  # torch's
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)  # type: ignore[no-untyped-call]  # torch's
