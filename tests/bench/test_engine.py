"""What `penstock bench engine` compares: everybody gives the module's outputs, and the figures are ratios of one run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.bench.engine.contenders import Contender, Lockstep, Penstock, contenders
from service.bench.engine.networks import FACTORIES, network
from service.bench.engine.products import BareProducts
from service.bench.engine.run import CASES, Case, Comparison, Figure, check, sparse
from service.errors import PenstockError


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("case", [Case(4, 7), Case(3, 50, ragged=True)], ids=lambda case: case.name)
def test_every_contender_gives_the_modules_outputs(name: str, case: Case) -> None:
    check(network(name), case, None)


def test_a_contender_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Lockstep.step
    monkeypatch.setattr(Lockstep, "step", lambda self, prepared: step(self, prepared) + 1e-3)

    with pytest.raises(PenstockError, match=r"lockstep dense cache differs from the module by 0\.00"):
        check(network("tcn"), Case(2, 50), None)


def test_who_cannot_run_a_network_is_left_out() -> None:
    def names(module: nn.Module, case: Case) -> set[str]:
        running: list[Contender] = contenders(module, case.keys, case.batches(), None)
        return {contender.name for contender in running}

    both = {"penstock fast", "penstock exact"}
    assert names(network("tcn"), CASES[1]) == both | {"lockstep dense cache", "window recompute"}
    assert names(network("tcn"), CASES[4]) == both | {"window recompute"}
    assert names(network("strided cnn + gru"), CASES[1]) == both | {"lockstep dense cache"}
    assert names(network("u-net"), CASES[4]) == both


def test_ratios_are_those_of_medians() -> None:
    figures = [Figure("penstock exact", [2.0, 9.0, 1.0]), Figure("torch-streamer", [100.0, 50.0, 60.0])]
    line = Comparison("tcn", Case(2, 3), figures).line()

    assert line["figures"]["torch-streamer"] == {"milliseconds": 60_000.0, "times_fast": None, "times_exact": 30.0}


def test_the_weights_are_the_same_at_every_run() -> None:
    assert all(torch.equal(a, b) for a, b in zip(network("u-net").parameters(), network("u-net").parameters(), strict=True))


def test_one_key_of_many_slots_is_compared_with_one_of_few() -> None:
    assert [figure.name for figure in sparse(1).figures] == ["penstock exact", "penstock exact, 10,000 slots"]


@pytest.mark.parametrize("blas", [False, True])
def test_the_bare_products_are_those_of_a_step(blas: bool) -> None:
    """Nine convolutions over all rows and the head's, however the step is called."""
    case = Case(4, 3)
    bare = BareProducts(Penstock(network("tcn"), 4, "exact"), case.batches()[0], blas)
    assert [rows.shape[0] for _, rows, _, _ in bare.calls] == [12] * 10
    bare.step()
