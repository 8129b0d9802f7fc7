"""A model of ours trained on a table's targets: all of its weights, or low-rank additions, under a linear head.

n: rows, K: outputs (1 for values, classes otherwise), D: width, P: positions of a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plm_scaling.core.alphabet import CLS, EOS
from plm_scaling.core.errors import ConfigError, Diverged, RefusedError
from plm_scaling.evals.adapters.asking import residue_ids
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.embedding_cache import uncached
from plm_scaling.evals.floors import EncodedTable, metric_of
from plm_scaling.evals.metrics import measure
from plm_scaling.evals.ridge import held_out_rows
from plm_scaling.evals.splits import Split
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.models.lora import add_lora

__all__ = ["Tuned", "TuningChoice", "tune"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_WARM_UP: Final = 0.1
_TEST_POSITIONS: Final = 16_384
_SMALLEST: Final = 30


@dataclass(frozen=True)
class TuningChoice:
    """How a model is trained on a table.

    Attributes
    ----------
    method : full, all weights; lora, low-rank additions to every matrix of the blocks.
    epochs : passes over the training rows; the best on the held-out rows is kept.
    learning_rate : peak, of the blocks; None for 1e-3 with lora and 3e-4 with full.
    head_rate : of the linear head.
    batch : rows of a step.
    rank, alpha : of the additions, scaled by alpha / rank.
    """

    method: Literal["full", "lora"] = "lora"
    epochs: int = 10
    learning_rate: float | None = None
    head_rate: float = 1e-2
    batch: int = 32
    rank: int = 8
    alpha: float = 16.0

    @property
    def rate(self) -> float:
        """Peak learning rate of the blocks."""
        return self.learning_rate or (1e-3 if self.method == "lora" else 3e-4)

    @property
    def protocol(self) -> str:
        """In words, for a row of results."""
        words = f"low-rank additions of rank {self.rank}" if self.method == "lora" else "all weights trained"
        return f"{words} + linear head, {self.epochs} epochs"


@dataclass(frozen=True)
class Tuned:
    """Predictions of the epoch that was kept.

    Attributes
    ----------
    scores : for the test rows, float64[test]: values, or classes.
    epoch : whose weights they come from, from 1.
    held_out : metric on the held-out rows after each epoch; None where it is not defined.
    trained : parameters that were trained, head included.
    protocol : in words, for a row of results.
    """

    scores: FloatArray
    epoch: int
    held_out: tuple[float | None, ...]
    trained: int
    protocol: str


class _Headed(nn.Module):
    """Mean over the residues, standardised by layer norm, and a linear head."""

    def __init__(self, model: ProteinModel, outputs: int) -> None:
        super().__init__()
        self.model = model
        self.norm = nn.LayerNorm(model.shape.d_model, elementwise_affine=False)
        self.head = nn.Linear(model.shape.d_model, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, documents: Documents) -> Tensor:
        """float32[n, K] of documents with `<cls>` and `<eos>`, which the mean leaves out."""
        x_PD = self.model.normed(self.model.stream(documents)).float()
        last = documents.bounds[1:].long() - 1
        inside = torch.ones(len(x_PD), 1, device=x_PD.device)
        inside[documents.bounds[:-1].long()] = 0.0
        inside[last] = 0.0
        total = torch.zeros(len(last), x_PD.shape[1], device=x_PD.device)
        total = total.index_add(0, documents.number_P, x_PD * inside)
        count = torch.zeros(len(last), 1, device=x_PD.device).index_add(0, documents.number_P, inside)
        found: Tensor = self.head(self.norm(total / count))
        return found


def tune(
    adapter: Adapter, data: EncodedTable, split: Split, choice: TuningChoice | None = None, *, seed: int = 0
) -> Tuned:
    """Train a copy of a model on the training rows of a split; the model itself stays as it is.

    AdamW without decay, a tenth of the steps warming up, then linearly down to 0. Loss: squared error of standardised
    values, or cross entropy.

    Parameters
    ----------
    adapter : one of ours, ESM-2 or ProGen2, or such a one behind a cache.
    seed : of the head's rows that choose the epoch, of the order, and of the additions.

    Raises
    ------
    RefusedError : another kind of model, or a sequence longer than its context.
    ConfigError : fewer than 30 training rows.
    Diverged : the loss stopped being a number.

    **Source:** the whole model as in TAPE (Rao et al. 2019); low-rank additions Hu et al. 2022, on protein models
    Sledzieski et al. 2024.
    """
    choice = choice or TuningChoice()
    own = _own(adapter)
    if len(split.train) < _SMALLEST:
        raise ConfigError(
            f"{len(split.train)} rows to train a model on", why=f"{_SMALLEST} are the least", hint="ridge on embeddings"
        )
    rows = _documents(own, data.table.sequences)
    held = split.train[held_out_rows(len(split.train), seed)] if split.validation is None else split.validation
    fitted = np.setdiff1d(split.train, held)
    targets = _Targets(data, fitted)
    model = _prepared(own.model, choice, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Headed(model, targets.outputs).to(own.device)
    history: list[float | None] = []
    best, kept = -math.inf, np.zeros(0)
    epoch_kept = 1
    for epoch, _ in enumerate(_epochs(network, rows, targets, fitted, choice, seed), start=1):
        value = measure(metric_of(data.table), data.table.targets[held], targets.read(_outputs(network, rows, held)))
        history.append(value.value)
        if (value.value is not None and value.value > best) or not len(kept):
            best = -math.inf if value.value is None else value.value
            kept, epoch_kept = targets.read(_outputs(network, rows, split.test)), epoch
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Tuned(kept, epoch_kept, tuple(history), trained, choice.protocol)


class _Targets:
    """Targets as a network is trained on them, and its outputs in their units."""

    def __init__(self, data: EncodedTable, fitted: IntArray) -> None:
        values = data.table.targets
        self.classes = np.unique(values[fitted]) if data.table.kind == "classes" else None
        self.mean, self.scale = float(values[fitted].mean()), float(values[fitted].std()) or 1.0
        self.outputs = 1 if self.classes is None else len(self.classes)
        known = np.zeros(len(values)) if self.classes is None else np.searchsorted(self.classes, values)
        self.truth = torch.from_numpy(
            ((values - self.mean) / self.scale).astype(np.float32) if self.classes is None else known.astype(np.int64)
        )

    def loss(self, outputs_nK: Tensor, rows: IntArray) -> Tensor:
        truth = self.truth[rows].to(outputs_nK.device)
        if self.classes is None:
            return nn.functional.mse_loss(outputs_nK[:, 0], truth)
        return nn.functional.cross_entropy(outputs_nK, truth)

    def read(self, outputs_nK: FloatArray) -> FloatArray:
        if self.classes is None:
            return np.asarray(outputs_nK[:, 0] * self.scale + self.mean)
        return np.asarray(self.classes[outputs_nK.argmax(axis=1)])


def _epochs(
    network: _Headed, rows: Sequence[Tensor], targets: _Targets, fitted: IntArray, choice: TuningChoice, seed: int
) -> Iterator[None]:
    """Trains an epoch before every item."""
    body = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    groups = [{"params": body, "lr": choice.rate}, {"params": network.head.parameters(), "lr": choice.head_rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    steps = choice.epochs * math.ceil(len(fitted) / choice.batch)
    warm = max(1.0, _WARM_UP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1.0, steps - warm)))
    )
    rng = np.random.default_rng(seed)
    for _ in range(choice.epochs):
        network.train()
        order = rng.permutation(fitted)
        for begin in range(0, len(order), choice.batch):
            chosen = order[begin : begin + choice.batch]
            optimiser.zero_grad(set_to_none=True)
            loss = targets.loss(network(_shown(network, rows, chosen)), chosen)
            if not torch.isfinite(loss):
                raise Diverged("the loss is not a number any more", hint="a lower learning rate")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        network.eval()
        yield


@torch.no_grad()
def _outputs(network: _Headed, rows: Sequence[Tensor], chosen: IntArray) -> FloatArray:
    """float64[chosen, K], in batches of so many positions."""
    found, begin = [], 0
    while begin < len(chosen):
        end, positions = begin, 0
        while end < len(chosen) and (end == begin or positions + len(rows[chosen[end]]) <= _TEST_POSITIONS):
            positions += len(rows[chosen[end]])
            end += 1
        found.append(network(_shown(network, rows, chosen[begin:end])).double().cpu().numpy())
        begin = end
    return np.concatenate(found)


def _shown(network: _Headed, rows: Sequence[Tensor], chosen: IntArray) -> Documents:
    return Documents.of([rows[row] for row in chosen]).to(network.head.weight.device)


def _prepared(model: ProteinModel, choice: TuningChoice, seed: int) -> ProteinModel:
    tuned = copy.deepcopy(model).requires_grad_(True)
    if choice.method == "lora":
        device = next(tuned.parameters()).device
        tuned = tuned.cpu()  # where its additions are drawn
        add_lora(tuned, choice.rank, choice.alpha, seed)
        tuned = tuned.to(device)
    return tuned


def _documents(own: OwnModel, sequences: Sequence[str]) -> list[Tensor]:
    longest = max(len(sequence) for sequence in sequences)
    if own.info.context and longest + 2 > own.info.context:
        raise RefusedError(
            f"a sequence of {longest} residues, {own.info.name} reads up to {own.info.context - 2}",
            hint="cut the table to the region that varies",
        )
    return [torch.from_numpy(np.concatenate([[CLS], residue_ids(sequence), [EOS]])) for sequence in sequences]


def _own(adapter: Adapter) -> OwnModel:
    inner = uncached(adapter)
    if not isinstance(inner, OwnModel):
        raise RefusedError(
            f"{adapter.info.name} cannot be trained here",
            why="only models that run through the blocks of this package can",
            hint="ridge on its embeddings",
        )
    return inner
