"""The verbs about what models write and give away; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plm_scaling.evals.alarms import Alarm
    from plm_scaling.evals.generation import GenerationReport
    from plm_scaling.evals.memorisation import MemorisationReport

__all__ = ["evaluate_generate", "evaluate_memorisation", "evaluate_sizes"]

_MEASURED: Final = 1000
"""Drawn sequences whose qualities are measured: clustering takes the square of their number."""


def evaluate_memorisation(
    model: str | Path,
    seen: str | Path,
    unseen: str | Path,
    out: str | Path | None = None,
    *,
    before: str | Path | None = None,
    references: int = 64,
    shown: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> MemorisationReport:
    """What a model gives away of sequences it was trained on, beside matched ones it was not trained on.

    Parameters
    ----------
    model, before : see `evals.adapters.opening`; `before` is the model before it was trained on `seen`.
    seen, unseen : FASTA files; of the same origin and families.
    out : file of the report, which `export` reads.
    references, shown : see `evals.memorisation.measure_memorisation`.
    resamples : draws of the intervals.

    Raises
    ------
    CorpusError : a file that cannot be read. RefusedError : too few sequences, or some in both files.
    CheckpointError : weights that cannot be read.
    """
    from plm_scaling.evals.adapters.opening import open_adapter
    from plm_scaling.evals.fasta import read_fasta
    from plm_scaling.evals.memorisation import measure_memorisation

    first, second = ([one.sequence for one in read_fasta(Path(path))] for path in (seen, unseen))
    report = measure_memorisation(
        open_adapter(str(model)),
        first,
        second,
        before=None if before is None else open_adapter(str(before)),
        references=references,
        shown=shown,
        draws=resamples,
        seed=seed,
    )
    if out is not None:
        report.write(Path(out))
    return report


def evaluate_generate(
    model: str | Path,
    out: str | Path | None = None,
    *,
    n: int = 100,
    prompt: str = "",
    longest: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    natural: str | Path | None = None,
    corpus: str | Path | None = None,
    judged: str | Path | None = None,
    structures: str | Path = "structures",
    references: str | Path | None = None,
    fasta: str | Path | None = None,
    keep: str | Path | None = None,
    shortest: int = 30,
    near: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
) -> GenerationReport:
    """Draw sequences from a causal model and measure the first thousand beside natural and shuffled ones.

    Parameters
    ----------
    model : see `evals.adapters.opening`.
    out : file of the report.
    n, prompt, longest, temperature, top_p : see `evals.sampling.sample_sequences`.
    natural : held-out proteins (FASTA).
    corpus : what the model was trained on, for novelty.
    judged : structures judged elsewhere (`evals.structure_judge.JudgedFile`), or `esmfold:FOLDER` of weights.
    structures, references : folders of predicted and of known structures, see `evals.structure_judge.open_judge`.
    fasta : file for the sequences.
    keep : file for those that may serve as training data (`evals.sieve`).
    shortest, near : what is left out of it: fewer residues, or at least this identity to a record of the corpus.
    resamples : draws of the intervals.

    Raises
    ------
    RefusedError : the model is not causal. CorpusError : a file that cannot be read, or no program that aligns.
    ConfigError : known structures and none to set beside them.
    CheckpointError : weights that cannot be read.
    """
    from plm_scaling.core.errors import ConfigError
    from plm_scaling.core.files import write_atomic
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.evals.adapters.opening import open_adapter
    from plm_scaling.evals.fasta import read_fasta
    from plm_scaling.evals.generation import evaluate_generation
    from plm_scaling.evals.sampling import drawn_fasta, sample_sequences
    from plm_scaling.evals.sieve import sieve
    from plm_scaling.evals.structure_judge import open_judge

    adapter = open_adapter(str(model))
    kept = [] if natural is None else [one.sequence for one in read_fasta(Path(natural))]
    known = Corpus.open(Path(corpus)) if corpus else None
    if references is not None and judged is None:
        raise ConfigError("known structures, and none to set beside them", hint="judged: a folder, or esmfold:FOLDER")
    around = None if references is None else Path(references)
    judge = open_judge(str(judged), structures=Path(structures), references=around) if judged else None
    drawn = sample_sequences(
        adapter, n, prompt=prompt, longest=longest, temperature=temperature, top_p=top_p, seed=seed
    )
    if fasta is not None:
        write_atomic(Path(fasta), drawn_fasta(drawn))
    report = evaluate_generation(
        adapter, n=n, natural=kept, corpus=known, judge=judge, prompt=prompt, temperature=temperature, top_p=top_p,
        longest=longest, drawn=drawn[:_MEASURED], draws=resamples, seed=seed,
    )  # fmt: skip
    if keep is not None:
        chosen, sieved = sieve(drawn, corpus=known, shortest=shortest, near=near)
        write_atomic(Path(keep), drawn_fasta(chosen))
        report = report.model_copy(update={"sieved": sieved})
    if out is not None:
        report.write(Path(out))
    return report


def evaluate_sizes(out: str | Path) -> tuple[Alarm, ...]:
    """Alarms about families of models in a file of results whose sizes contradict each other.

    Raises
    ------
    RecordError : no such file, or no results.
    """
    from plm_scaling.evals.results import read_rows
    from plm_scaling.evals.size_audit import audit_sizes

    return audit_sizes(read_rows(Path(out)))
