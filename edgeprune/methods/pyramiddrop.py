"""PyramidDrop: in three places of the decoder, visual rows that the prompt's last row does not look at are dropped.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction"
(CVPR 2025), and the authors' released code, at inference:

1. Cuts before the layers at a quarter, a half and three quarters of the depth (8, 16, 24 of 32).
2. The next layer's own norm and projections give the query of the prompt's last row and the keys of all rows. A visual
   row scores the attention it gets, softmaxed over the whole row and averaged over heads.
3. Rows are dropped, not merged. Positions are numbered anew after every cut.
"""

from __future__ import annotations

from edgeprune.methods.attention import LastRowCut
from edgeprune.methods.method import Method

METHODS = (Method(name="pyramiddrop", positions="repack", decoder_cut=LastRowCut),)
