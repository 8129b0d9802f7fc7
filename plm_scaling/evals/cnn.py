"""A small convolutional network: on one-hot sequences a floor that knows pairs of sites, on activations a head.

n: rows, L: longest sequence or varied sites, A: the 20 amino acids, d: channels of activations.
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
Float32Array = npt.NDArray[np.float32]

_A: Final = len(STANDARD)
_CHANNELS: Final = 128
_WIDTH: Final = 5
_HIDDEN: Final = 256
_BATCH: Final = 256
_TEST_BATCH: Final = 2048


class Cnn(nn.Module):
    """One convolution over the sites, and one hidden layer over all of its channels at all sites."""

    def __init__(self, sites: int, channels: int = _A) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, _CHANNELS, _WIDTH, padding=_WIDTH // 2)
        self.hidden = nn.Linear(_CHANNELS * sites, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Standardised values, float32[n], of letters int64[n, L] (-1: none) or activations float32[n, L, d]."""
        if not rows.is_floating_point():
            rows = nn.functional.one_hot(rows + 1, _A + 1)[:, :, 1:].to(self.head.weight.dtype)
        seen = torch.relu(self.convolution(rows.transpose(1, 2)))
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

    def predict(self, rows: LetterArray | Float32Array) -> FloatArray:
        """Values in the units of the targets, float64[n]."""
        return _predicted(self.network, rows) * self.scale + self.mean


def fit_cnn(
    rows: LetterArray | Float32Array,
    targets: FloatArray,
    *,
    validation: IntArray | None = None,
    epochs: int = 8,
    seed: int = 0,
) -> CnnFit:
    """Train with AdamW at 1e-3; the epoch that orders the held-out rows best is kept.

    Parameters
    ----------
    rows : int8[n, L] (`encodings.letter_matrix`), or activations of the sites, float32[n, L, d].
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
        network = Cnn(*rows.shape[1:])
    shown = _shown(rows[fitted])
    truth = torch.from_numpy(((targets[fitted] - mean) / scale).astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    history: list[float | None] = []
    best: tuple[float, int, dict[str, Tensor]] = (-np.inf, 0, {})
    for epoch in range(1, epochs + 1):
        for some in torch.randperm(len(truth), generator=generator).split(_BATCH):  # type: ignore[no-untyped-call]
            optimiser.zero_grad(set_to_none=True)
            nn.functional.mse_loss(network(shown[some]), truth[some]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        history.append(measure("spearman", targets[held], _predicted(network, rows[held])).value)
        score = -1.0 if history[-1] is None else history[-1]
        if score > best[0]:
            best = (score, epoch, {name: value.clone() for name, value in network.state_dict().items()})
    network.load_state_dict(best[2])
    return CnnFit(network, mean, scale, best[1], tuple(history))


def _shown(rows: LetterArray | Float32Array) -> Tensor:
    return torch.from_numpy(rows.astype(np.int64) if rows.ndim == 2 else rows)


@torch.no_grad()
def _predicted(network: Cnn, rows: LetterArray | Float32Array) -> FloatArray:
    parts = _shown(rows).split(_TEST_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([network(part) for part in parts]).double().numpy()
