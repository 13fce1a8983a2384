"""Scenarios of what parts of the library ship; ``tests/hazards/scenarios.py`` lists them."""
