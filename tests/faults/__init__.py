"""What goes wrong on purpose: cancellations at every await point, and device faults by seed."""
