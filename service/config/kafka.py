"""Kafka client properties: whatever librdkafka knows, except what exactly-once rests on."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

OWNED = {
    "auto.offset.reset": "a position outside the log is reported, never silently reset",
    "delivery.report.only.error": "penstock needs every delivery report",
    "enable.auto.commit": "offsets are committed in the transaction with the predictions",
    "enable.auto.offset.store": "offsets are committed in the transaction with the predictions",
    "enable.partition.eof": "penstock asks for it where it reads to an end",
    "enable.idempotence": "transactions need it on",
    "group.id": "it is the setting app",
    "group.instance.id": "it is the setting instance",
    "group.remote.assignor": "a task needs the same partition of every input topic, which only range gives",
    "isolation.level": "only committed records may be read",
    "partition.assignment.strategy": "a task needs the same partition of every input topic, which only range gives",
    "partitioner": "keys are partitioned as Java clients do it",
    "session.timeout.ms": "it is the setting group.session_timeout",
    "transaction.timeout.ms": "it is the setting commit.transaction_timeout",
    "transactional.id": "it is made of the settings app and instance",
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
