"""How long memory is kept."""

import gc
import threading
import weakref

import torch

from streams.accelerator import AcceleratorDevice
from tests.streams.accelerator.tools import stream_of
from tests.streams.fake_torch import FakeTorch


def test_memory_stays_bounded_when_nobody_polls(fake: FakeTorch, device: AcceleratorDevice) -> None:
    """Without any await, what finished is let go from time to time, with few queries."""
    stream = stream_of(device, "s")
    refs, most = [], 0
    for _ in range(1000):
        tensor = torch.ones(1)
        refs.append(weakref.ref(tensor))
        stream.launch(id, tensor)
        del tensor
        most = max(most, stream._issued - stream.completed)
    assert most <= 32
    assert sum(ref() is not None for ref in refs) <= 32
    assert len(fake.named("query")) <= 500


def test_memory_in_flight_is_kept_however_long_it_takes(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """What the device has not finished is not let go, and looking costs ever less."""
    stream = stream_of(device, "s")
    stream.launch(fake.hold)
    refs = []
    for _ in range(1000):
        tensor = torch.ones(1)
        refs.append(weakref.ref(tensor))
        stream.launch(id, tensor)
        del tensor
    gc.collect()
    assert all(ref() is not None for ref in refs)
    assert len(fake.named("query")) <= 60


def test_close_waits_for_the_device_before_it_lets_memory_go(
    fake: FakeTorch, device: AcceleratorDevice
) -> None:
    """Issued work reads its arguments until it ends, so ``close`` blocks for it."""
    stream = stream_of(device, "s")
    stream.launch(fake.hold)
    tensor = torch.ones(1)
    ref = weakref.ref(tensor)
    launch = stream.launch(id, tensor)
    del tensor
    closer = threading.Thread(target=device.close)
    closer.start()
    while not fake.named("synchronize stream"):
        pass
    assert ref() is not None
    fake.release_holds()
    closer.join()
    assert ref() is None
    assert launch.query()
