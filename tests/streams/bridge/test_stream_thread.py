"""A thread that blocks for a stream: order, errors, captures, and its end."""

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from streams.bridge import stream_thread
from streams.bridge.stream_thread import StreamThread
from tests.streams.polled_device import PolledDevice, PolledStream


class _Watched:
    """A thread on a stream of three pieces of work, and what it reported."""

    def __init__(self) -> None:
        self.device = PolledDevice()
        self.stream = self.device.polled()
        self.events = [self.stream.enqueue() for _ in range(3)]
        self.reports: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        self.thread = StreamThread(self.stream, lambda *report: self.reports.put(report))

    def next_report(self) -> tuple[int, BaseException | None]:
        """Block until the thread reports."""
        return self.reports.get(timeout=10)

    def wait_until_taken(self) -> None:
        """Block until the thread has taken what it was given."""
        give_up_s = time.monotonic() + 10
        while not self.thread._inbox.empty():
            assert time.monotonic() < give_up_s

    def join(self) -> None:
        """Block until the thread has ended."""
        assert self.thread._thread is not None
        self.thread._thread.join(timeout=10)
        assert not self.thread.is_alive


@pytest.fixture
def watched() -> Iterator[_Watched]:
    """A watched stream, whose device is closed in the end."""
    watched = _Watched()
    yield watched
    watched.thread.stop()
    watched.device.close()
    watched.device.is_capturing = False


def test_numbers_are_reported_when_they_are_done(watched: _Watched) -> None:
    """Each number is reported once the stream has reached it."""
    numbers = [event.number for event in watched.events]
    for number in numbers:
        watched.thread.watch(number)
    for event in watched.events:
        watched.stream.wait_until_blocked(event.number)
        assert watched.reports.empty()
        watched.stream.finish(event)
        assert watched.next_report() == (event.number, None)
    assert watched.stream.blocked_for == numbers


def test_lower_number_goes_before_what_waits(watched: _Watched) -> None:
    """Numbers that came in another order are blocked for from the lowest on."""
    first, second, third = watched.events
    watched.thread.watch(first.number)
    watched.stream.wait_until_blocked(first.number)
    watched.thread.watch(third.number)
    watched.thread.watch(second.number)
    watched.stream.finish(third)
    assert [watched.next_report()[0] for _ in range(3)] == [e.number for e in watched.events]


def test_number_below_the_one_blocked_for_is_not_promised(watched: _Watched) -> None:
    """Who asks for less than the thread is blocked for has to look for itself."""
    first, second, _ = watched.events
    assert watched.thread.watch(second.number)
    watched.stream.wait_until_blocked(second.number)
    assert not watched.thread.watch(first.number)
    assert not watched.thread.watch(first.number)
    watched.stream.finish(second)
    assert sorted(watched.next_report()[0] for _ in range(2)) == [first.number, second.number]


class _LateMail:
    """An inbox into which a number falls just before the thread looks the second time."""

    def __init__(self, inbox: "queue.SimpleQueue[int | None]", number: int) -> None:
        self._inbox = inbox
        self._number: int | None = number

    def empty(self) -> bool:
        """Look; the first time that there is nothing, put the number in for the next."""
        if not self._inbox.empty():
            return False
        if self._number is not None:
            number, self._number = self._number, None
            self._inbox.put(number)
        return True

    def get(self, timeout: float | None = None) -> int | None:
        """Take a number."""
        return self._inbox.get(timeout=timeout)


def test_lower_number_that_comes_at_the_last_moment_goes_first(watched: _Watched) -> None:
    """Between choosing a number and blocking for it the thread looks once more."""
    first, second, _ = watched.events
    inbox = watched.thread._inbox
    inbox.put(second.number)
    watched.thread._inbox = _LateMail(inbox, first.number)  # type: ignore[assignment]  # a stand-in
    watched.thread._start()
    watched.stream.wait_until_blocked(first.number)
    assert watched.stream.blocked_for == [first.number]
    watched.thread._inbox = inbox
    watched.stream.finish(second)


