"""Post-processing: modules over `[B, C, T]` whose streamers make their memory part of a stream's state."""

from service.nn import ExponentialSmoothing as Smooth
from service.postprocess.detect import Detect
from service.postprocess.normalize import Normalize

__all__ = ["Detect", "Normalize", "Smooth"]
