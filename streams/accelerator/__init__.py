"""Every ``torch.accelerator`` device (CUDA, ROCm, XPU, ...), through torch's own streams.

device.py  ``AcceleratorDevice``
stream.py  a stream of it: issuing, native events, failures
native.py  what is asked of torch, in one place
issuer.py  the thread that issues launches for ``issue="thread"``
clock.py   the device's time in the host's
"""

from streams.accelerator.device import AcceleratorDevice, accelerator_type

__all__ = ["AcceleratorDevice", "accelerator_type"]
