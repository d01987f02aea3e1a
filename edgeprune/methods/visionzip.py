"""VisionZip: once, after the encoder, the patches that the class row looks at stay and the others are merged.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models" (CVPR 2025), without its
training. The stage is VisionDrop's first, which was taken from here: ``class_row``. The decoder is left alone.
"""

from __future__ import annotations

from edgeprune.methods.class_row import make_stage
from edgeprune.methods.method import Method

METHODS = (Method(name="visionzip", vision=make_stage),)
