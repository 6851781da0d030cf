"""penstock: exactly-once stream processing of sensor topics with PyTorch networks."""

__version__ = "0.1.0"
