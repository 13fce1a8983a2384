"""The one thread that makes a device's native calls, for launches that take long to issue."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Issuer"]


class Issuer:
    """Makes calls one after the other, in the order in which they were put.

    Not a daemon: a daemon inside torch at exit aborts the process.

    Args:
        name: names the thread.
        failed: told, on the thread, what a call raised; no call should.

    Attributes:
        is_stopping: whether ``stop`` was called.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], object]) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._failed = failed
        self.is_stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=False)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the issuer's thread."""
        return threading.current_thread() is self._thread

    def put(self, call: Callable[[], object]) -> None:
        """Make ``call`` after all that were put before."""
        self._calls.put(call)

    def flush(self) -> None:
        """Block until all that was put before is made; a no-op on the issuer's own thread."""
        if self.is_current or not self._thread.is_alive():
            return
        made = threading.Event()
        self.put(made.set)
        # A thread that is being stopped drops the call instead of making it.
        while not made.wait(timeout=0.05) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Let the call in progress end, make no other, and wait for the thread."""
        self.is_stopping = True
        self._calls.put(None)
        if not self.is_current:
            self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self.is_stopping:
            try:
                call()
            except BaseException as error:  # a monitor's, or ours: the thread must live on
                self._failed(error)
            del call  # or what it refers to lives until the next one comes
