"""The happens-before hazard checker: races are found from what was asked for, not from timing.

checker.py      ``HazardChecker``: told of launches, events and host accesses
order.py        vector clocks of streams and of the host
tasks.py        strict mode: a clock per task
ranks.py        ``rank_scope``: a clock per rank where several share a process
meetings.py     ``handoff`` of an object; ``arrive`` at and ``depart`` from a collective
shadow.py       who used which bytes last
byte_ranges.py  which bytes a tensor covers
access.py       ``Access``: rows of a buffer, by name
report.py       ``Report``, ``HazardError``
findings.py     reports, counted
audit.py        ``AccessAudit``: declared accesses against what torch does, on the CPU device
site.py         the user's line
"""

from streams.hazards.access import Access
from streams.hazards.audit import AccessAudit
from streams.hazards.checker import HazardChecker
from streams.hazards.meetings import arrive, depart, handoff
from streams.hazards.ranks import rank_scope
from streams.hazards.report import HazardError, Report

__all__ = [
    "Access",
    "AccessAudit",
    "HazardChecker",
    "HazardError",
    "Report",
    "arrive",
    "depart",
    "handoff",
    "rank_scope",
]
