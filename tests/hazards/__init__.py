"""Proof that hazards are found: failures in miniature, fences taken away, a checker blinded.

Known failures of the field in miniature, each racy and fixed:

miniature.py         what a miniature is, and a pipeline for them to build on
tables.py            tables that one stage writes and another reads
memory.py            rows, slots, blocks: given back, or used again, too early
cancellation.py      waiters that are cancelled while their work is on the device
hosts.py             what the host does wrong: streams, modes, blocking, tasks
progress.py          waits that never end
registry.py          all of them
test_miniatures.py   every racy one is found under every timing, no fixed one ever

What the library itself does about hazards:

fences/                 each fence of the library, and how to take it away
test_fences.py          without it its hazard is reported in every seed
test_war_policies.py    the WAR barrier: every policy on every profile
scenarios.py            the pipelines that are shipped, to be explored
test_false_reports.py   nothing is reported in them
test_calls.py           one sequence of device calls for one request trace
blinding.py             the checker without one of its rules
test_blinded.py         all of the above notices that
"""
