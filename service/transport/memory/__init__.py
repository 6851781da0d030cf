"""A log in this process with the semantics of Kafka's that penstock relies on: for tests, and for demos without Java."""

from service.transport.memory.log import Fault, MemoryLog
from service.transport.memory.transport import MemoryTransport

__all__ = ["Fault", "MemoryLog", "MemoryTransport"]
