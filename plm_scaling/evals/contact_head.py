"""`ContactHead`: contacts from attention maps by a sparse logistic regression, fitted here or shipped with ESM-2.

H: maps, L: residues, n: pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError
from plm_scaling.evals.adapters.asking import need
from plm_scaling.evals.adapters.base import Adapter, Float32Array
from plm_scaling.evals.contacts import RANGES
from plm_scaling.evals.embedding_cache import uncached
from plm_scaling.evals.heads import l1_logistic
from plm_scaling.evals.structures import CONTACT_DISTANCE, Structure

__all__ = ["ContactHead", "attention_features", "fit_contact_head", "published_contact_head"]

FloatArray = npt.NDArray[np.float64]
_STRENGTH: Final = 0.15
_LEAST_APART: Final = int(RANGES["short"][0])


@dataclass(frozen=True)
class ContactHead:
    """Weights of the maps of one model.

    Attributes
    ----------
    weight_H : float64[H]; few are not 0.
    bias : log odds where all features are 0.
    trained_on : sequences it must not be tested on.
    """

    weight_H: FloatArray
    bias: float
    trained_on: frozenset[str] = frozenset()

    def predict(self, adapter: Adapter, structure: Structure) -> FloatArray:
        """Log odds of every pair, float64[L, L].

        Raises
        ------
        ConfigError : a sequence it was fitted to, or a model with another number of maps.
        RefusedError : the model shows no attention maps, or reads no sequence of this length.
        """
        if structure.sequence in self.trained_on:
            raise ConfigError(
                f"{structure.name} was fitted to", why="a test on it says nothing", hint="split by family, not by file"
            )
        feature_HLL = attention_features(adapter, structure.sequence)
        if len(feature_HLL) != len(self.weight_H):
            raise ConfigError(
                f"{len(feature_HLL)} attention maps, {len(self.weight_H)} weights", why="the head is another model's"
            )
        return np.tensordot(self.weight_H, feature_HLL.astype(np.float64), axes=1) + self.bias


def attention_features(adapter: Adapter, sequence: str) -> Float32Array:
    """Attention maps made symmetric, less what their sums alone would give (APC), float32[H, L, L].

    Raises
    ------
    RefusedError : the model shows no attention maps.
    PlmScalingError : they are no finite numbers.

    **Source:** Rao et al. 2021, section 3; Dunn et al. 2008, equation 3.
    """
    import torch

    from plm_scaling.models.contacts import average_product_corrected

    need(adapter.info, "attend")
    features: Float32Array = average_product_corrected(torch.from_numpy(adapter.attentions(sequence))).numpy()
    if not np.isfinite(features).all():
        raise PlmScalingError(
            f"{adapter.info.name} shows attention maps that are no finite numbers",
            where=f"the protein {sequence[:24]}",
            hint="damaged weights, or a half-precision overflow: check the weights, and score in float32",
        )
    return features


def fit_contact_head(
    adapter: Adapter,
    structures: Sequence[Structure],
    *,
    strength: float = _STRENGTH,
    distance: float = CONTACT_DISTANCE,
) -> ContactHead:
    """Fit weights to the pairs of some chains that are 6 or more apart.

    Parameters
    ----------
    strength : of the data against the L1 penalty: the sum of losses times this, plus the sum of weights' sizes.

    Raises
    ------
    RefusedError : no pair in contact, or none apart; the model shows no attention maps.

    **Source:** Rao et al. 2021, section 3.3 (20 structures, L1 penalty).
    """
    features, labels = [], []
    for one in structures:
        seen, length = one.seen, len(one)
        i, j = np.triu_indices(length, k=_LEAST_APART)
        known = seen[i] & seen[j]
        i, j = i[known], j[known]
        features.append(attention_features(adapter, one.sequence)[:, i, j])
        labels.append(one.contacts(distance)[i, j])
    label_n = np.concatenate(labels) if labels else np.zeros(0, dtype=bool)
    if label_n.all() or not label_n.any():
        raise RefusedError(
            "no contact head can be fitted",
            why=f"{int(label_n.sum())} of {len(label_n)} pairs of {len(structures)} chains are in contact",
            hint="give chains with residues both near and apart",
        )
    feature_nH = np.concatenate(features, axis=1).T.astype(np.float64)
    weight_H, bias = _fitted(feature_nH, label_n, strength)
    return ContactHead(weight_H, bias, frozenset(one.sequence for one in structures))


def published_contact_head(adapter: Adapter) -> ContactHead | None:
    """The regression that came with an ESM-2 file; None where the model has none."""
    from plm_scaling.evals.adapters.own import OwnModel
    from plm_scaling.models.esm2 import Esm2

    opened = uncached(adapter)
    model = opened.model if isinstance(opened, OwnModel) else None
    if not isinstance(model, Esm2) or model.contact_weight is None or model.contact_bias is None:
        return None
    weight_H = model.contact_weight.detach().double().cpu().numpy().reshape(-1)
    return ContactHead(weight_H, float(model.contact_bias.detach().cpu().reshape(-1)[0]))


def _fitted(feature_nH: FloatArray, label_n: npt.NDArray[np.bool_], strength: float) -> tuple[FloatArray, float]:
    """Logistic regression with an L1 penalty on all weights but the bias, of features scaled to unit spread.

    The scale of attention maps falls with the length of chains and differs from head to head; the penalty should see
    information, not scale. Weights come back for the features as they were.
    """
    scale_H = feature_nH.std(axis=0)
    used = scale_H > 0.0
    found = l1_logistic(feature_nH[:, used] / scale_H[used], label_n, 1.0 / strength)
    weight_H = np.zeros(feature_nH.shape[1])
    weight_H[used] = found.weights[:, 0] / scale_H[used]
    return weight_H, float(found.offset[0])
