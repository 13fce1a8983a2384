"""Random stream programs: each call goes to real streams and to the brute-force closure."""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from streams.current import WorkTag, work_tag
from streams.event import Event
from streams.hazards import Access, HazardChecker, handoff
from streams.hazards.report import Report
from streams.hazards.tasks import Token
from streams.launch import Launch
from tests.streams.hazards.closure import Closure, Node, Touch
from tests.streams.hazards.lazy_device import LazyDevice, LazyStream

__all__ = ["Found", "Program", "StrictProgram"]

Found = set[tuple[int, int, int, str]]
Nodes = frozenset[Node]
_NUM_ROWS, _WIDTH = 4, 3


def _views(memory: Tensor) -> list[tuple[Tensor | Access, frozenset[int]]]:
    """Name parts of a table in many ways, with the elements of each."""
    numbers = torch.arange(memory.numel()).view_as(memory)
    parts: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t[0],
        lambda t: t[1:3],
        lambda t: t[2:],
        lambda t: t[:, 1],
        lambda t: t[:, 0:2],
        lambda t: t[::2],
        lambda t: t.t(),
        lambda t: t[1:2].expand(3, _WIDTH),
        lambda t: t[0:0],
    ]
    named: list[tuple[Tensor | Access, frozenset[int]]] = [
        (part(memory), frozenset(part(numbers).flatten().tolist())) for part in parts
    ]
    for rows in ((1,), (3,), (0, 2)):
        elements = frozenset(numbers[list(rows)].flatten().tolist())
        named.append((Access(_name_of(memory), "rows", rows, memory), elements))
    return named


def _name_of(memory: Tensor) -> str:
    return _NAMES[_DTYPES.index(memory.dtype)]


# Reports name memory: by either of these one sees which table it is.
_NAMES, _DTYPES = ("first", "second"), (torch.float32, torch.float64)
_VIEWS = [_views(torch.zeros(_NUM_ROWS, _WIDTH, dtype=dtype)) for dtype in _DTYPES]


