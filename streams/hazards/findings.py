"""Reports, with what is found again and again counted once."""

from collections.abc import Callable
from dataclasses import replace

from streams.hazards.report import Report

__all__ = ["Findings"]

_MAX_ALIKE = 8


class Findings:
    """Keeps one report of each kind, memory, stages and lines.

    Memory that has no name is told apart within a step: of two tensors of one shape that are
    used at the same lines each gets its report, but steps, each with tensors of its own, do not
    multiply the reports.

    Args:
        on_report: called with each new report.
    """

    def __init__(self, on_report: Callable[[Report], object] | None) -> None:
        self.reports: list[Report] = []
        self._on_report = on_report
        self._places: dict[object, int] = {}
        self._steps: dict[object, _Step] = {}

    def add(self, report: Report, same: object, storage: int | None) -> None:
        """Add a report, or count it.

        Args:
            report: what was found.
            same: what makes two reports of the same memory one.
            storage: number of the memory; None if it is about none, or has a name.
        """
        key = (same, None if storage is None else self._place_in_step(report, same, storage))
        at = self._places.get(key)
        if at is not None:
            former = self.reports[at]
            self.reports[at] = replace(former, count=former.count + 1)
            return
        self._places[key] = len(self.reports)
        self.reports.append(report)
        if self._on_report is not None:
            self._on_report(report)

    def _place_in_step(self, report: Report, same: object, storage: int) -> int:
        stage = report.later.stage if report.later else None
        step = self._steps.get(same)
        if step is None or step.index != (stage and stage.step):
            step = self._steps[same] = _Step(stage and stage.step)
        if storage not in step.places and len(step.places) == _MAX_ALIKE:
            return _MAX_ALIKE - 1
        return step.places.setdefault(storage, len(step.places))


class _Step:
    """The storages that one finding was about in one step, in order."""

    __slots__ = ("index", "places")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.places: dict[int, int] = {}
