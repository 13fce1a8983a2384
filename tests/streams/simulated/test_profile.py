"""How long work takes, and which device a profile resembles."""

import dataclasses
from typing import Any

import pytest
import torch

from streams.device import Platform, open_device
from streams.simulated import PROFILES, SimDevice, SimProfile
from tests.streams.simulated.tools import FIXED, Spans, copy_of, nothing, tagged


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_runs(profile: str) -> None:
    """Each profile by name gives a device of its platform that works."""
    with open_device("sim", seed=5, profile=profile) as device:
        assert device.platform is PROFILES[profile].platform
        streams = [device.stream(str(number)) for number in range(4)]
        launches = [stream.launch(torch.add, 1, 1) for stream in streams for _ in range(3)]
        device.synchronize()
        assert [launch.result() for launch in launches] == [2] * 12


def test_unknown_profile_is_refused() -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match=r"'rcom'.*'friendly', 'random', .*'rocm'"):
        open_device("sim", profile="rcom")


@pytest.mark.parametrize("options", [{"seed": 1}, {"profile": "rocm"}])
def test_other_devices_have_no_seed(options: dict[str, Any]) -> None:
    """An option that would have no effect is refused."""
    with pytest.raises(ValueError, match="options of device 'sim', not of 'cpu'"):
        open_device("cpu", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"forward_us": (2, 1)},
        {"copy_us": (0, 1)},
        {"other_us": (1, float("nan"))},
        {"query_us": -1},
        {"hardware_queues": 0},
    ],
)
def test_impossible_profile_is_refused(options: dict[str, Any]) -> None:
    """Durations are positive ranges, and there is a queue."""
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*'mine'"):
        SimProfile("mine", **options)


def test_durations_are_by_stage_and_copy() -> None:
    """Each launch draws from the range of its stage, copies from their own, and inside of it."""
    profile = SimProfile("mine", (1, 2), (10, 20), (100, 200), (1000, 2000), (5000, 9000))
    ranges = {"prepare": 1, "forward": 10, "publish": 100, "none": 1000, "host_copy": 5000}

    def host_copy() -> None: ...

    for seed in range(20):
        spans = Spans()
        with open_device("sim", seed=seed, profile=profile) as device:
            device.add_monitor(spans)
            for stage in ("prepare", "forward", "publish"):
                with tagged(stage):
                    device.stream(stage).launch(nothing)
            device.stream("none").launch(nothing)
            with tagged("forward"):
                device.stream("host_copy").launch(host_copy)
            device.synchronize()
        for span in spans.spans:
            took_us = (span.end_s - span.start_s) * 1e6
            assert ranges[span.stream] * 0.99 <= took_us <= 2.01 * ranges[span.stream]


def test_random_profile_spreads_durations() -> None:
    """Short and long launches are about as likely."""
    spans = Spans()
    with open_device("sim", seed=9) as device:
        device.add_monitor(spans)
        for _ in range(200):
            device.stream("s" if not device.streams else f"s{len(device.streams)}").launch(nothing)
        device.synchronize()
    took_us = sorted((span.end_s - span.start_s) * 1e6 for span in spans.spans)
    assert took_us[0] < 15
    assert took_us[-1] > 2000
    assert 50 < took_us[100] < 500


def test_shared_hardware_queue_serialises_falsely() -> None:
    """Streams beyond the number of queues wait for each other without any gate."""
    for queues, expected in ((None, (0, 10)), (2, (10, 20))):
        spans = Spans()
        profile = dataclasses.replace(FIXED, hardware_queues=queues)
        with open_device("sim", profile=profile) as device:
            device.add_monitor(spans)
            one, two, three = (device.stream(name) for name in ("one", "two", "three"))
            one.launch(torch.neg, torch.zeros(1))
            two.launch(torch.abs, torch.zeros(1))
            three.launch(copy_of, torch.zeros(1))
            device.synchronize()
        assert spans.times_us == {"neg": (0, 10), "abs": (0, 10), "copy_of": expected}


def test_closed_stream_frees_its_shared_queue() -> None:
    """Work of other streams behind a closed one runs."""
    with open_device("sim", profile=dataclasses.replace(FIXED, hardware_queues=1)) as device:
        one, two = device.stream("one"), device.stream("two")
        for _ in range(3):
            one.launch(nothing)
        behind = two.launch(nothing)
        one.close()
        two.synchronize()
        assert behind.query()


def test_rocm_is_slow_to_answer() -> None:
    """A question costs 400 us there, and policies see the platform."""
    with open_device("sim", profile="rocm") as device:
        assert isinstance(device, SimDevice)
        assert device.platform is Platform.ROCM
        stream = device.stream("s")
        stream.launch(nothing)
        before_ns = device.timeline.now_ns
        stream.advance(1)
        assert device.timeline.now_ns - before_ns == 400_000
