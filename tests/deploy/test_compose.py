"""The compose file starts what there is: real commands, mounted files that exist, a broker before those who need it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from service.cli import main

Service = dict[str, Any]


@pytest.fixture(scope="module")
def services(root: Path) -> dict[str, Service]:
    found: dict[str, Service] = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def ours(services: dict[str, Service]) -> dict[str, Service]:
    return {name: service for name, service in services.items() if name != "broker"}


def test_every_command_parses_as_penstocks_own(ours: dict[str, Service]) -> None:
    group = typer.main.get_command(main)
    for service in ours.values():
        if "entrypoint" not in service:
            name, *arguments = service["command"]
            command = group.commands[name]  # type: ignore[attr-defined]
            command.make_context(name, list(arguments))


def test_the_pumps_are_a_module_that_can_be_run(ours: dict[str, Service]) -> None:
    python, option, module = ours["pumps"]["entrypoint"]
    assert (python, option) == ("python", "-m")
    assert find_spec(f"{module}.__main__") is not None


def test_every_mounted_file_and_every_configuration_exists(root: Path, ours: dict[str, Service]) -> None:
    for service in ours.values():
        (mount,) = service["volumes"]
        here, there, mode = mount.split(":")
        assert mode == "ro"
        (configuration,) = [word for word in service["command"] if word.endswith(".yaml")]
        assert (root / here / Path(configuration).relative_to(there)).is_file()


def test_the_configuration_reads_the_variables_that_are_set(root: Path, ours: dict[str, Service]) -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (root / "service" / "demo" / "pumps.yaml").read_text()))
    for service in ours.values():
        assert service["environment"].keys() <= wanted


def test_clients_speak_to_the_listener_that_the_broker_advertises_inside(
    services: dict[str, Service], ours: dict[str, Service]
) -> None:
    advertised = services["broker"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert {service["environment"]["PENSTOCK_BOOTSTRAP"] for service in ours.values()} <= set(
        re.findall(r"INSIDE://([^,]+)", advertised)
    )


def test_nothing_starts_before_what_it_needs(ours: dict[str, Service]) -> None:
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert ours["topics"]["depends_on"] == {"broker": healthy}
    assert ours["service"]["depends_on"] == {"broker": healthy, "topics": done}
    assert ours["pumps"]["depends_on"]["topics"] == done


def test_containers_of_ours_hold_no_right_and_write_to_tmp_only(ours: dict[str, Service]) -> None:
    for service in ours.values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
