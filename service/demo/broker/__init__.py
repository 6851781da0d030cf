"""A real Apache Kafka broker on this machine, for the demo and the tests."""

from service.demo.broker.node import KafkaNode, available

__all__ = ["KafkaNode", "available"]
