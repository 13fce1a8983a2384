"""Which tensor calls of torch make the host wait for a device.

One rule per function name, after what ATen's CUDA kernels do. A tensor is a device's
unless it is on the CPU; ``device="meta"`` counts, so that a test can stand in for an
accelerator on a machine without one. Rules look at the arguments only, never at values.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch

__all__ = ["waits_on"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Rule = Callable[[Args, Kwargs], str | None]

_PAGEABLE = "the way to the device (pageable memory)"
_BLOCKING = "the way to the {} (without non_blocking=True)"


def waits_on(name: str, args: Args, kwargs: Kwargs) -> str | None:
    """Say what a torch call makes the host wait for, or None if no wait is known.

    Args:
        name: the function's or method's name, ``"item"`` or ``"masked_select"``.
        args: its positional arguments, a method's tensor first.
        kwargs: its keyword arguments.

    Returns:
        The device, or the direction of a copy and why it blocks.
    """
    rule = _RULES.get(name)
    return None if rule is None else rule(args, kwargs)


def _is_on_device(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != "cpu"


def _is_on_host(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"


def _argument(args: Args, kwargs: Kwargs, position: int, keyword: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(keyword, default)


def _device_in(values: Iterable[Any]) -> str | None:
    return next((str(value.device) for value in values if _is_on_device(value)), None)


# Numbers, sizes and decisions ----------------------------------------------------


def _any_input(args: Args, kwargs: Kwargs) -> str | None:
    """The result, its size or a check of the input comes to the host."""
    return _device_in(chain(args, (kwargs[name] for name in kwargs if name != "out")))


def _number(args: Args, kwargs: Kwargs) -> str | None:
    """A device tensor stands where the host needs a number."""
    return _any_input(args[1:], kwargs)


def _fill(args: Args, kwargs: Kwargs) -> str | None:
    """The value becomes a kernel argument: a device tensor is fetched for it."""
    return _device_in([kwargs.get("value", *args[-1:])])


def _multinomial(args: Args, kwargs: Kwargs) -> str | None:
    """Checks the probabilities on the host, except when it draws many with replacement."""
    num_samples = _argument(args, kwargs, 1, "num_samples", 1)
    replacement = _argument(args, kwargs, 2, "replacement", False)
    return None if replacement and num_samples > 1 else _any_input(args, kwargs)


def _one_hot(args: Args, kwargs: Kwargs) -> str | None:
    """Looks for the largest class unless it is told."""
    return _any_input(args, kwargs) if _argument(args, kwargs, 1, "num_classes", -1) == -1 else None


def _repeat_interleave(args: Args, kwargs: Kwargs) -> str | None:
    """Adds up the repeats unless it is told."""
    if kwargs.get("output_size") is not None:
        return None
    return _device_in([_argument(args, kwargs, 1, "repeats", *args[:1])])


def _where(args: Args, kwargs: Kwargs) -> str | None:
    """With one argument it is ``nonzero``."""
    return _any_input(args, kwargs) if len(args) + len(kwargs) == 1 else None


# Copies --------------------------------------------------------------------------


def _copy(source: Any, to_host: bool, non_blocking: bool, pageable: Any) -> str | None:
    """Asynchronous only with ``non_blocking``, and if the host's side is pinned.

    ``pageable`` is the host's tensor, None if torch allocates a pinned one itself.
    """
    if _is_on_host(source) is to_host:
        return None
    if not non_blocking:
        return _BLOCKING.format("host" if to_host else "device")
    if pageable is None or pageable.is_pinned():
        return None
    return "the way to the host (pageable memory)" if to_host else _PAGEABLE


def _is_non_blocking(rest: Args, kwargs: Kwargs) -> bool:
    """Of a conversion's arguments, the first flag is ``non_blocking``."""
    flags = (value for value in rest if isinstance(value, bool))
    return bool(kwargs.get("non_blocking", next(flags, False)))


def _to(args: Args, kwargs: Kwargs) -> str | None:
    source, *rest = args
    target = kwargs.get("device", kwargs.get("other", rest[0] if rest else None))
    if isinstance(target, torch.Tensor):
        target = target.device
    if isinstance(target, bool) or not isinstance(target, str | torch.device | int):
        return None  # only another dtype or memory format
    to_host = not isinstance(target, int) and torch.device(target).type == "cpu"
    non_blocking = _is_non_blocking(tuple(rest), kwargs)
    return _copy(source, to_host, non_blocking, None if to_host else source)


