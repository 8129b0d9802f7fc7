"""Files of zero-shot tasks that are damaged are refused by line, or by variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.evals.adapters.doubles import UniformModel
from plm_scaling.evals.task import Asked
from plm_scaling.evals.zero_shot_tasks import TASKS

REFERENCE = (
    "DMS_id,DMS_filename,UniProt_ID,taxon,target_seq,coarse_selection_type\n"
    "BLAT_ECOLX_Stiffler_2015,b.csv,BLAT_ECOLX,Prokaryote,MSIQHFRVAL,Activity\n"
)


@pytest.mark.parametrize(
    ("table", "kind", "said"),
    [
        ("", CorpusError, "the file is empty"),
        ("mutant,2500\nS2A,1.0\nI3\n", CorpusError, "csv:3"),
        ("mutant,2500\nS2A,1.0\nI3A,nan\n", CorpusError, "csv:3, column 2500"),
        ("mutant,2500\nS2A,1.0\nW3A,2.0\n", ConfigError, "W3A"),
    ],
)
def test_damaged_tables_are_refused_where_they_are(tmp_path: Path, table: str, kind: type, said: str) -> None:
    (tmp_path / "DMS_substitutions.csv").write_text(REFERENCE)
    (tmp_path / "BLAT_ECOLX_Ranganathan2015_labeled.csv").write_text(table)
    (task,) = [task for task in TASKS if task.name == "blat.zero_shot"]
    with pytest.raises(kind) as refusal:
        task.measure(task, UniformModel(), Asked(data=tmp_path, resamples=20))
    assert said in str(refusal.value)
