"""The losses of every validation sequence that a run left in its `val.parquet`. n sequences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError, did_you_mean
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.format import VAL_IID

__all__ = ["SequenceLosses", "read_val"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_VAL_COLUMNS: Final = ("row", "loss_sum", "n_targets", "residue_loss_sum", "n_residue_targets")


@dataclass(frozen=True)
class SequenceLosses:
    """Losses of one run on one validation set, one entry per sequence, by rising row.

    Attributes
    ----------
    row : int64[n], records of the corpus.
    loss_sum, residue_loss_sum : float64[n], nats, over all targets and over residues only.
    n_targets, n_residue_targets : int64[n].
    """

    row: Int
    loss_sum: Float
    n_targets: Int
    residue_loss_sum: Float
    n_residue_targets: Int


def read_val(runs_dir: Path, run_id: str, validation: str = VAL_IID) -> SequenceLosses:
    """Per-sequence losses of a run.

    Raises
    ------
    RecordError : no `val.parquet`, a damaged one, or one without this set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = RunFolder(runs_dir / run_id).val_path
    try:
        table = pq.read_table(path, columns=["set", *_VAL_COLUMNS])
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"no per-sequence losses of this run: {error}", where=str(path)) from None
    names = np.asarray(table["set"].to_pylist(), dtype=str)
    here = names == validation
    if not here.any():
        raise RecordError(
            f"the run was not scored on {validation!r}", where=str(path), hint=did_you_mean(validation, set(names))
        )
    columns = {name: table[name].to_numpy()[here] for name in _VAL_COLUMNS}
    order = np.argsort(columns["row"], kind="stable")
    return SequenceLosses(
        row=columns["row"][order].astype(np.int64),
        loss_sum=columns["loss_sum"][order].astype(np.float64),
        n_targets=columns["n_targets"][order].astype(np.int64),
        residue_loss_sum=columns["residue_loss_sum"][order].astype(np.float64),
        n_residue_targets=columns["n_residue_targets"][order].astype(np.int64),
    )
