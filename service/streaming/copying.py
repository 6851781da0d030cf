"""A private copy of a user's module, in eval mode, so that conversion and verification leave the original alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from service.errors import NotStreamable


def eval_copy(module: nn.Module) -> nn.Module:
    """Raises NotStreamable for modules that cannot be traced, or that do not compute in float32."""
    computed: dict[int, object] = {}
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise NotStreamable(
                f"module {name!r} is TorchScript, whose code cannot be traced. "
                "Give the Python module, or run it on windows outside penstock."
            )
        # Weights that a hook computes (weight_norm) hang on a graph, and such tensors refuse to be copied.
        computed.update((id(value), value.detach().clone()) for value in vars(child).values() if isinstance(value, Tensor))
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise NotStreamable(
                f"parameter {name!r} is {tensor.dtype}. Programs run in float32: call .float() on the module first."
            )
    return copy.deepcopy(module, computed).eval()
