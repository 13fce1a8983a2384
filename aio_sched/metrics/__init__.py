"""How busy the device was, what it waited for, and what was hidden behind it.

stats.py           ``SchedulerStats``, and the collector that every scheduler has
bubbles.py         why the forward stream had nothing to run (pure)
overlap_ledger.py  how much host time ran while it was busy (pure)
table.py           statistics side by side, for the terminal
"""

from aio_sched.metrics.stats import SchedulerStats, StatsCollector
from aio_sched.metrics.table import stats_table

__all__ = ["SchedulerStats", "StatsCollector", "stats_table"]
