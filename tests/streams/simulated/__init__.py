"""The simulated device, beyond what the conformance suite asks of every device."""