class Program:
    """One run of random calls; ``closure`` knows what they order.

    Args:
        seed: of the choices.
        checker: watches; made strict for ``StrictProgram``.
        num_calls: how many.
    """

    def __init__(self, seed: int, checker: HazardChecker, num_calls: int = 20) -> None:
        self.random = Random(seed)
        self.checker = checker
        self.closure = Closure()
        self.device = LazyDevice(seed)
        self.device.add_monitor(checker)
        self.streams = [self._stream(n) for n in range(self.random.randint(1, 3))]
        self.num_calls = num_calls
        self.num_ops = 0
        # What the next operation of a stream comes after, and what its last one stands for.
        self.tails: dict[LazyStream, Nodes] = dict.fromkeys(self.streams, frozenset())
        self.done: dict[LazyStream, Nodes] = dict.fromkeys(self.streams, frozenset())
        self.host: Nodes = frozenset()
        self.events: list[tuple[Event, Nodes]] = []
        self.launches: list[tuple[Launch[Any], Node]] = []

    def run(self) -> Found:
        """Make the calls, and return what the checker reported."""
        for _ in range(self.num_calls):
            self.step()
        return {_found(report) for report in self.checker.reports}

    def step(self) -> None:
        """Make one call."""
        self.random.choice(self.calls())()

    def calls(self) -> list[Callable[[], None]]:
        """Return what may be called, the more likely ones several times."""
        return [
            *[self.launch] * 7,
            *[self.record] * 3,
            *[self.wait] * 4,
            self.wait_stream,
            *[self.query] * 2,
            self.touch,
            self.free,
            self.synchronize,
            self.drain,
            self.progress,
        ]

    # Calls ------------------------------------------------------------------

    def launch(self) -> None:
        stream = self._any_stream()
        takes: tuple[Launch[Any], ...] = ()
        if self.launches and self.random.random() < 0.2:
            taken, node = self.random.choice(self.launches)
            takes, self.tails[stream] = (taken,), self.tails[stream] | {node}
        node = self.closure.node(self.tails[stream], self.host)
        tag = self._tag()
        reads = self._accesses(node, is_write=False)
        writes = self._accesses(node, is_write=True)
        launch = stream.launch(_nothing, *takes, reads=reads, writes=writes)
        work_tag.reset(tag)
        self.tails[stream] = self.done[stream] = frozenset({node})
        self.launches.append((launch, node))
        self.events.append((launch.event, frozenset({node})))

    def record(self) -> None:
        stream = self._any_stream()
        self.events.append((stream.record("recorded"), self.tails[stream]))
        self.done[stream] = self.tails[stream]

    def wait(self) -> None:
        if self.events:
            stream, (event, nodes) = self._any_stream(), self._any_event()
            stream.wait_event(event)
            self.tails[stream] |= nodes

    def wait_stream(self) -> None:
        stream, other = self._any_stream(), self._any_stream()
        stream.wait_stream(other)
        self.tails[stream] |= self.tails[other]

    def query(self) -> None:
        if self.events:
            event, nodes = self._any_event()
            assert event.query()
            self._observe(nodes)

    def synchronize(self) -> None:
        stream = self._any_stream()
        stream.synchronize()
        self.done[stream] = self.tails[stream]
        self._observe(self.tails[stream])

    def drain(self) -> None:
        stream = self._any_stream()
        nodes = self.done[stream]
        waiting = stream.drained()
        try:
            waiting.send(None)
        except StopIteration:
            self._observe(nodes)

    def touch(self) -> None:
        is_write = self.random.random() < 0.5
        memory = self._host_access(is_write)
        self.checker.on_host_access(self.device, memory, is_write=is_write)
        work_tag.set(None)

    def free(self) -> None:
        memory = self._host_access(is_write=True)
        self.checker.on_free(self.device, (memory,), "freed")
        work_tag.set(None)

    def progress(self) -> None:
        self._any_stream().progress(self.random)

    # Parts ------------------------------------------------------------------

    def _host_access(self, is_write: bool) -> Tensor | Access:
        node = self.closure.node(self.host)
        self.host = frozenset({node})
        self._tag()
        return self._access(node, is_write)

    def _observe(self, nodes: Nodes) -> None:
        self.host = frozenset({self.closure.node(self.host, nodes)})

    def _accesses(self, node: Node, *, is_write: bool) -> list[Tensor | Access]:
        return [self._access(node, is_write) for _ in range(self.random.choice((0, 1, 1, 2)))]

    def _access(self, node: Node, is_write: bool) -> Tensor | Access:
        storage = self.random.randrange(len(_VIEWS))
        memory, elements = self.random.choice(_VIEWS[storage])
        self.closure.touches.append(Touch(self.num_ops, node, storage, elements, is_write))
        return memory

    def _tag(self) -> Any:
        self.num_ops += 1
        return work_tag.set(WorkTag(self.num_ops, f"op{self.num_ops}"))

    def _stream(self, number: int) -> LazyStream:
        stream = self.device.stream(f"s{number}")
        assert isinstance(stream, LazyStream)
        return stream

    def _any_stream(self) -> LazyStream:
        return self.random.choice(self.streams)

    def _any_event(self) -> tuple[Event, Nodes]:
        return self.random.choice(self.events)


class StrictProgram(Program):
    """Random calls from random callbacks of a loop, some of which hand objects on."""

    def __init__(self, seed: int, checker: HazardChecker, num_calls: int = 30) -> None:
        super().__init__(seed, checker, num_calls)
        self.observer = checker.observer()
        self.posted: list[tuple[Token, Nodes]] = []
        self.handed: list[tuple[object, Nodes]] = [(_Box(), frozenset()) for _ in range(2)]
        self.post()
        self.observer.running(self.posted.pop()[0])

    def calls(self) -> list[Callable[[], None]]:
        """Return what may be called; half of it is about callbacks and host accesses."""
        tasks = [self.switch, self.post, self.hand_on, self.touch, self.touch]
        return [*super().calls(), *tasks * 4]

    def post(self) -> None:
        self.posted.append((self.observer.posted(_nothing), self.host))

    def switch(self) -> None:
        if self.posted:
            at = self.random.randrange(len(self.posted))
            token, self.host = self.posted.pop(at)
            self.observer.ran()
            self.observer.running(token)

    def hand_on(self) -> None:
        at = self.random.randrange(len(self.handed))
        box, nodes = self.handed[at]
        handoff(box)
        self._observe(nodes)
        self.handed[at] = (box, self.host)


class _Box:
    """Something to hand on."""


def _nothing(*values: object) -> None:
    """What every launch and every callback does."""


def _found(report: Report) -> tuple[int, int, int, str]:
    later, earlier = report.later, report.earlier
    assert later is not None
    assert earlier is not None
    assert later.stage is not None
    assert earlier.stage is not None
    kind = report.kind
    if kind == "early_return":  # a write by another name
        kind = ("RAW", "WAR", "WAW")[later.is_write + (later.is_write & earlier.is_write)]
    storage = int(any(name in report.memory for name in ("second", "float64")))
    return earlier.stage.step, later.stage.step, storage, kind
