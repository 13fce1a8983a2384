"""Ranks in processes of their own, for tests: start them, tell them, stop them, kill them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["RankProcesses", "free_address"]

_ROOT = Path(__file__).parents[3]


def free_address() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class RankProcesses:
    """Processes that run ``rank_program``; use it as a context manager.

    Args:
        size: how many.
        timeout_s: deadline of their exchanges.
    """

    def __init__(self, size: int, timeout_s: float) -> None:
        address = free_address()
        # Not torch's warnings: a lost peer prints its C++ stack for each attempt.
        environment = dict(
            os.environ, OMP_NUM_THREADS="1", TORCH_CPP_LOG_LEVEL="ERROR", PYTHONHASHSEED="0"
        )
        module = "tests.aio_sched.parallel.rank_program"
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(rank), str(size), address, str(timeout_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                env=environment,
                text=True,
            )
            for rank in range(size)
        ]

    def __enter__(self) -> Self:
        for rank in range(len(self.processes)):
            assert self.answer(rank) == "joined"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self.processes:
            if exc_type is not None:
                process.kill()
            with suppress(BrokenPipeError):
                self._pipe(process.stdin).close()  # no more orders: it ends
        for process in self.processes:
            with process:  # waits for it
                self._pipe(process.stdout).read()

    def tell(self, ranks: Iterable[int], command: str) -> None:
        """Send a command, and wait until each of ``ranks`` has begun with it."""
        for rank in ranks:
            pipe = self._pipe(self.processes[rank].stdin)
            pipe.write(command + "\n")
            pipe.flush()
        for rank in ranks:
            assert self.answer(rank) == "begun"

    def answer(self, rank: int) -> Any:
        """Return the next answer of a rank; the test's own time limit bounds the wait."""
        line = self._pipe(self.processes[rank].stdout).readline()
        assert line, f"rank {rank} ended with {self.processes[rank].wait()}"
        return json.loads(line)

    def ask(self, ranks: Iterable[int], command: str) -> list[Any]:
        """Send a command to all of ``ranks``, and return their answers."""
        ranks = list(ranks)
        self.tell(ranks, command)
        return [self.answer(rank) for rank in ranks]

    def stop(self, rank: int) -> None:
        """SIGSTOP."""
        self.processes[rank].send_signal(signal.SIGSTOP)

    def kill(self, rank: int) -> None:
        """SIGKILL, also of one that is stopped."""
        self.processes[rank].kill()
        self.processes[rank].wait()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None, "it was asked for"
        return pipe
