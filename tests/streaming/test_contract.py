"""The law, for every operator of the table: streamed and concatenated, outputs are the module's on the whole stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.streaming import convert, verify
from service.streaming.native import torch_alone
from tests.streaming import (
    operators_choices,
    operators_convolutions,
    operators_frames,
    operators_images,
    operators_inplace,
    operators_lengths,
    operators_memory,
    operators_products,
    operators_shapes,
    operators_time,
    operators_values,
    operators_windows,
)
from tests.streaming.operators import weighted

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
FAMILIES = (
    operators_convolutions,
    operators_lengths,
    operators_frames,
    operators_values,
    operators_choices,
    operators_images,
    operators_inplace,
    operators_products,
    operators_shapes,
    operators_memory,
    operators_time,
    operators_windows,
)
TABLE = {name: row for family in FAMILIES for name, row in family.TABLE.items()}
LENGTHS = st.lists(st.integers(1, 40), min_size=2, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny here; what several threads do to bits is the subject of test_numerics and test_networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=settings.default.max_examples * 15 // 100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    lengths=LENGTHS,
    seed=st.integers(0, 2**20),
    max_step=st.sampled_from([5, 8192]),
    kernels=st.sampled_from([nullcontext, nullcontext, torch_alone]),
)
def test_streamed_is_offline_whatever_the_chunks_and_the_company(
    name: str,
    data: st.DataObject,
    lengths: list[int],
    seed: int,
    max_step: int,
    kernels: Callable[[], AbstractContextManager[None]],
) -> None:
    module, channels = data.draw(TABLE[name])
    module = weighted(module, seed)
    with kernels():
        program = convert(module, channels, max_step=max_step)

    verified = verify(program, module, lengths=lengths, seed=seed)

    assert verified.bit_equal


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=settings.default.max_examples // 10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_stream_may_end_exactly_where_the_module_does_not_raise(name: str, data: st.DataObject) -> None:
    module, channels = data.draw(TABLE[name])
    module = module.eval()
    program = convert(module, channels)

    for length in range(1, 20):
        try:
            with torch.no_grad():
                outputs = module(program.admission.drawn(length).t().unsqueeze(0)).shape[-1]
        except (RuntimeError, ValueError, AssertionError):
            assert not program.accepts(length)
        else:
            # Whether an empty result raises differs between torch's kernels for one and for several groups.
            assert program.accepts(length) or outputs == 0
            assert program.total(length) == outputs
