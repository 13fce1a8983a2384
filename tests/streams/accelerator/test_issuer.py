"""The issuer thread: order, flushing, stopping."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from streams.accelerator.issuer import Issuer
from tests.streams.conformance.work import BoomError, boom


@pytest.fixture
def failures() -> list[BaseException]:
    """What calls raised."""
    return []


@pytest.fixture
def issuer(failures: list[BaseException]) -> Iterator[Issuer]:
    """An issuer, stopped afterwards."""
    issuer = Issuer("issuer-under-test", failures.append)
    yield issuer
    issuer.stop()


def test_flush_returns_behind_all_earlier_calls(issuer: Issuer) -> None:
    """After ``flush`` what was put before has been made, in order."""
    calls: list[int] = []
    for index in range(100):
        issuer.put(partial(calls.append, index))
    issuer.flush()
    assert calls == list(range(100))


def test_flush_from_a_call_does_not_wait_for_itself(issuer: Issuer) -> None:
    """A call may flush: all before it is made already."""
    seen: list[bool] = []

    def flush() -> None:
        issuer.flush()
        seen.append(issuer.is_current)

    issuer.put(flush)
    issuer.flush()
    assert seen == [True]
    assert not issuer.is_current


def test_call_that_raises_is_reported_and_the_next_one_made(
    issuer: Issuer, failures: list[BaseException]
) -> None:
    """The thread survives a bug of ours, and says so."""
    calls: list[str] = []
    issuer.put(boom)
    issuer.put(lambda: calls.append("next"))
    issuer.flush()
    assert [type(error) for error in failures] == [BoomError]
    assert calls == ["next"]


def test_stop_drops_what_has_not_begun(issuer: Issuer) -> None:
    """The call in progress ends; a flush that waits behind it ends too."""
    entered, gate, calls = threading.Event(), threading.Event(), []

    def first() -> None:
        entered.set()
        gate.wait()
        calls.append("first")

    issuer.put(first)
    issuer.put(lambda: calls.append("second"))
    entered.wait()
    flusher = threading.Thread(target=issuer.flush)
    stopper = threading.Thread(target=issuer.stop)
    flusher.start()
    stopper.start()
    while not issuer.is_stopping:
        pass
    gate.set()
    stopper.join()
    flusher.join()
    assert calls == ["first"]
    issuer.flush()
