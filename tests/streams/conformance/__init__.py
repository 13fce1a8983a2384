"""What every device must do, one verdict for all: the litmus cases of device streams.

Each case asks for the ``device`` fixture and runs on every device of ``tests.device_fixtures``.
Cases observe order through values in device memory, never through when Python ran, because an
accelerator runs a launch's function long before the work that it issues.
"""
