"""Copies between host and device that never make the host wait."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from streams.device import Device
from streams.launch import Launch
from streams.stream import Stream

__all__ = ["copy_to_host", "host_copy", "to_device"]

T = TypeVar("T")


@overload
def copy_to_host(stream: Stream, value: Launch[T]) -> Launch[T]: ...
@overload
def copy_to_host(stream: Stream, value: T) -> Launch[T]: ...


def copy_to_host(stream: Stream, value: Any) -> Launch[Any]:
    """Enqueue a copy of device tensors to host memory; does not wait.

    Enqueues on ``stream``, behind the launches that ``value`` is or holds. A bare tensor
    must be complete, or its writer ordered before by ``stream.wait_event``. The source
    stays alive until the copy has completed, whoever is cancelled meanwhile. Each
    copy has fresh memory of its own (page-locked where the device needs it, from
    torch's pool), so copies in flight cannot overwrite each other. The first copy of
    a size, by powers of two, makes the pool grow, which can take the host milliseconds.

    Args:
        stream: where the copy runs.
        value: a tensor, a launch that gives one, or tuples, named tuples, lists and
            dicts of them; other leaves pass through.

    Returns:
        A launch; awaiting it gives the same structure with CPU tensors that the
        caller owns, contiguous and detached. Dicts come back as plain dicts.

    Raises:
        DeviceClosedError: the device is closed.
        DeviceLostError: the device failed for good.
        Exception: when awaited, what a launch in ``value`` raised.
    """
    pin = stream.device.capabilities.pinned_memory
    return stream.launch(host_copy, value, pin, reads=_tensors(value))


def host_copy(tree: T, pin: bool) -> T:
    """Issue the copies of ``copy_to_host`` on the current stream."""
    copied: T = _map_tensors(lambda tensor: _host_copy(tensor, pin), tree)
    return copied


def _host_copy(source: Tensor, pin: bool) -> Tensor:
    # device= is stated because the application may have set a default device.
    host = torch.empty(
        source.shape,
        dtype=source.dtype,
        device="cpu",
        pin_memory=pin and source.device.type != "cpu",
    )
    return host.copy_(source.detach(), non_blocking=True)


def to_device(device: Device, host: Tensor) -> Tensor:
    """Issue a copy of a small host tensor to ``device`` on the current stream.

    For use inside the function of a launch. ``host`` must not change until that
    launch has completed; a tensor that is on the device already is returned as it is.
    """
    if host.device.type == device.torch_device.type:
        return host
    if device.capabilities.pinned_memory:
        # A pageable source would be read at some later time, or block the host until it is.
        host = host.pin_memory()
    return host.to(device.torch_device, non_blocking=True)


def _map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Rebuild tuples, named tuples, lists and dicts with ``fn`` of each tensor in them."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(fn, item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_map_tensors(fn, item) for item in tree]
    if isinstance(tree, tuple):
        items = [_map_tensors(fn, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _tensors(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
