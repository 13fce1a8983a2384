"""Native streams that no two open streams share."""

import pytest
import torch

from streams.accelerator import AcceleratorDevice
from streams.errors import StreamAliasError
from tests.streams.accelerator.tools import handle_of, stream_of
from tests.streams.fake_torch import FakeTorch


def test_aliased_handles_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that deals a handle twice, or the default stream, is asked for another."""
    fake = FakeTorch(handles=[1, 2, 7, 7, 7, 0, 8, 7, 8, 9, 10])
    fake.install(monkeypatch)
    with AcceleratorDevice("cuda", 0, issue="inline", timing=False) as device:
        handles = [handle_of(stream_of(device, name)) for name in "abc"]
    assert handles == [7, 8, 9]


def test_stream_current_for_torch_is_not_taken(fake: FakeTorch) -> None:
    """The stream that the user works on is no stream for us."""
    theirs = fake.cuda.Stream(torch.device("cuda", 0))
    fake.set_current(theirs)
    with AcceleratorDevice("cuda", 0, issue="inline", timing=False) as device:
        handles = {handle_of(stream_of(device, f"s{i}")) for i in range(31)}
        assert len(handles - {theirs.cuda_stream}) == 31
        with pytest.raises(StreamAliasError):
            device.stream("theirs is the last of the pool")


def test_exhausted_pool_raises_with_the_counts(fake: FakeTorch) -> None:
    """64 redraws, then an error that says how many are open; another priority still works."""
    with AcceleratorDevice("cuda", 0, issue="inline", timing=False) as device:
        for index in range(32):
            device.stream(f"s{index}")
        dealt = len(fake.all_streams)
        with pytest.raises(StreamAliasError, match=r"65 draws for stream 'one too many'.* 32 are"):
            device.stream("one too many")
        assert len(fake.all_streams) - dealt == 65
        assert len(device.streams) == 32
        device.stream("urgent", priority=-1)


def test_two_devices_on_one_accelerator_share_no_handle(fake: FakeTorch) -> None:
    """Distinctness counts for the accelerator, not for the device object; closing gives back."""
    with AcceleratorDevice("cuda", 0, issue="inline", timing=False) as one:
        with AcceleratorDevice("cuda", 0, issue="inline", timing=False) as two:
            streams = [stream_of(d, f"s{i}") for i in range(16) for d in (one, two)]
            assert len({handle_of(stream) for stream in streams}) == 32
            with pytest.raises(StreamAliasError):
                one.stream("more")
        streams[0].close()
        for index in range(17):
            one.stream(f"again{index}")
