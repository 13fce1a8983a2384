"""``bench bridge``: which rows it has, and that every way to wait works on both loops."""

import asyncio
import json
import sys
from itertools import product

import pytest

from aio_sched.bench.bridge import CONFIGS, LOOPS, POLICIES, BridgeRow, run_bridge
from aio_sched.bench.emulated import TimedDevice
from aio_sched.bench.rivals import RIVALS, BridgeRival
from aio_sched.bench.wake import Config

_FAST = Config(4, 2, 0.5)


def _run(**chosen: object) -> list[BridgeRow]:
    defaults = {"configs": [_FAST], "seconds": 0.02, "rounds": 1, "json": True}
    return run_bridge(**(defaults | chosen))  # type: ignore[arg-type]  # a test's shorthand


def test_every_policy_is_measured_on_every_loop() -> None:
    """One row for each, in the schema that machines read, and idle rows for the bridges."""
    rows = _run()
    busy = [row for row in rows if row["waiters"]]
    assert [(row["loop"], row["policy"]) for row in busy] == list(product(LOOPS, POLICIES))
    for row in busy:
        assert set(row) == {
            *("policy", "loop", "waiters", "streams", "interval_ms"),
            *("wake_us", "cpu_percent", "loop_lag_ms"),
        }
        measured = [row["loop_lag_ms"]] + ([row["wake_us"]] if row["policy"] != "none" else [])
        for figures in measured:
            assert list(figures) == ["p50", "p99", "max"]
            for value in (figures["p50"], figures["p99"], figures["max"]):
                assert value is not None
                assert value >= 0
    assert json.loads(json.dumps(rows)) == rows


def test_idle_rows_have_no_wake_latency() -> None:
    """An idle bridge wakes nobody; what it costs is measured all the same."""
    rows = _run(policies=["none", "auto", "spin", "sleep(0) each"], loops=["asyncio"])
    idle = [row for row in rows if not row["waiters"]]
    assert [row["policy"] for row in idle] == ["auto", "spin"]
    assert all(row["wake_us"] == {"p50": None, "p99": None, "max": None} for row in idle)
    assert all(row["cpu_percent"] >= 0 for row in idle)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_table_names_the_method_and_the_rows(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without json the table goes to stdout, and the progress to a terminal on stderr."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    _run(policies=["auto"], loops=["uvloop"], json=False)
    out, err = capsys.readouterr()
    assert "emulated accelerator" in out.replace("\n", " ")
    assert "4/2/0.5" in out
    assert "idle" in out
    assert ("auto" in err) == is_terminal


def test_json_keeps_stdout_clean(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asked for rows prints them."""
    _run(policies=["auto"], loops=["uvloop"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"policies": ["lazy"]}, "policy 'lazy' is unknown; use one of none, auto"),
        ({"loops": ["trio"]}, "loop 'trio' is unknown; use one of asyncio, uvloop"),
        ({"seconds": 0}, "need seconds > 0"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"jitter": -1}, "jitter >= 0"),
    ],
)
def test_unknown_choice_is_refused(chosen: dict[str, object], message: str) -> None:
    """Before anything is measured."""
    with pytest.raises(ValueError, match=message):
        _run(**chosen)


def test_load_is_read_and_written_alike() -> None:
    """What the table says can be asked for."""
    assert [str(config) for config in CONFIGS] == ["8/4/5", "64/16/20", "1024/16/5", "10000/4/1"]
    assert Config.parse("8/4/0.2") == Config(8, 4, 0.2)


@pytest.mark.parametrize("text", ["8/4", "8/4/x", "8/0/5", "-1/4/5", "8/4/0", ""])
def test_malformed_load_is_refused(text: str) -> None:
    """With the value and an example or a limit."""
    with pytest.raises(ValueError, match=f"configuration {text!r} "):
        Config.parse(text)


@pytest.mark.parametrize("name", RIVALS)
async def test_rival_waits_until_the_event_is_done(name: str) -> None:
    """What is compared with does the same job."""
    rival = RIVALS[name]()
    with TimedDevice(2.0) as device:
        streams = device.timed_streams(2)
        events = [stream.enqueue() for stream in streams for _ in range(3)]
        await asyncio.gather(*(rival.wait(event) for event in events))
        assert all(event.query() for event in events)
    await rival.close()


async def test_bridge_rival_closes_its_bridge() -> None:
    """A run leaves nothing to the next one."""
    rival = BridgeRival("thread")
    with TimedDevice(0.5) as device:
        (stream,) = device.timed_streams(1)
        await rival.wait(stream.enqueue())
    await rival.close()
