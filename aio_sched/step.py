"""What a stage is given: its step, with the verbs for putting work on the device."""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aio_sched.errors import StageTypeError
from buffers.transfer import copy_to_host
from streams.clock import perf_s
from streams.current import current_stream
from streams.event import Event
from streams.launch import Launch
from streams.log import get_logger
from streams.stream import Stream

if TYPE_CHECKING:
    from aio_sched.barrier import WarBarrier
    from buffers.keep_alive import KeepAlive

__all__ = ["HostCopy", "Step"]

T = TypeVar("T")

log = get_logger("step")


class Step:
    """One turn of the pipeline, and its verbs for putting work on the device.

    Attributes:
        index: 0 for the first step that had work; grows by one.
        rotation: ``index % depth``; picks the copy of a table that the pipeline
            rotates instead of taking a WAR barrier.
        schedule_stream: where prepare's launches go.
        forward_stream: where forward's launches go.
        copy_stream: where copies to the host go.
        copy_done: complete when all of this step, its copies included, has left the
            device; recorded when forward has returned, None before.
    """

    def __init__(
        self,
        index: int,
        *,
        rotation: int,
        streams: tuple[Stream, Stream, Stream],
        barrier: "WarBarrier",
        keep_alive: "KeepAlive",
        deadline_s: float | None,
    ) -> None:
        self.index = index
        self.rotation = rotation
        self.schedule_stream, self.forward_stream, self.copy_stream = streams
        self.copy_done: Event | None = None
        self.deadline_s = deadline_s
        self._waits_since_s: float | None = None
        self._barrier = barrier
        self._keep_alive = keep_alive
        self._launches: list[Launch[Any]] = []
        self._has_copies = False
        self._streams = streams
        self._reused: Event | None = None
        self._held: list[object] = []
        self._when_done: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Step {self.index}>"

    def launch(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        reads: Iterable[object] = (),
        writes: Iterable[object] = (),
        **kwargs: Any,
    ) -> Launch[T]:
        """Put ``fn`` on the stream of the stage that calls; see ``Stream.launch``.

        If it fails, this step fails.

        Raises:
            StageTypeError: called outside prepare and forward.
        """
        stream = self._stage_stream(f"launch() of {fn!r}")
        return self.watch(stream.launch(fn, *args, reads=reads, writes=writes, **kwargs))

    def watch(self, launch: Launch[T]) -> Launch[T]:
        """Count a launch that a buffer's verb has made: if it fails, so does this step.

        Returns:
            The launch: ``step.watch(relay.stash(slots, tokens=tokens))``.

        Raises:
            StageTypeError: called after forward: ``copy_done`` is recorded already.
        """
        self._check_open("watch()")
        self._launches.append(launch)
        return launch

    def copy_to_host(self, value: Any, *, reused: bool | None = None) -> "HostCopy":
        """Enqueue a copy of a forward's result to host memory.

        On the copy stream, behind the launch that ``value`` is, or behind all that
        the calling stage has enqueued. Does not wait.

        Args:
            value: a tensor, a launch that gives one, or tuples, lists and dicts of
                tensors.
            reused: a later step writes this memory again: a table, the static output of
                a captured graph. Then the device work of the next prepare and forward
                waits for the copy. By default so for what is no launch; the value of a
                launch is taken for fresh memory of this step.

        Returns:
            What publish awaits.

        Raises:
            StageTypeError: called outside prepare and forward.
        """
        stream = self._stage_stream("copy_to_host()")
        num_before = len(self._launches)
        if isinstance(value, Launch):
            num_before = self._launches.index(value) + 1 if value in self._launches else 0
        else:
            # RAW: the copy reads what this stage's stream is still writing.
            self.copy_stream.wait_stream(stream)
        self._has_copies = True
        launch = self.watch(copy_to_host(self.copy_stream, value))
        if not isinstance(value, Launch) if reused is None else reused:
            self._reused = launch.event
        return HostCopy(self, launch, num_before)

    def shared_read_done(self) -> Event:
        """Say that forward has enqueued its last read of tables that prepare writes.

        Call it in forward, as early as that is true: with the barrier ``read_done`` the
        next prepare's device work starts from here on.

        Raises:
            StageTypeError: called outside forward.
        """
        if self._stage_stream("shared_read_done()") is not self.forward_stream:
            raise StageTypeError("step.shared_read_done() outside forward says nothing about it")
        event = self.forward_stream.record("shared_read_done")
        self._barrier.post(event)
        return event

    def keep_alive(self, *objects: object) -> None:
        """Keep objects alive until this step's ``copy_done``, whoever is cancelled.

        Raises:
            StageTypeError: called after forward: ``copy_done`` is recorded already.
        """
        self._check_open("keep_alive()")
        self._held.extend(objects)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call back on the loop's thread once all of this step has left the device.

        For giving back what its launches used: a slot, a page. If the step never
        gets to the device, the callback comes all the same. What it raises is logged.

        Raises:
            StageTypeError: called after forward: ``copy_done`` is recorded already.
        """
        self._check_open("when_done()")
        self._when_done.append(callback)

    @property
    def has_device_work(self) -> bool:
        """Whether any launch or any memory belongs to this step."""
        return bool(self._launches or self._held or self._when_done)

    @property
    def left_s(self) -> float | None:
        """Seconds that the device still has for this step's results; None sets no limit.

        For what publish awaits beside host copies: ``await values.wait(step.left_s)``.
        """
        if self.deadline_s is None or self._waits_since_s is None:
            return self.deadline_s
        return max(0.0, self.deadline_s - (perf_s() - self._waits_since_s))

    def begin_wait(self) -> None:
        """Scheduler only: publish begins, and with it the time that the device has."""
        self._waits_since_s = perf_s()

    def raise_failure(self, upto: int | None = None) -> None:
        """Raise what the first failed launch of this step raised, if any has yet.

        Args:
            upto: look at so many launches only, in the order of their calls.
        """
        for launch in self._launches[:upto]:
            if launch.error is not None:
                launch.issued_value()

    @property
    def has_left_device(self) -> bool:
        """Whether all of this step is complete, as far as is known without asking."""
        done = self.copy_done
        return done is None or done.recorded_on().completed >= done.number

    def seal(self, *, is_whole: bool) -> Event:
        """Scheduler only: record ``copy_done`` behind everything enqueued.

        Args:
            is_whole: forward has returned, so that it waits for prepare's work already.
        """
        last = self.forward_stream
        if not is_whole:
            # RAW: what a broken-off step has enqueued ends before copy_done does.
            last.wait_stream(self.schedule_stream)
        if self._has_copies:
            last = self.copy_stream
            # RAW: copy_done stands for forward too, part of which nothing may copy.
            last.wait_stream(self.forward_stream)
        for launch in self._launches:
            # RAW: and for what the pipeline's own streams do for this step.
            if launch.event.stream not in self._streams:
                last.wait_event(launch.event)
        self.copy_done = last.record("copy_done")
        if self._held:
            self._keep_alive.hold(self.copy_done, *self._held)
        for callback in self._when_done:
            # WAR: who is given a row by this writes where the step may still read.
            self._keep_alive.release_at(self.copy_done, partial(_call, callback))
        self._fence_reused()
        return self.copy_done

    def abandon(self) -> None:
        """Scheduler only: end a step that could not be sealed, the device being lost."""
        if self.copy_done is None:
            for callback in self._when_done:
                _call(callback)

    def _fence_reused(self) -> None:
        if self._reused is not None:
            # WAR: prepare(n+1) may rewrite a table that the copies of step n still read, and
            # forward(n+1), which waits for the schedule stream, a static output.
            self.schedule_stream.wait_event(self._reused)

    def _stage_stream(self, verb: str) -> Stream:
        self._check_open(verb)
        stream = current_stream()
        if stream is None:
            raise StageTypeError(
                f"step.{verb} outside prepare and forward; publish enqueues nothing, it awaits "
                "and delivers, and a task that a stage starts has no stream: launch in the stage"
            )
        return stream

    def _check_open(self, verb: str) -> None:
        if self.copy_done is not None:
            raise StageTypeError(
                f"step.{verb} after forward has returned: copy_done is recorded; publish "
                "enqueues nothing, it awaits and delivers"
            )


def _call(callback: Callable[[], object]) -> None:
    """Call back; one that raises must not keep other steps' memory, or their endings."""
    try:
        callback()
    except Exception:
        log.exception("when_done_raised", callback=repr(callback))


class HostCopy:
    """A copy to the host under way; awaiting it gives tensors that the caller owns.

    Awaiting raises what the copied launch, or one that its step made before it, raised,
    and ``DeadlineError`` after the scheduler's ``wait_deadline_s``.
    """

    __slots__ = ("_launch", "_num_before", "_step")

    def __init__(self, step: Step, launch: Launch[Any], num_before: int) -> None:
        self._step = step
        self._launch = launch
        self._num_before = num_before

    def __repr__(self) -> str:
        return f"<HostCopy of {self._step!r}: {self._launch!r}>"

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        value = await self._launch.wait(self._step.left_s)
        # Those before it are done for certain; looking at later ones would be a matter of luck.
        self._step.raise_failure(self._num_before)
        return value
