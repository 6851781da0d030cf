"""Steps on an accelerator: static buffers of a few fixed sizes, one copy there and one back, launches recorded and replayed.

All index arithmetic stays on the host. What a round computes is a function of static tensors alone, so that it can be captured once
and replayed; rounds of fewer rows are filled up with rows of the dummy slot.
"""

from service.streaming.device.accelerator import Accelerator, StandIn

__all__ = ["Accelerator", "StandIn"]
