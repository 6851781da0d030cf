"""Apache Kafka through librdkafka: the only place that imports confluent_kafka."""

from service.transport.kafka.transport import KafkaTransport

__all__ = ["KafkaTransport"]
