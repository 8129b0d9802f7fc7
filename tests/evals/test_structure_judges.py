"""Structures are judged by programs and networks that are really there, or by what stands in their place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from plm_scaling.core.errors import CheckpointError, CorpusError
from plm_scaling.evals.foldseek import Foldseek
from plm_scaling.evals.structure_judge import AlignedJudge, JudgedFile, open_judge, reference_structures
from plm_scaling.evals.tmalign import TmAlign


def test_the_nearest_structure_by_the_program_itself(test_data: Path, tmp_path: Path) -> None:
    """A globin's nearest is itself with a score of 1, among others another globin; a broken file is named."""
    if shutil.which("TMalign") is None:
        pytest.skip("TM-align is not installed here: apt install tm-align")
    folder = test_data / "evals" / "structures"
    globins = [folder / f"{name}.pdb" for name in ("d1asha_", "d1b0ba_", "d1h97a_")]
    found = TmAlign().nearest(globins[:1], [*globins, folder / "2N2U.pdb"])
    assert found == [("d1asha_", 1.0)]
    [(name, score)] = TmAlign().nearest(globins[:1], [*globins[1:], folder / "2N2U.pdb"])
    assert name in ("d1b0ba_", "d1h97a_")
    assert 0.6 < score < 1.0
    (tmp_path / "odd.pdb").write_text("no atom\n")
    with pytest.raises(CorpusError, match="odd"):
        TmAlign().nearest(globins[:1], [tmp_path / "odd.pdb"])
    (tmp_path / "odd.pdb").unlink()
    for path in globins[:2]:
        shutil.copy(path, tmp_path)
    judge = AlignedJudge(JudgedFile(tmp_path), TmAlign(), reference_structures(tmp_path))
    sequence = next(iter(JudgedFile(tmp_path).files))
    [judged, none] = judge.judge([sequence, "MKV"])
    assert none is None
    assert judged is not None
    assert (judged.nearest, judged.tm) == ("d1asha_", 1.0)
    assert "nearest of 2 structures by TM-align" in judge.name


def test_a_search_names_the_nearest_by_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in Foldseek's place that answers in its columns; of several hits the best counts, no hit is 0."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.pdb").write_text("ATOM\n")
    program = tmp_path / "foldseek"
    program.write_text(
        "#!/bin/sh\n[ $1 = version ] && echo 9.made && exit\n[ -f $2/q0.pdb ] && [ -f $3/t1.pdb ] || exit 3\n"
        'printf "q0\\tt0\\t0.31\\nq0_A\\tt1.pdb\\t0.74\\n" > $4\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    paths = [tmp_path / "one.pdb", tmp_path / "two.pdb"]
    assert Foldseek().nearest(paths, paths) == [("two", 0.74), ("", 0.0)]
    assert Foldseek().name == "Foldseek 9.made"
    program.write_text("#!/bin/sh\necho no space left >&2; exit 1\n")
    with pytest.raises(CorpusError, match="no space left"):
        Foldseek().nearest(paths, paths)
    with pytest.raises(CorpusError, match="not installed"):
        Foldseek("foldseek-of-nobody")


@pytest.mark.slow
def test_generated_weights_fold_and_are_never_called_esmfold(tmp_path: Path) -> None:
    """A network of 60 thousand random weights goes the whole way: files, confidences, and a name without a claim."""
    transformers = pytest.importorskip("transformers")
    module = {"sequence_dim": 32, "pairwise_dim": 16, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2}
    module |= {"num_qk_points": 2, "num_v_points": 2, "num_blocks": 1}
    trunk = {"num_blocks": 1, "sequence_state_dim": 32, "pairwise_state_dim": 16, "sequence_head_width": 8}
    trunk |= {"pairwise_head_width": 8, "position_bins": 8, "max_recycles": 1, "structure_module": module}
    config = transformers.EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, position_embedding_type="rotary", is_folding_model=True,
        esmfold_config={"esm_type": "none", "fp16_esm": False, "lddt_head_hid_dim": 8, "trunk": trunk},
    )  # fmt: skip
    transformers.EsmForProteinFolding(config).save_pretrained(tmp_path / "made")
    judge = open_judge(f"esmfold:{tmp_path / 'made'}", structures=tmp_path / "out")
    [first, second] = judge.judge(["MKVLAAGG", "ACDEFGHIKL"])
    assert first is not None
    assert first.ptm is not None
    assert 0.0 < first.plddt < 100.0
    assert judge.judge(["MKVLAAGG"]) == [first]
    assert "ESMFold" not in judge.name
    read = JudgedFile(tmp_path / "out").judge(["ACDEFGHIKL"])[0]
    assert read is not None
    assert second is not None
    assert read.plddt == pytest.approx(second.plddt, abs=1.0)
    with pytest.raises(CheckpointError, match="no weights of ESMFold's network"):
        open_judge(f"esmfold:{tmp_path}", structures=tmp_path / "out")
