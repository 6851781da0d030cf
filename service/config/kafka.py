"""Kafka client properties: whatever librdkafka knows, except what exactly-once rests on."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

OWNED = {
    "isolation.level": "inputs must be read committed, or records of aborted transactions would be processed",
    "enable.auto.commit": "offsets are committed in the transaction of the predictions, never beside it",
    "enable.auto.offset.store": "offsets are committed in the transaction of the predictions, never beside it",
    "auto.offset.reset": "a position outside the log must be an error, never a silent reset",
    "enable.partition.eof": "penstock asks for it where it reads to an end",
    "group.id": "it is the setting `app`",
    "group.instance.id": "it is the setting `instance`",
    "group.remote.assignor": "a task needs the same partition of every input topic, which only `range` gives",
    "partition.assignment.strategy": "a task needs the same partition of every input topic, which only `range` gives",
    "transactional.id": "it is made of the settings `app` and `instance`, so that a restart fences what was before",
    "transaction.timeout.ms": "penstock compares transactions with it to tell a stalled one from a takeover",
    "enable.idempotence": "a transactional producer is idempotent",
    "delivery.report.only.error": "penstock collects failed deliveries itself",
    "partitioner": "keys must go where the Java client puts them (murmur2)",
    "session.timeout.ms": "it belongs to the membership, beside `instance`",
}
"""Properties that penstock sets itself, each with the reason."""


def _not_owned(name: str) -> str:
    if name in OWNED:
        raise ValueError(f"penstock sets this property itself ({OWNED[name]}); remove it")
    return name


def _as_librdkafka_writes(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _with_brokers(properties: dict[str, str]) -> dict[str, str]:
    if not properties.get("bootstrap.servers"):
        raise ValueError('bootstrap.servers is missing: the brokers to start from, such as "127.0.0.1:9092"')
    return properties


Property = Annotated[str, AfterValidator(_not_owned)]
PropertyValue = Annotated[str, BeforeValidator(_as_librdkafka_writes, json_schema_input_type=str | int | float | bool)]
Properties = Annotated[dict[Property, PropertyValue], AfterValidator(_with_brokers)]
