"""What the accelerator device asks of torch, in which order, and what it makes of the answers.

Runs on a fake torch. It shows the device's own logic: which handles it accepts, when a native
event is recorded again, what is queried and what is not, the order of native calls, how an error
is judged. It cannot show that a driver behaves like the fake: that real handles differ, that a
wait holds a kernel back, that a sticky fault shows in a query, that ``synchronize`` frees the GIL
and sleeps, that a query breaks a capture, that memory was safe. ``tests/gpu`` is for that.
"""