def _to_accelerator(args: Args, kwargs: Kwargs) -> str | None:
    return _copy(args[0], False, _is_non_blocking(args[1:], kwargs), args[0])


def _copy_into(args: Args, kwargs: Kwargs) -> str | None:
    target, source = args[0], _argument(args, kwargs, 1, "src")
    to_host = _is_on_host(target)
    non_blocking = bool(_argument(args, kwargs, 2, "non_blocking", False))
    return _copy(source, to_host, non_blocking, target if to_host else source)


def _from_data(args: Args, kwargs: Kwargs) -> str | None:
    """Fills pageable host memory and copies it; ``torch.tensor`` has no non_blocking."""
    data, device = _argument(args, kwargs, 0, "data"), kwargs.get("device")
    if isinstance(data, torch.Tensor):
        return None if device is None else _to((data, device), {})
    target = torch.get_default_device() if device is None else torch.device(device)
    items = data if isinstance(data, list | tuple) else ()
    return _device_in(items) or (None if target.type == "cpu" else _PAGEABLE)


def _new_tensor(args: Args, kwargs: Kwargs) -> str | None:
    device = kwargs.get("device") or args[0].device
    return _from_data(args[1:], {**kwargs, "device": device})


# Indexing ------------------------------------------------------------------------


def _is_mask(index: object) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _index(tensor: Any, part: Any) -> str | None:
    """Counts the hits of a mask, fetches a bound, or brings the index over."""
    if isinstance(part, slice):
        return _device_in((part.start, part.stop, part.step))
    if _is_on_device(part):
        return str(part.device) if _is_mask(part) or part.dim() == 0 else None
    brings_data = isinstance(part, list | range) or getattr(part, "ndim", 0) > 0
    return _PAGEABLE if brings_data and _is_on_device(tensor) else None


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _get_item(args: Args, _: Kwargs) -> str | None:
    return next(filter(None, (_index(args[0], part) for part in _parts(args[1]))), None)


def _set_item(args: Args, kwargs: Kwargs) -> str | None:
    tensor, parts = args[0], _parts(args[1])
    value = args[2]
    picks = [part for part in parts if isinstance(part, torch.Tensor)]
    is_number = not isinstance(value, torch.Tensor) or (_is_on_host(value) and value.numel() == 1)
    if is_number and len(picks) == 1 and _is_mask(picks[0]) and _is_on_device(picks[0]):
        return None  # becomes masked_fill
    if (where := _get_item((tensor, parts), kwargs)) is not None:
        return where
    brings_value = bool(picks) if is_number else _is_on_host(value)
    return _PAGEABLE if brings_value and _is_on_device(tensor) else None


def _index_put(args: Args, kwargs: Kwargs) -> str | None:
    indices = tuple(_argument(args, kwargs, 1, "indices"))
    return _set_item((args[0], indices, _argument(args, kwargs, 2, "values")), {})


# values, and decisions by value
_VALUES = (
    "item tolist cpu numpy __array__ __bool__ __int__ __float__ __complex__ __index__ "
    "__contains__ __repr__ __format__ is_nonzero equal allclose"
)
# results whose size depends on values
_SIZES = "nonzero argwhere masked_select unique unique_consecutive bincount combinations"
# inputs that are checked on the host
_CHECKED = (
    "cholesky inverse svd linalg_cholesky linalg_inv linalg_solve linalg_eig "
    "linalg_eigvals linalg_eigh linalg_eigvalsh linalg_svd"
)
# host numbers that may be given as tensors
_FACTORIES = "arange empty eye full linspace ones rand randint randn scalar_tensor zeros"
_METHODS = (
    "view reshape expand split narrow select repeat tile "
    "new_empty new_full new_ones new_zeros full_like"
)

_RULES: dict[str, Rule] = {
    **dict.fromkeys(f"{_VALUES} {_SIZES} {_CHECKED} {_FACTORIES}".split(), _any_input),
    **dict.fromkeys(_METHODS.split(), _number),
    **dict.fromkeys(["masked_fill", "masked_fill_", "index_fill", "index_fill_"], _fill),
    **dict.fromkeys(["tensor", "as_tensor", "asarray"], _from_data),
    **dict.fromkeys(["cuda", "xpu"], _to_accelerator),
    **dict.fromkeys(["index_put", "index_put_"], _index_put),
    "__getitem__": _get_item,
    "__setitem__": _set_item,
    "copy_": _copy_into,
    "multinomial": _multinomial,
    "new_tensor": _new_tensor,
    "one_hot": _one_hot,
    "repeat_interleave": _repeat_interleave,
    "to": _to,
    "where": _where,
}
