"""A capture on the CPU as strict as a GPU's: operations are recorded once and repeated on the same memory, without any Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from service.streaming.device import StandIn

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "bincount", "item")
"""Operations that wait for the device, or whose result has a shape that depends on data."""

RESHAPES = ("squeeze_", "unsqueeze_", "t_", "transpose_")
"""Operations that launch nothing."""


class Recorder(StandIn):
    """Refuses to capture what a GPU could not."""

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        launches()  # as libraries need it before their first capture: what was worked out here must not be relied on
        recording = _Recording()
        with recording:
            launches()
        self.captured += 1
        return recording.replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name in WAITS:
            raise AssertionError(f"{name} in a captured part")
        if any(tensor.dtype == torch.bool for tensor in _tensors(args[1:2]) if name.startswith("index")):
            raise AssertionError(f"{name} by a mask in a captured part")
        if name.startswith("masked_fill") and isinstance(args[2], Tensor):
            raise AssertionError(f"{name} with a tensor in a captured part: its number is read from the device")
        if name == "lift_fresh" and args[0].numel() > 1:
            raise AssertionError("numbers of the host become a tensor in a captured part")
        if name in RESHAPES:
            return function(*args, **kwargs)
        made = function(*args, **kwargs)
        outputs = [made] if isinstance(made, Tensor) else [each for each in made or () if isinstance(each, Tensor)]
        read = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs)) if tensor.numel()}
        fresh = [output for output in outputs if output.numel() and output.untyped_storage().data_ptr() not in read]
        if fresh or function._schema.is_mutable:
            # A view of static memory stays one; all else is computed again.
            # The tensors as they are now: a later `squeeze_` changes a tensor's shape and none of its memory.
            self.calls.append((function, *_aliases((args, kwargs)), _aliases(outputs)))
        return made

    def replay(self) -> None:
        for function, args, kwargs, outputs in self.calls:
            made = function(*args, **kwargs)
            again = [made] if isinstance(made, Tensor) else [each for each in made or () if isinstance(each, Tensor)]
            for output, result in zip(outputs, again, strict=True):
                if result is not output and result.data_ptr() != output.data_ptr():
                    output.copy_(result)


def _aliases(found: Any) -> Any:
    """With other tensors on the same memory in place of all tensors."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach() if tensor.layout is torch.strided else tensor, found)


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found] if found.layout is torch.strided else []  # a weight packed by oneDNN has no storage
    if isinstance(found, dict):
        return [tensor for value in found.values() for tensor in _tensors(value)]
    if isinstance(found, list | tuple):
        return [tensor for value in found for tensor in _tensors(value)]
    return []
