"""The whole service over a program that computes as on a GPU: predictions are those of the CPU, whatever dies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.app import Application
from service.errors import ConfigurationError
from service.model import device, program
from service.streaming import convert
from service.streaming.native import torch_alone
from service.transport.memory import Fault
from tests.cluster import Cluster, Room, applications, audited
from tests.streaming.device.recorder import Recorder

FEW = Room(slots=3, memory_bytes=1 << 20)


def converted(application: Application, device: str | Recorder) -> Application:
    config = application.config
    return replace(
        application,
        program=convert(application.module, config.channels, numerics=config.numerics.value, max_step=256, device=device),
    )


def lived(cluster: Cluster) -> list[dict[str, object]]:
    """Records, an aborted commit, evictions, the end of a stream, a crash, and what is predicted through all of it."""
    cluster.start("one")
    cluster.work()
    for turn in range(6):
        for key in (b"a", b"b", b"c", b"d", b"e"):
            cluster.produce(key, 3 + 7 * turn)
        if turn == 2:
            cluster.log.inject(Fault.ABORT_AT_COMMIT)
        if turn == 3:
            cluster.publish(b"b", None)
        cluster.work()
        if turn == 4:
            cluster.crash("one")
            cluster.expel("one")
            cluster.start("one")
    cluster.drain()
    return cluster.predictions()


def test_predictions_are_those_of_the_cpu_through_aborts_evictions_and_a_crash() -> None:
    with torch_alone():  # a device knows nothing of our kernels
        here = {name: converted(application, "cpu") for name, application in applications(FEW).items()}
    there = {name: converted(application, Recorder()) for name, application in here.items()}
    computed = Cluster(there)

    assert lived(computed) == lived(Cluster(here))
    assert audited(computed) > 0
    assert there["one"].fingerprint != here["one"].fingerprint  # a GPU gives other bits, and is told apart
    assert there["one"].program.state_fingerprint == here["one"].program.state_fingerprint  # but it takes over what is remembered


def test_auto_is_the_cpu() -> None:
    config = applications()["one"].config
    assert device(config.model_copy(update={"device": "auto"})) == "cpu"
    assert device(config.model_copy(update={"device": "cuda:1"})) == "cuda:1"


def test_a_device_that_is_not_there_is_an_error_of_the_configuration() -> None:
    application = applications()["one"]
    with pytest.raises(ConfigurationError, match=r"device is 'cuda:99': (no CUDA device|there is no such device)"):
        program(application.config.model_copy(update={"device": "cuda:99"}), application.module)
