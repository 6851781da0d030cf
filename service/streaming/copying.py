"""A private copy of a user's module, in eval mode, so that conversion and verification leave the original alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from service.errors import NotStreamable


class Opaque(nn.Module):
    """A module whose children are run and never traced: they may be of any kind."""


def traced_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As `named_modules`, without what lies in opaque ones."""
    hidden: set[int] = set()
    for name, child in module.named_modules():
        if id(child) not in hidden:
            yield name, child
        if isinstance(child, Opaque):
            hidden.update(id(part) for part in child.modules() if part is not child)


def eval_copy(module: nn.Module) -> nn.Module:
    """Raises NotStreamable for modules that cannot be traced, or that do not compute in float32."""
    module = _plain(module)
    computed: dict[int, object] = {}
    traced = dict(traced_modules(module))
    for name, child in traced.items():
        if isinstance(child, torch.jit.ScriptModule):
            raise NotStreamable(
                f"module {name!r} is TorchScript, whose code cannot be traced. "
                "Give the Python module, or run it on windows (mode: window)."
            )
        # Weights that a hook computes (weight_norm) hang on a graph, and such tensors refuse to be copied.
        computed.update((id(value), value.detach().clone()) for value in vars(child).values() if isinstance(value, Tensor))
        computed.update((id(value), value) for value in vars(child).values() if isinstance(value, torch.jit.ScriptFunction))
    for place, child in traced.items():
        for part, tensor in [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]:
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                name = f"{place}.{part}" if place else part
                raise NotStreamable(
                    f"parameter {name!r} is {tensor.dtype}. Programs run in float32: call .float() on the module first."
                )
    try:
        copied = copy.deepcopy(module, computed).eval()
    except (TypeError, RuntimeError) as error:
        raise NotStreamable(
            f"the module cannot be copied, and tracing changes what it traces ({type(error).__name__}: {error}). Keep locks, "
            "generators, open files and tensors that hang on a graph out of its attributes."
        ) from error
    for _, parent in list(traced_modules(copied)):
        parent._modules.update((name, _plain(child)) for name, child in parent.named_children())
    return copied


def _plain(module: nn.Module) -> nn.Module:
    """What `torch.compile` wraps. Known by name, since importing the class takes a second."""
    wrapped = getattr(module, "_orig_mod", None) if type(module).__name__ == "OptimizedModule" else None
    return wrapped if isinstance(wrapped, nn.Module) else module
