"""Every test of this folder may ask for ``device``, ``hold`` and ``cells``."""

from tests.device_fixtures import bench, cells, device, hold

__all__ = ["bench", "cells", "device", "hold"]
