"""Benchmarks that a user runs on their own machine: ``aio-sched bench``.

bridge.py       wake latency and CPU of each wait policy, beside what others do
wake.py         runs that measure how late coroutines wake, and at what cost
emulated.py     an accelerator whose completions are known beforehand
rivals.py       how else a coroutine could wait for the device

loop.py         how much of the device's time each schedule uses
rounds.py       one run of a pipeline under one schedule, or of its device work alone
pipelines.py    the pipelines that are run
blocking.py     the schedule that blocks for results, as engines do
device_work.py, host_work.py   work of a given length

report.py       percentiles and tables
neighbours.py   how busy other processes kept the machine
timer_slack.py  threads that stand in for a device wake on time
"""
