"""Declared accesses compared with what torch does: on the CPU device, where work can be watched."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streams.hazards.access import Access
from streams.hazards.byte_ranges import Range, byte_ranges
from streams.hazards.checker import HazardChecker
from streams.hazards.report import Party, Report
from streams.hazards.shadow import is_dense
from streams.hazards.site import call_site
from streams.launch import Operation
from streams.monitor import DeviceMonitor

if TYPE_CHECKING:
    from streams.device import Device

__all__ = ["AccessAudit"]


class AccessAudit(DeviceMonitor):
    """Reports what a launch does to registered memory without having declared it.

    Add it to the device beside the checker. Around each launch's function it looks at every
    torch operator, on the worker's thread, and compares the bytes of its tensors, views too,
    with the launch's ``reads`` and ``writes``. A declared write permits reads as well::

        checker = HazardChecker()
        with checker.watch(device), AccessAudit(checker).watch(device): ...

    Registered is what any launch has declared before, and what ``register`` was given. Rows
    that are picked by an index tensor cannot be told apart from outside: a launch that declares
    rows of a buffer may touch all of it. Not seen: work that is no torch operator (ctypes, raw
    kernels, numpy), custom operators that do not say what they mutate, and what a launch does
    to memory that nobody registered. An operator costs tens of microseconds more.

    Args:
        checker: gets the reports, of kind ``"undeclared"``.

    Attributes:
        num_operators: torch operators that were looked at.
    """

    def __init__(self, checker: HazardChecker) -> None:
        self.checker = checker
        self.num_operators = 0

    def register(self, *tensors: Tensor) -> None:
        """Watch memory that no launch has declared yet."""
        self.checker.register(*tensors)

    def on_launch(self, operation: Operation) -> None:
        """Wrap the function of a launch."""
        if operation.fn is not None:
            device = operation.launch.event.recorded_on().device
            operation.fn = _Audited(self, operation, device)


class _Touched(NamedTuple):
    """One tensor that an operator used."""

    tensor: Tensor
    is_write: bool


class _Audited:
    """The function of a launch, with its operators watched."""

    def __init__(self, audit: AccessAudit, operation: Operation, device: "Device") -> None:
        assert operation.fn is not None, "the caller has looked"
        self._fn: Callable[..., Any] = operation.fn
        self._audit = audit
        self._device = device
        self._writes = _Declared(operation.writes)
        self._uses = _Declared((*operation.reads, *operation.writes))
        event = operation.launch.event
        actor, site = event.recorded_on().name, call_site()
        self._parties = {
            is_write: Party(event.tag, actor, event.label, event.number, is_write, site)
            for is_write in (False, True)
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Watch(self.check):
            return self._fn(*args, **kwargs)

    def check(self, operator: str, touched: Iterable[_Touched]) -> None:
        """Compare what one operator used with what the launch declares."""
        self._audit.num_operators += 1
        checker = self._audit.checker
        for tensor, is_write in touched:
            declared = self._writes if is_write else self._uses
            name = checker.name_if_known(tensor)
            if name is not None and not declared.covers(tensor):
                verb = "writes" if is_write else "reads"
                report = Report(
                    "undeclared",
                    name,
                    later=self._parties[is_write],
                    message=f"{operator} {verb} it, and {verb[:-1] + 's='} does not say so",
                )
                checker.add(self._device, report, tensor)


class _Declared:
    """The bytes that a launch declares, by storage; None stands for all of it."""

    def __init__(self, accesses: Sequence[object]) -> None:
        self._ranges: dict[int, list[Range] | None] = {}
        for access in accesses:
            if isinstance(access, Access):
                self._ranges[access.memory.untyped_storage()._cdata] = None
            elif is_dense(access):
                ranges = self._ranges.setdefault(access.untyped_storage()._cdata, [])
                if ranges is not None:
                    ranges += byte_ranges(access)

    def covers(self, tensor: Tensor) -> bool:
        """Whether all bytes of ``tensor`` are declared."""
        declared = self._ranges.get(tensor.untyped_storage()._cdata, [])
        if declared is None:
            return True
        return all(_is_covered(part, declared) for part in byte_ranges(tensor))


def _is_covered(part: Range, declared: list[Range]) -> bool:
    """Whether declared ranges together cover all of ``part``."""
    if part in declared:
        return True
    if part.stride:
        whole = Range(part.low, part.high, 0, part.high - part.low)
        return _is_covered(whole, declared) or all(
            _is_covered(piece, declared) for piece in part.pieces()
        )
    at, former = part.low, -1
    while former < at < part.high:
        former = at
        at = max((_end_of_piece(at, each) for each in declared), default=at)
    return at >= part.high


def _end_of_piece(at: int, of: Range) -> int:
    """Return the end of the piece that holds a byte, or the byte itself if none does."""
    if not of.low <= at < of.high:
        return at
    start = at - (at - of.low) % of.stride if of.stride else of.low
    return max(at, start + of.length)


class _Watch(TorchDispatchMode):
    """Tells which tensors each operator reads and writes, by its schema."""

    def __init__(self, check: Callable[[str, Iterable[_Touched]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._check = check

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the operator, and look at what it was given and gave."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._check(str(func), tuple(_touched(func._schema, args, kwargs, result)))
        return result


def _touched(
    schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Iterator[_Touched]:
    """Give what an operator used; one that only makes a view of its argument uses nothing."""
    if schema.name in _ONLY_SHAPES or _is_view(schema, args, result):
        return
    for place, argument in enumerate(schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        is_write = argument.alias_info is not None and argument.alias_info.is_write
        yield from (_Touched(tensor, is_write) for tensor in _tensors(value))


def _is_view(schema: Any, args: tuple[Any, ...], result: Any) -> bool:
    """Whether the result is a part of an argument; ``contiguous`` and its like may also copy."""
    if not any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return False
    given = {tensor.untyped_storage()._cdata for tensor in _tensors(args)}
    return all(tensor.untyped_storage()._cdata in given for tensor in _tensors(result))


def _tensors(value: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(value):
        if is_dense(leaf) and leaf.numel():
            yield leaf


# These look at the shape of what they are given, not at its values.
_ONLY_SHAPES = frozenset(
    f"aten::{name}"
    for like in ("empty", "zeros", "ones", "full", "rand", "randn")
    for name in (f"{like}_like", f"new_{like}")
)
