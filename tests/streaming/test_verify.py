"""What `verify` says of bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from service.streaming import convert, verify
from service.streaming.verify import same_bits
from tests.streaming.operators import Function


def test_outputs_that_are_not_numbers_are_equal_to_themselves() -> None:
    module = Function(torch.log)

    verified = verify(convert(module, 2), module)

    assert verified.outputs
    assert verified.bit_equal


NAN, OTHER_NAN = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32).split(1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([1.0, -0.0]), torch.tensor([1.0, -0.0]), True),
        (torch.tensor([1.0, -0.0]), torch.tensor([1.0, 0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), False),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), False),
        (NAN, OTHER_NAN, True),
        (NAN, torch.tensor([torch.inf]), False),
    ],
)
def test_bits_tell_zeros_apart_but_no_two_that_are_not_numbers(one: Tensor, other: Tensor, same: bool) -> None:
    assert same_bits(one, other) == same
