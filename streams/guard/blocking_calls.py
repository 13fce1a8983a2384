"""Where torch's own blocking calls are seen, for the host-block guard.

Known to wait and not seen: the methods of ``torch.Stream`` and ``torch.Event``, which
are immutable C types; a ``synchronize`` that was imported by name before the first
guard; operators of extensions; and what a C++ operator does inside, beyond the rules
of ``tensor_waits.py``.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from streams.current import current_stream
from streams.errors import TorchModeOpenError
from streams.guard.tensor_waits import waits_on
from streams.monitor import told

__all__ = ["PatchedVerbs", "TensorWatch"]

Report = Callable[[str], None]


class PatchedVerbs:
    """torch's ``synchronize`` functions, made to report first while anybody watches.

    Entered once per watcher, on any thread; the first patches, the last restores.

    Args:
        report: told what is about to block, on the caller's thread; may raise.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        # Guards the two below: guards on several threads share the patches.
        self._lock = threading.Lock()
        self._num_watchers = 0
        self._patches: list[tuple[Any, FunctionType, FunctionType]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._num_watchers += 1
            if self._num_watchers == 1:
                self._patches = [self._patch(owner, label) for owner, label in _owners()]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_watchers -= 1
            if self._num_watchers == 0:
                for owner, original, patched in self._patches:
                    # Somebody else's patch on top of ours is not ours to take away;
                    # what it reaches through ours is reported to nobody any more.
                    if vars(owner)["synchronize"] is patched:
                        owner.synchronize = original
                self._patches = []

    def _patch(self, owner: Any, label: str) -> tuple[Any, FunctionType, FunctionType]:
        original = vars(owner)["synchronize"]

        @functools.wraps(original)
        def synchronize(*args: Any, **kwargs: Any) -> Any:
            self._report(f"{label}.synchronize()")
            return original(*args, **kwargs)

        owner.synchronize = synchronize
        return owner, original, synchronize  # type: ignore[return-value]  # a wrapped function is one


def _owners() -> Iterator[tuple[Any, str]]:
    """Yield every module and class with a ``synchronize`` that Python may replace."""
    accelerator = torch.accelerator.current_accelerator()
    kinds = {"cuda", "xpu", "mps", "mtia"} | ({accelerator.type} if accelerator else set())
    places = ["accelerator", *(f"{kind}{part}" for kind in sorted(kinds) for part in _PARTS)]
    for place in places:
        owner: Any = torch
        for name in place.split("."):
            owner = getattr(owner, name, None)
        if isinstance(getattr(owner, "__dict__", {}).get("synchronize"), FunctionType):
            yield owner, f"torch.{place}"


_PARTS = ("", ".Stream", ".Event", ".event.Event")


class TensorWatch(TorchFunctionMode):
    """Reports tensor calls that make the host wait, while entered on this thread.

    torch keeps modes per thread: hold it while one coroutine runs, never across an
    ``await``; ``streams.current.resume_within`` does that.

    Args:
        report: told what is about to block; may raise.
    """

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._gradients = _gradient_mode()

    def __enter__(self) -> Self:
        """Enter the mode, and note which of torch's own are in force."""
        self._gradients = _gradient_mode()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's, bare
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Report ``func`` if it is known to wait, then call it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if (where := waits_on(name, args, kwargs)) is not None:
            self._report(f"{name}() on {where}")
        return func(*args, **kwargs)

    def __exit__(self, *_: object) -> None:
        """Leave the mode, whatever was left open above it.

        Raises:
            TorchModeOpenError: something was. A coroutine that suspends inside a torch
                mode leaves it to whatever runs next on this thread.
        """
        above = []
        while (mode := _pop_mode()) is not self:  # type: ignore[no-untyped-call]  # torch's, bare
            above.append(mode)
        for mode in reversed(above):
            _push_mode(mode)  # type: ignore[no-untyped-call]  # torch's, bare
        if above:
            raise _mode_open(type(above[0]).__name__)
        if self._gradients != (now := _gradient_mode()):
            raise _mode_open(now)


def _gradient_mode() -> str:
    if torch.is_inference_mode_enabled():
        return "inference_mode"
    return "enable_grad" if torch.is_grad_enabled() else "no_grad"


def _mode_open(mode: str) -> TorchModeOpenError:
    stream = current_stream()
    error = TorchModeOpenError(
        f"a coroutine suspended inside torch mode {mode}, which would act on other tasks, since "
        "torch keeps modes per thread; close it before the await"
    )
    return told(None if stream is None else stream.device, "torch_mode", error)
