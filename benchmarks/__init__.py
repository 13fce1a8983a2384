"""Benchmarks for developers; what users run is ``aio-sched bench``."""
