"""Texts that meet a constraint: regular expressions, JSON schemas, and classes of one's own.

pipeline.py     ``ConstrainedPipeline``, which ``Engine`` runs; delayed.py: its part on the device
constraints.py  what a constraint is (pure); grammar.py: ``Regex``, ``JsonSchema``
guide.py        where one request stands in its constraint

The pipeline is no name of this package: ``requests.py`` needs the constraints, and the pipeline
the requests.
"""

from aio_sched.engine.constrained.constraints import Automaton, Constraint
from aio_sched.engine.constrained.grammar import JsonSchema, Regex

__all__ = ["Automaton", "Constraint", "JsonSchema", "Regex"]
