"""When to look at a stream whose completions can, or cannot, be predicted."""

from streams.bridge.prediction import Prediction, SpinBudget

__all__ = ["GovernedPace"]

# A timed look, with the loop's wake-up, costs about this much CPU; looking more often than
# twice that would be spinning.
_LOOK_COST_NS = 24_000
_MIN_GAP_NS = 45_000.0
_MAX_GAP_NS = 2_000_000.0
_GROWTH = 1.3
# Nearly free, and it bounds what a wrong prediction can do.
_LONGEST_SLEEP_NS = 50_000_000
_LATE_SHARE = 0.06
_THREAD_LATE_NS = 150_000
# Completions before a stream is judged to be uneven; the first intervals always are.
_NUM_TRIES = 16


class GovernedPace:
    """Looks around the predicted completion, and spins there while the budget lasts.

    Two predictions compete: the time since the last completion, right for a stream
    that always has work, and the time since somebody began to wait, right for one
    that runs dry between. The one that errs less is followed. Where both err widely a
    thread shall block for the stream, until it has become more even.

    Args:
        budget: time to spin, shared by all streams of a policy; None for none.
        patience: how many nanoseconds of waiting one nanosecond of CPU is worth.
        widest_ns: the deviation from which on a thread shall block.
    """

    __slots__ = (
        "_budget",
        "_first_ns",
        "_gap_ns",
        "_is_blocked_for",
        "_missed_ns",
        "_patience",
        "_since_ns",
        "_until_ns",
        "_widest_ns",
        "since_begin",
        "since_done",
    )

    def __init__(
        self, budget: SpinBudget | None, patience: float, widest_ns: float = 400_000.0
    ) -> None:
        self.since_done = Prediction()
        self.since_begin = Prediction()
        self._budget = budget
        self._patience = patience
        self._widest_ns = widest_ns
        self._is_blocked_for = False
        self._missed_ns: int | None = None
        # The plan: made when, the first look, and until when to look every gap.
        self._since_ns = 0
        self._first_ns = self._until_ns = 0.0
        self._gap_ns = _MIN_GAP_NS

    def begin(self, now_ns: int) -> None:
        """Plan the first look at a stream that was not awaited for a while."""
        self.since_begin.start(now_ns)
        self._plan(now_ns)

    def found(self, now_ns: int, num_done: int) -> None:
        """Learn, and plan the looks for the next event."""
        # A thread wakes when the event is done, if not quite at once.
        missed_ns = now_ns - _THREAD_LATE_NS if self._is_blocked_for else self._missed_ns
        self.since_begin.observe(missed_ns, now_ns, num_done)
        self.since_begin.start(None)
        self.since_done.start(self.since_done.observe(missed_ns, now_ns, num_done))
        if self._budget is not None:
            self._budget.stop(now_ns)
        self._plan(now_ns)

    def next_look_ns(self, now_ns: int) -> int | None:
        """Wait for the window, look often inside it, back off behind it; or let block."""
        if self._is_blocked_for:
            return None
        if now_ns < self._first_ns:
            return min(int(self._first_ns), now_ns + _LONGEST_SLEEP_NS)
        self._missed_ns = now_ns
        if now_ns > self._until_ns:
            return self._back_off(now_ns)
        if self._budget is not None and self._budget.allows(now_ns):
            return now_ns
        return now_ns + int(self._gap_ns)

    def _back_off(self, now_ns: int) -> int:
        if self._budget is not None:
            self._budget.stop(now_ns)
        due_ns = now_ns + int(self._gap_ns)
        # Late by a share of the time that it took anyway is not very late.
        longest = min(_LATE_SHARE * (now_ns - self._since_ns), _MAX_GAP_NS)
        self._gap_ns = max(self._gap_ns, min(self._gap_ns * _GROWTH, longest))
        return due_ns

    def _plan(self, now_ns: int) -> None:
        self._missed_ns = None
        self._since_ns = now_ns
        self._first_ns = self._until_ns = 0.0
        self._gap_ns = _MIN_GAP_NS
        followed: Prediction | None = None
        for prediction in (self.since_done, self.since_begin):
            expected, deviation = prediction.expected_ns, prediction.deviation_ns
            if expected is not None and (followed is None or deviation < followed.deviation_ns):
                followed = prediction
                if expected + 2 * deviation > now_ns:
                    self._plan_around(expected, deviation)
        if followed is not None and followed.num_samples >= _NUM_TRIES:
            # Half as wide to come back, or it would change with every event.
            widest = self._widest_ns / 2 if self._is_blocked_for else self._widest_ns
            self._is_blocked_for = followed.deviation_ns > widest

    def _plan_around(self, expected: float, deviation: float) -> None:
        # Looking every gap costs deviation / gap looks and lets an event wait for half a gap:
        # the sum of both is least at this one.
        gap = (2 * _LOOK_COST_NS * self._patience * deviation) ** 0.5
        self._gap_ns = max(_MIN_GAP_NS, min(gap, _MAX_GAP_NS))
        self._first_ns = expected - deviation + self._gap_ns / 8
        self._until_ns = expected + 2 * deviation
        if self._budget is not None:
            # A spin that begins too late is of no use; one that the budget ends, of little.
            lead = min(2 * deviation + _MIN_GAP_NS / 2, self._budget.left_ns / 2)
            self._first_ns = min(self._first_ns, expected - lead)
