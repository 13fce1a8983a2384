"""Making a run that goes wrong simpler, while it still goes wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from aio_sched.testing.outcome import Outcome
from aio_sched.testing.schedule import Schedule

__all__ = ["shrink"]


def shrink(
    outcome: Outcome, goes_wrong: Callable[[Schedule], Outcome | None], *, max_runs: int
) -> tuple[Outcome, int]:
    """Drop cancellation and faults, and restore the order of tasks, as far as the run goes wrong.

    Args:
        outcome: of the run.
        goes_wrong: runs a schedule; returns its outcome if it goes wrong in the same way.
        max_runs: runs to spend.

    Returns:
        The outcome of the simplest run that was found, and the runs that it took.
    """
    search = _Search(outcome, goes_wrong, max_runs)
    search.drop_faults()
    search.calm_down()
    search.restore_order()
    return search.best, search.num_runs


class _Search:
    def __init__(
        self,
        outcome: Outcome,
        goes_wrong: Callable[[Schedule], Outcome | None],
        max_runs: int,
    ) -> None:
        self.best = outcome
        self.num_runs = 0
        self._goes_wrong = goes_wrong
        self._max_runs = max_runs

    def drop_faults(self) -> None:
        """Do without the cancellation, and each fault, that is not needed."""
        if self.best.schedule.cancel_at is not None:
            self._try(cancel_at=None)
        for fault in self.best.schedule.faults:
            left = tuple(other for other in self.best.schedule.faults if other is not fault)
            self._try(faults=left)

    def calm_down(self) -> None:
        """Take the default checker, and the device whose work takes no odd times."""
        if self.best.schedule.is_strict:
            self._try(is_strict=False)
        if self.best.schedule.profile != "friendly":
            self._try(profile="friendly")

    def restore_order(self) -> None:
        """Let as many turns as possible run their tasks in the order in which they came."""
        if self.best.schedule.order_name == "fifo" or self._try(order_name="fifo", choices=None):
            return
        if not self._try(choices=self.best.choices):
            return
        odd = self._odd()
        size = len(odd)
        while size and self.num_runs < self._max_runs:
            for start in range(0, len(odd), size):
                if self._restore(odd[start : start + size]):
                    break
            else:
                size //= 2
            odd = self._odd()
            size = min(size, len(odd))

    def _odd(self) -> list[int]:
        choices = self.best.schedule.choices or ()
        return [turn for turn, choice in enumerate(choices) if choice is not None]

    def _restore(self, turns: Sequence[int]) -> bool:
        choices = list(self.best.schedule.choices or ())
        for turn in turns:
            choices[turn] = None
        return self._try(choices=tuple(choices))

    def _try(self, **changes: object) -> bool:
        if self.num_runs >= self._max_runs:
            return False
        self.num_runs += 1
        again = self._goes_wrong(replace(self.best.schedule, **changes))  # type: ignore[arg-type]
        if again is not None:
            self.best = again
        return again is not None
