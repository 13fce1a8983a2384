"""Known failures of the field in miniature, each racy and fixed.

miniature.py         what a miniature is, and a pipeline for them to build on
tables.py            tables that one stage writes and another reads
memory.py            rows, slots, blocks: given back, or used again, too early
cancellation.py      waiters that are cancelled while their work is on the device
hosts.py             what the host does wrong: streams, modes, blocking, tasks
progress.py          waits that never end
registry.py          all of them
test_miniatures.py   every racy one is found under every timing, no fixed one ever
"""
