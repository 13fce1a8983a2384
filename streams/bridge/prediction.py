"""When will a device stream complete its next event? Arithmetic only.

Work that repeats completes at nearly even intervals. Exponential averages of the
interval and of its error say when to look, and each look teaches: one that came too
early and the one that then found the completion have it between them; one that found
it at once knows only that it came late.

All times are nanoseconds of one monotonic clock that the caller reads.
"""

__all__ = ["Prediction", "SpinBudget"]

# What is kept of an average when the next interval comes; less at first and after a change.
_INTERVAL_KEPT = 0.8
_CHANGE_KEPT = 0.5
_DEVIATION_KEPT = 0.85
# Below this the timer's own scatter is what is seen.
_LEAST_DEVIATION_NS = 8_000.0
_LEARNED_AFTER = 3
_NUM_EARLY = 8
# How far before a look that found it at once a completion lies, in deviations: about the
# mean of what a normal distribution has beyond one deviation.
_LATE = 0.5


class Prediction:
    """The time from one moment to the next completion of a stream, averaged.

    Attributes:
        interval_ns: average time to a completion; 0 before any is known.
        deviation_ns: average error of that.
        num_samples: intervals seen.
    """

    __slots__ = ("_num_late", "_num_off", "_start_ns", "deviation_ns", "interval_ns", "num_samples")

    def __init__(self) -> None:
        self.interval_ns = 0.0
        self.deviation_ns = 0.0
        self._start_ns: float | None = None
        self.num_samples = 0
        self._num_late = 0
        self._num_off = 0

    def __repr__(self) -> str:
        return (
            f"<Prediction {self.interval_ns / 1e3:.0f} us +- {self.deviation_ns / 1e3:.0f} us, "
            f"{self.num_samples} samples>"
        )

    @property
    def expected_ns(self) -> float | None:
        """The moment of the next completion; None while too little is known."""
        if self._start_ns is None or self.num_samples < _LEARNED_AFTER:
            return None
        return self._start_ns + self.interval_ns

    def start(self, at_ns: float | None) -> None:
        """Count the next interval from ``at_ns``; None: from an unknown moment."""
        self._start_ns = at_ns

    def observe(self, missed_ns: float | None, now_ns: float, num_done: int) -> float:
        """Learn from a look that found completions.

        Args:
            missed_ns: the last look that found nothing; the completion lies between
                it and now. None: this was the first look.
            now_ns: this look.
            num_done: completions found at once. More than one is a burst after which
                the interval is what each took, or late looks would shrink it.

        Returns:
            The moment of the (last) completion, as far as can be told.
        """
        done_ns = self._estimate(missed_ns, now_ns, num_done)
        if self._start_ns is not None:
            self._learn((done_ns - self._start_ns) / num_done, num_done)
        return done_ns

    def _estimate(self, missed_ns: float | None, now_ns: float, num_done: int) -> float:
        if self._start_ns is None or self.num_samples < _LEARNED_AFTER:
            return now_ns if missed_ns is None else (missed_ns + now_ns) / 2
        expected = self._start_ns + num_done * self.interval_ns
        if missed_ns is not None:
            self._num_late = 0
            return min(max(expected, missed_ns), now_ns)
        # Late again and again: the work has become faster. Look for it in growing steps.
        step = _LATE * self.deviation_ns * 2.0**self._num_late
        self._num_late = min(self._num_late + 1, 16)
        return min(expected, now_ns) - min(step, self.interval_ns / 4)

    def _learn(self, interval_ns: float, num_done: int) -> None:
        """Average in ``num_done`` intervals of ``interval_ns`` each."""
        self.num_samples += 1
        if self.num_samples == 1:
            # As uncertain as can be: the first interval often is a start-up.
            self.interval_ns = self.deviation_ns = interval_ns
            return
        error = interval_ns - self.interval_ns
        kept, kept_off = self._kept(abs(error), num_done)
        self.interval_ns += (1 - kept**num_done) * error
        self.deviation_ns += (1 - kept_off**num_done) * (abs(error) - self.deviation_ns)
        self.deviation_ns = min(self.deviation_ns, self.interval_ns)
        self.deviation_ns = max(self.deviation_ns, _LEAST_DEVIATION_NS)

    def _kept(self, off_ns: float, num_done: int) -> tuple[float, float]:
        """Say how much of interval and deviation an error of ``off_ns`` leaves as it was."""
        if self.num_samples < _NUM_EARLY:
            return _CHANGE_KEPT, _CHANGE_KEPT
        if off_ns <= 4 * self.deviation_ns:
            self._num_off = 0
            return _INTERVAL_KEPT, _DEVIATION_KEPT
        # Pass over what is far off once, a stall of the host say; follow it the next time.
        self._num_off += num_done
        return (_CHANGE_KEPT, _DEVIATION_KEPT) if self._num_off > 1 else (1.0, 1.0)


class SpinBudget:
    """A token bucket of time that may be spent spinning.

    Args:
        share: of wall time, 0 to 1, that flows into the bucket.
        saved_ns: what the bucket holds at most.

    Attributes:
        left_ns: what it held when it was last asked.
    """

    __slots__ = ("_at_ns", "_is_spinning", "_saved_ns", "_share", "left_ns")

    def __init__(self, share: float, saved_ns: int = 1_000_000) -> None:
        self._share = share
        self._saved_ns = saved_ns
        self.left_ns = 0.0
        self._at_ns = 0
        self._is_spinning = False

    def allows(self, now_ns: int) -> bool:
        """Tell whether to spin on from ``now_ns``; the time until the next call counts."""
        elapsed = now_ns - self._at_ns
        self._at_ns = now_ns
        self.left_ns = min(self._saved_ns, self.left_ns + elapsed * self._share)
        if self._is_spinning:
            self.left_ns -= elapsed
        self._is_spinning = self.left_ns > 0
        return self._is_spinning

    def stop(self, now_ns: int) -> None:
        """Spin no longer: time from ``now_ns`` on is not spent."""
        if self._is_spinning:
            self.allows(now_ns)
            self._is_spinning = False