def test_asking_again_is_asking_once_until_it_was_reported(watched: _Watched) -> None:
    """A number that is awaited again and again does not pile up."""
    first, second, _ = watched.events
    for _ in range(5):
        watched.thread.watch(first.number)
    watched.thread.watch(second.number)
    watched.stream.finish(second)
    assert [watched.next_report()[0] for _ in range(2)] == [first.number, second.number]
    watched.thread.reported(first.number)
    watched.thread.watch(first.number)
    assert watched.next_report() == (first.number, None)


@pytest.mark.parametrize("error", [ValueError("driver"), SystemExit(3)])
def test_what_blocking_raises_is_reported(watched: _Watched, error: BaseException) -> None:
    """The thread survives, whatever the driver raises, and goes on."""
    first, second, _ = watched.events
    watched.thread.watch(first.number)
    watched.stream.wait_until_blocked(first.number)
    watched.stream.fail_blocked(error)
    assert watched.next_report() == (first.number, error)
    watched.stream.block_error = None
    watched.thread.watch(second.number)
    watched.stream.finish(second)
    assert watched.next_report() == (second.number, None)


def test_thread_does_not_enter_the_driver_while_a_capture_is_open(watched: _Watched) -> None:
    """A number that comes during a capture is blocked for when it is over."""
    watched.device.is_capturing = True
    for event in watched.events[:2]:
        watched.thread.watch(event.number)
        watched.wait_until_taken()  # the second time after it has seen the open capture
    assert watched.stream.blocked_for == []
    watched.device.is_capturing = False
    watched.stream.wait_until_blocked(watched.events[0].number)


def test_idle_thread_ends_and_comes_back_for_more(
    watched: _Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without work for a while there is no thread; the next number starts another."""
    monkeypatch.setattr(stream_thread, "_IDLE_S", 0.01)
    for event in watched.events[:2]:
        watched.stream.finish(event)
        assert watched.thread.watch(event.number)
        assert watched.next_report() == (event.number, None)
        watched.join()
        assert not watched.thread.is_working
    assert "ended" in repr(watched.thread)


def test_waiting_thread_ends_at_stop(watched: _Watched) -> None:
    """A thread that has nothing to do ends at once."""
    watched.stream.finish(watched.events[0])
    watched.thread.watch(watched.events[0].number)
    watched.next_report()
    watched.thread.stop()
    watched.join()


def test_blocked_thread_ends_when_the_device_is_closed(watched: _Watched) -> None:
    """Nothing interrupts a driver, but a closed device lets go, and nothing else is begun."""
    first, second, _ = watched.events
    watched.thread.watch(first.number)
    watched.thread.watch(second.number)
    watched.stream.wait_until_blocked(first.number)
    watched.thread.stop()
    assert watched.thread.is_alive
    watched.device.close()
    watched.join()
    assert watched.stream.blocked_for == [first.number]


def test_forgotten_numbers_are_not_blocked_for(watched: _Watched) -> None:
    """When somebody else looks after a stream again, the thread leaves it alone."""
    first, second, third = watched.events
    watched.thread.watch(first.number)
    watched.thread.watch(second.number)
    watched.stream.wait_until_blocked(first.number)
    watched.thread.forget()
    watched.thread.watch(third.number)
    watched.stream.finish(first)
    watched.stream.wait_until_blocked(third.number)
    assert watched.stream.blocked_for == [first.number, third.number]


def test_thread_that_cannot_be_started_is_tried_again(
    watched: _Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told that the system has no thread left; the next one may be luckier."""
    number = watched.events[0].number

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            watched.thread.watch(number)
    assert not watched.thread.is_working
    assert watched.thread.watch(number)
    watched.stream.wait_until_blocked(number)
    assert f"working, blocked for #{number}" in repr(watched.thread)


def test_thread_is_no_daemon(watched: _Watched) -> None:
    """A daemon inside a driver at the end of the process would bring it down."""
    watched.thread.watch(watched.events[0].number)
    assert watched.thread._thread is not None
    assert not watched.thread._thread.daemon


def test_watch_racing_with_the_end_of_an_idle_thread_is_never_lost(
    watched: _Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that comes while the thread is about to end is served all the same."""
    monkeypatch.setattr(stream_thread, "_IDLE_S", 0.0001)
    stream: PolledStream = watched.stream
    for _ in range(300):
        event = stream.enqueue()
        stream.finish(event)
        watched.thread.watch(event.number)
        assert watched.next_report() == (event.number, None)
        watched.thread.reported(event.number)
