"""`penstock topics`: what the application needs, what is missing or wrong; and making what is missing."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from service.app import required_topics, slow_settings, topic_problems
from service.config import Config
from service.errors import OperatorActionRequired
from service.transport.interface import Transport

_TIMEOUT = 10.0


def topics(config: Config, transport: Transport, create: bool, partitions: int, replication: int | None) -> None:
    """With `create`, a missing input gets `partitions`. Raises `OperatorActionRequired` where something is left wrong."""
    count, problems, missing = topic_problems(config, transport, _TIMEOUT)
    if create and missing:
        wanted = {topic.name: topic for topic in required_topics(config, count or partitions)}
        made = [replace(wanted[topic.name], replication=replication) for topic in missing]
        transport.admin().create(made, _TIMEOUT)
        count, problems, missing = topic_problems(config, transport, _TIMEOUT)
    absent = {topic.name for topic in missing}
    table = Table("topic", "purpose", "partitions", "cleanup.policy", "", title=f"topics of {config.app}")
    purposes = ("input", "predictions", "dead letters", "snapshots")
    found = transport.admin().describe([topic.name for topic in required_topics(config, count or 1)], _TIMEOUT)
    for topic, purpose in zip(required_topics(config, count or partitions), purposes, strict=True):
        present = found[topic.name]
        shown = present or topic
        mark = "missing" if topic.name in absent else "wrong" if any(topic.name in text for text in problems) else "ok"
        table.add_row(topic.name, purpose, str(shown.partitions), shown.config.get("cleanup.policy", ""), mark)
    Console().print(table)
    if slow := None if problems else slow_settings(config, transport, _TIMEOUT):
        Console().print(slow)
    if problems:
        raise OperatorActionRequired("; ".join(problems) + (". Run again with --create." if missing else "."))
