"""CLIP's text tower as Hugging Face runs it, for methods that compare the picture with the question in CLIP's space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.eager.model import quiet


class EagerClipText(nn.Module):
    """A CLIP checkpoint's text tower with its projection and tokenizer, in fp32.

    Args:
        path: the checkpoint's folder.
    """

    def __init__(self, path: Path) -> None:
        import transformers

        super().__init__()
        logging: Any = transformers.utils.logging
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # of the vision tower's tensors, which are not looked for
        try:
            with quiet():
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)
                model = transformers.CLIPTextModelWithProjection.from_pretrained(path, dtype=torch.float32)
        finally:
            logging.set_verbosity(before)
        self.model: Any = model.eval().requires_grad_(False)

    def ids(self, text: str) -> NDArray[np.int64]:
        """The token ids of a text, as many as the tower has positions."""
        length = self.model.config.max_position_embeddings
        ids = self._tokenizer(text, padding="max_length", truncation=True, max_length=length)["input_ids"]
        return np.array(ids, dtype=np.int64)

    def forward(self, text_ids: torch.Tensor) -> torch.Tensor:
        """Map [B, n] int64 to [B, E]."""
        embeds: torch.Tensor = self.model(input_ids=text_ids).text_embeds
        return embeds
