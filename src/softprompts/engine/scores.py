"""What a forward pass says of target tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional


class Scores(NamedTuple):
    """What a forward pass says of T target tokens, over V tokens of the vocabulary.

    logits (T, V) float32; targets (T,) token ids; document (T,) index of the document that each belongs to. Of an
    encoder V are its choices, and a target is the number of one.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    document: torch.Tensor

    def nll(self) -> torch.Tensor:
        """Return the negative log-likelihood of each target token, (T,), in nats."""
        return functional.cross_entropy(self.logits, self.targets, reduction="none")
