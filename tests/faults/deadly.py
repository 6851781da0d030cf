"""A network of the user's that has a defect in native code, as far as the process can tell."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

DEADLY = 66.0


class Deadly(nn.Module):
    """Its first channel, doubled, for a window of one frame; a segmentation fault where that holds `DEADLY`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x == DEADLY).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return 2 * x[:, 0, -1]
