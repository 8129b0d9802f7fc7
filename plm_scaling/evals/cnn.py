"""A small convolutional network on one-hot sequences: the floor that knows pairs of sites, and no pre-training.

n: rows, L: longest sequence, A: the 20 amino acids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.metrics import measure
from plm_scaling.evals.ridge import held_out_rows

__all__ = ["Cnn", "CnnFit", "fit_cnn"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LetterArray = npt.NDArray[np.int8]

_A: Final = len(STANDARD)
_CHANNELS: Final = 128
_WIDTH: Final = 5
_HIDDEN: Final = 256
_BATCH: Final = 256
_TEST_BATCH: Final = 2048


class Cnn(nn.Module):
    """One convolution over the sites, and one hidden layer over all of its channels at all sites."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(_A, _CHANNELS, _WIDTH, padding=_WIDTH // 2)
        self.hidden = nn.Linear(_CHANNELS * sites, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, 1)

    def forward(self, letters_nL: Tensor) -> Tensor:
        """Standardised values, float32[n], of letters int64[n, L] (-1: none)."""
        one_hot = nn.functional.one_hot(letters_nL + 1, _A + 1)[:, :, 1:].to(self.head.weight.dtype)
        seen = torch.relu(self.convolution(one_hot.transpose(1, 2)))
        values: Tensor = self.head(torch.relu(self.hidden(seen.flatten(1))))[:, 0]
        return values


@dataclass(frozen=True)
class CnnFit:
    """A trained network.

    Attributes
    ----------
    epoch : whose weights were kept, from 1.
    held_out : rank correlation on the held-out rows after each epoch; None where it is not defined.
    """

    network: Cnn
    mean: float
    scale: float
    epoch: int
    held_out: tuple[float | None, ...]

    def predict(self, letters_nL: LetterArray) -> FloatArray:
        """Values in the units of the targets, float64[n]."""
        return _predicted(self.network, letters_nL) * self.scale + self.mean


def fit_cnn(
    letters_nL: LetterArray,
    targets: FloatArray,
    *,
    validation: IntArray | None = None,
    epochs: int = 8,
    seed: int = 0,
) -> CnnFit:
    """Train with AdamW at 1e-3; the epoch that orders the held-out rows best is kept.

    Parameters
    ----------
    letters_nL : `encodings.letter_matrix`.
    targets : float64[n].
    validation : rows that choose the epoch and are not trained on; a seeded tenth by default.
    epochs : passes over the others.

    Raises
    ------
    ConfigError : fewer than 30 rows.

    **Source:** the convolutional baseline of FLIP (Dallago et al. 2021) and TAPE, made smaller: 128 channels of width
    5, all sites instead of the largest of each channel, 256 hidden units.
    """
    if len(targets) < 30:
        raise ConfigError(f"a network from {len(targets)} rows", why="30 are the least", hint="use ridge")
    held = held_out_rows(len(targets), seed) if validation is None else validation
    fitted = np.setdiff1d(np.arange(len(targets)), held)
    mean, scale = float(targets[fitted].mean()), float(targets[fitted].std()) or 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Cnn(letters_nL.shape[1])
    letters = torch.from_numpy(letters_nL[fitted].astype(np.int64))
    truth = torch.from_numpy(((targets[fitted] - mean) / scale).astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    history: list[float | None] = []
    best: tuple[float, int, dict[str, Tensor]] = (-np.inf, 0, {})
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(truth), generator=generator).split(_BATCH):  # type: ignore[no-untyped-call]
            optimiser.zero_grad(set_to_none=True)
            nn.functional.mse_loss(network(letters[rows]), truth[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        history.append(measure("spearman", targets[held], _predicted(network, letters_nL[held])).value)
        score = -1.0 if history[-1] is None else history[-1]
        if score > best[0]:
            best = (score, epoch, {name: value.clone() for name, value in network.state_dict().items()})
    network.load_state_dict(best[2])
    return CnnFit(network, mean, scale, best[1], tuple(history))


@torch.no_grad()
def _predicted(network: Cnn, letters_nL: LetterArray) -> FloatArray:
    letters = torch.from_numpy(letters_nL.astype(np.int64))
    parts = letters.split(_TEST_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([network(part) for part in parts]).double().numpy()
