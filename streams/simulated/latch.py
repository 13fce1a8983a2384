"""Work on a simulated device that lasts until somebody says so."""

import threading
from collections.abc import Callable

__all__ = ["Latch"]


class Latch:
    """Work that lasts until ``release``, which any thread may call.

    Launch it, and its stream is occupied::

        latch = Latch()
        held = stream.launch(latch)
        ...
        latch.release()

    Args:
        name: the launch's label.
    """

    def __init__(self, name: str = "latch") -> None:
        self.__name__ = name
        # Guards both: whoever releases and whoever begins to wait may be two threads.
        self._lock = threading.Lock()
        self._is_released = False
        self._waiting: list[Callable[[], object]] = []

    def __call__(self) -> None:
        """Do nothing; the device calls it after the release."""

    def __repr__(self) -> str:
        return f"<Latch {self.__name__!r} {'released' if self._is_released else 'closed'}>"

    def release(self) -> None:
        """Let the work end; doing it twice does no harm."""
        with self._lock:
            self._is_released = True
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def when_released(self, call: Callable[[], object]) -> bool:
        """Device only: make ``call`` at the release.

        Returns:
            False if it was released before, and no call will come.
        """
        with self._lock:
            if not self._is_released:
                self._waiting.append(call)
            return not self._is_released
