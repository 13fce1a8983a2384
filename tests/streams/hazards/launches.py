"""Launches that do nothing and declare what a test asks for."""

from streams.current import WorkTag, work_tag
from streams.hazards import HazardChecker
from streams.launch import Launch
from streams.stream import Stream

__all__ = ["kinds", "launch", "touch"]


def touch(*values: object) -> None:
    """The function of every launch here; what it uses is what is declared."""


def launch(
    stream: Stream, step: int, stage: str, *, reads: object = None, writes: object = None
) -> Launch[None]:
    """Put a launch of one stage on a stream."""
    former = work_tag.set(WorkTag(step, stage))
    try:
        return stream.launch(
            touch,
            reads=() if reads is None else (reads,),
            writes=() if writes is None else (writes,),
        )
    finally:
        work_tag.reset(former)


def kinds(checker: HazardChecker) -> list[str]:
    """Return the kinds of the reports."""
    return [report.kind for report in checker.reports]
