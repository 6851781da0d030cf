"""Steps on an accelerator: static buffers of a few fixed sizes, one copy there and one back, launches recorded and replayed.

Which elements of each stream a round computes is found on the host, where they lie on the device. What is launched is a function of
static tensors alone, so that it can be captured once and replayed; rounds of fewer rows are filled up with rows of the dummy slot.
"""

from service.streaming.device.accelerator import Accelerator, StandIn

__all__ = ["Accelerator", "StandIn"]
