"""Speculative decoding: a small model drafts some tokens, the large one verifies them at once.

engine.py       ``SpeculativeEngine``, the front; pipeline.py: the three stages
device_work.py  what the steps do on the device; verify_inputs.py: the memory that they share
table.py        what a step tells the device
policies.py     what can be chosen: ``PlanPolicy``, ``HostLengths``
gate.py         when the plan of a verify may start: ``PlanGate``
drafter.py      what drafts: ``Drafter``, ``ChainDrafter``; ``HiddenDrafter`` sees hidden states
lookup.py       ``LookupDrafter``
heads.py        ``DraftHeads``, layers on the target model's hidden state; ``HeadsDrafter``
stats.py        ``SpeculationStats``: how much was drafted, and how much of it accepted
errors.py       what can go wrong
"""
