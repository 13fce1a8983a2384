"""Which tensor calls count as waiting; ``meta`` tensors stand in for a device's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from streams.guard.blocking_calls import TensorWatch

Call = Callable[[], object]


class Pinned(torch.Tensor):
    """A host tensor that says it is page-locked, on machines that cannot lock pages."""

    def is_pinned(self, device: Any = None) -> bool:
        """Say so."""
        return True


on_device: Any = torch.zeros(4, device="meta")
number: Any = torch.ones((), dtype=torch.int64, device="meta")  # torch's stubs take no tensor here
picks = torch.zeros(2, dtype=torch.int64, device="meta")
mask = torch.ones(4, dtype=torch.bool, device="meta")
on_host = torch.zeros(4)
pinned = torch.zeros(4).as_subclass(Pinned)

WAITING: dict[str, Call] = {
    "item": lambda: number.item(),
    "tolist": lambda: on_device.tolist(),
    "bool": lambda: bool(number),
    "int": lambda: int(number),
    "float": lambda: float(number),
    "index": lambda: [1, 2][number],
    "contains": lambda: 1 in on_device,
    "repr": lambda: repr(on_device),
    "f_string": lambda: f"{number}",
    "numpy": lambda: on_device.numpy(),
    "asarray": lambda: np.asarray(on_device),
    "equal": lambda: torch.equal(on_device, on_device),
    "allclose": lambda: torch.allclose(on_device, on_device),
    "nonzero": lambda: on_device.nonzero(),
    "where_of_one": lambda: torch.where(mask),
    "masked_select": lambda: torch.masked_select(input=on_device, mask=mask),
    "unique": lambda: torch.unique(on_device),
    "unique_method": lambda: on_device.unique(),
    "bincount": lambda: torch.bincount(picks),
    "repeat_interleave": lambda: on_device.repeat_interleave(picks),
    "repeat_interleave_alone": lambda: torch.repeat_interleave(picks),
    "multinomial": lambda: torch.multinomial(on_device, 1),
    "one_hot": lambda: torch.nn.functional.one_hot(picks),
    "linalg_inv": lambda: torch.linalg.inv(torch.eye(2, device="meta")),
    "masked_fill_by_tensor": lambda: on_device.masked_fill(mask, on_device.sum()),
    "factory_sized_by_tensor": lambda: torch.zeros(number),
    "view_sized_by_tensor": lambda: on_device.view(number),
    "split_by_tensor": lambda: torch.split(on_device, number),
    "mask_index": lambda: on_device[mask],
    "mask_index_on_host_tensor": lambda: on_host[mask],
    "mask_within_index": lambda: on_device[None, mask],
    "device_number_index": lambda: on_device[number],
    "device_bound_slice": lambda: on_device[:number],
    "list_index": lambda: on_device[[0, 1]],
    "host_tensor_index": lambda: on_device[torch.tensor([0, 1])],
    "set_mask_from_device": lambda: on_device.__setitem__(mask, on_device.sum()),
    "set_mask_from_host": lambda: on_device.__setitem__(mask, on_host),
    "set_picks_to_number": lambda: on_device.__setitem__(picks, 1.0),
    "set_slice_from_host": lambda: on_device.__setitem__(slice(None), on_host),
    "index_put_mask": lambda: on_device.index_put_((mask,), on_device),
    "cpu": lambda: on_device.cpu(),
    "to_cpu": lambda: on_device.to("cpu"),
    "to_cpu_by_keyword": lambda: on_device.to(device=torch.device("cpu"), dtype=torch.float64),
    "to_like_host_tensor": lambda: on_device.to(on_host),
    "to_device": lambda: on_host.to("meta"),
    "to_device_from_pageable": lambda: on_host.to("meta", non_blocking=True),
    "to_device_from_pinned_but_blocking": lambda: pinned.to("meta"),
    "cuda": lambda: on_host.cuda(),
    "copy_to_host": lambda: on_host.copy_(on_device),
    "copy_to_pageable_host": lambda: on_host.copy_(on_device, non_blocking=True),
    "copy_to_device": lambda: on_device.copy_(on_host),
    "copy_to_device_from_pageable": lambda: on_device.copy_(on_host, True),
    "tensor_of_list": lambda: torch.tensor([1, 2], device="meta"),
    "tensor_of_device_numbers": lambda: torch.tensor([number, number]),
    "as_tensor_of_host_tensor": lambda: torch.as_tensor(on_host, device="meta"),
    "new_tensor": lambda: on_device.new_tensor([1.0]),
}

NOT_WAITING: dict[str, Call] = {
    "host_item": lambda: on_host.sum().item(),
    "host_mask_index": lambda: on_host[on_host > 0],
    "host_nonzero": lambda: on_host.nonzero(),
    "host_unique": lambda: torch.unique(on_host),
    "host_tensor": lambda: torch.tensor([1, 2]),
    "host_copy": lambda: on_host.copy_(torch.ones(4)),
    "host_to_host": lambda: on_host.to("cpu"),
    "sum": lambda: on_device.sum(),
    "len": lambda: len(on_device),
    "iteration": lambda: list(on_device),
    "other_dtype": lambda: on_device.to(torch.float64),
    "other_dtype_non_blocking": lambda: on_device.to(torch.float64, True),
    "device_copy": lambda: on_device.copy_(on_device),
    "like_device_tensor": lambda: on_device.to(number),
    "to_cpu_non_blocking": lambda: on_device.to("cpu", non_blocking=True),
    "to_cpu_non_blocking_by_position": lambda: on_device.to("cpu", torch.float32, True),
    "to_device_from_pinned": lambda: pinned.to("meta", non_blocking=True),
    "copy_to_pinned_host": lambda: pinned.copy_(on_device, non_blocking=True),
    "copy_to_device_from_pinned": lambda: on_device.copy_(pinned, True),
    "as_tensor_of_device_tensor": lambda: torch.as_tensor(on_device),
    "factory_on_device": lambda: torch.zeros(3, device="meta"),
    "factory_into_device_tensor": lambda: torch.ones(4, out=on_device),
    "picks": lambda: on_device[picks],
    "plain_indices": lambda: on_device[0] + on_device[1:3][None, ..., -1],
    "set_mask_to_number": lambda: on_device.__setitem__(mask, 1.0),
    "set_slice_to_number": lambda: on_device.__setitem__(slice(0, 2), 1.0),
    "set_picks_from_device": lambda: on_device.__setitem__(picks, on_device[:2]),
    "masked_fill_by_number": lambda: on_device.masked_fill(mask, 0.0),
    "where_of_three": lambda: torch.where(mask, on_device, on_device),
    "repeat_interleave_with_size": lambda: on_device.repeat_interleave(
        torch.ones(4, dtype=torch.int64, device="meta"), output_size=4
    ),
    "repeat_interleave_by_number": lambda: on_device.repeat_interleave(2),
    "multinomial_many_with_replacement": lambda: torch.multinomial(on_device, 2, replacement=True),
    "one_hot_of_known_size": lambda: torch.nn.functional.one_hot(picks, 3),
}


def reported(call: Call) -> list[str]:
    """What a watch reports; a meta tensor has no data, so torch may refuse the call itself."""
    reports: list[str] = []
    with TensorWatch(reports.append):
        try:
            call()
        except (RuntimeError, TypeError, AssertionError) as error:
            if not reports and "meta tensor" not in str(error):
                raise
    return reports


@pytest.mark.parametrize("name", WAITING)
def test_call_that_waits_is_reported_once(name: str) -> None:
    """Every way to make the host wait is seen, and counted as one call."""
    assert len(reported(WAITING[name])) == 1


@pytest.mark.parametrize("name", NOT_WAITING)
def test_call_that_does_not_wait_is_not_reported(name: str) -> None:
    """What only enqueues, or never leaves the host, is nobody's business."""
    assert reported(NOT_WAITING[name]) == []


def test_tensor_under_default_device_is_reported() -> None:
    """``torch.tensor`` copies to the default device, too, without any device argument."""
    with torch.device("meta"):
        reports = reported(lambda: torch.tensor([1, 2]))
    assert reports == ["tensor() on the way to the device (pageable memory)"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("item", "item() on meta"),
        ("to_cpu", "to() on the way to the host (without non_blocking=True)"),
        ("copy_to_pageable_host", "copy_() on the way to the host (pageable memory)"),
    ],
)
def test_report_says_what_waits_and_why(call: str, words: str) -> None:
    """The words name the call, and the device or what makes the copy block."""
    assert reported(WAITING[call]) == [words]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("name", ["item", "nonzero", "mask_index", "list_index", "to_cpu"])
def test_rule_agrees_with_sync_debug_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own debug mode calls synchronizing what the rules call waiting."""
    for tensor in ("on_device", "number", "mask"):
        like = globals()[tensor]
        ones = torch.ones(like.shape, dtype=like.dtype, device="cuda")
        monkeypatch.setitem(globals(), tensor, ones)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            WAITING[name]()
    finally:
        torch.cuda.set_sync_debug_mode("default")
