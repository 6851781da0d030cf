"""Post-processing: modules over `[B, C, T]` whose streamers make their memory part of a stream's state."""

from service.postprocess.detect import Detect
from service.postprocess.normalize import Normalize
from service.postprocess.smooth import Smooth

__all__ = ["Detect", "Normalize", "Smooth"]
