"""Prefill and decode on two devices or in two processes, with a hand-over of keys and values.

engine.py       ``DisaggregatedEngine``: the front, and the side that reads prompts
worker.py       ``DecodeWorker``: the side that writes texts, as a service; session.py: one link
prefill.py      ``PrefillPipeline``: rows to the host, and over
decode.py       ``DecodePipeline``: rows from the host, and on with decode steps
link.py         ``KVLink``: how the two talk; within one process
sockets.py      between processes
messages.py     what they say; frames.py: in bytes; greeting.py: at first
credits.py      how many requests may be on their way (a policy)
fingerprint.py  which model rows belong to
first.py        tasks of which the first to end ends all
errors.py       what can go wrong
"""

from aio_sched.disaggregated.engine import DisaggregatedEngine
from aio_sched.disaggregated.errors import (
    LinkClosedError,
    LinkProtocolError,
    PeerLostError,
    PeerMismatchError,
    RemoteRequestError,
)
from aio_sched.disaggregated.link import KVLink, local_link
from aio_sched.disaggregated.sockets import connect_link
from aio_sched.disaggregated.worker import DecodeWorker

__all__ = [
    "DecodeWorker",
    "DisaggregatedEngine",
    "KVLink",
    "LinkClosedError",
    "LinkProtocolError",
    "PeerLostError",
    "PeerMismatchError",
    "RemoteRequestError",
    "connect_link",
    "local_link",
]
