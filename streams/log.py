"""Logging that stays quiet until the host application asks for it.

Events are structlog's, with what is bound in its context variables (step and
stage inside a stage), and leave through the standard logger ``aio_sched``: an
application routes and filters them like any other library's.
"""

import logging
from contextvars import ContextVar
from typing import Any, cast

import structlog

__all__ = ["get_logger", "log_stage", "log_step"]


# structlog merges into each event every context variable whose name begins like this. Set
# directly: ``bind_contextvars`` builds names and dictionaries, at every stage of every step.
_PREFIX = structlog.contextvars.STRUCTLOG_KEY_PREFIX
log_step: ContextVar[int] = ContextVar(f"{_PREFIX}step")
log_stage: ContextVar[str] = ContextVar(f"{_PREFIX}stage")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the structured logger of one module, below the logger ``aio_sched``."""
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(f"aio_sched.{name}"),
            processors=_PROCESSORS,
            wrapper_class=structlog.stdlib.BoundLogger,
        ),
    )


_PROCESSORS: list[Any] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.format_exc_info,
    structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
]
