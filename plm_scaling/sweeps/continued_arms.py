"""Arms that begin with a trained model: continued pre-training, and students of a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus.mixture import canonical_sources, mixture, trained_on
from plm_scaling.sweeps.arm_records import ContinuedArm, DistilArm
from plm_scaling.sweeps.drafts import Draft, RunParts, Weights, started_from, weighted
from plm_scaling.sweeps.sizes import size_text

__all__ = ["continued_runs", "distil_runs"]


def continued_runs(parts: RunParts, arm: ContinuedArm, known: Mapping[str, RunConfig], where: str) -> Iterator[Draft]:
    """The continuation; with the remedy `quality_first` a run on the best part, and one on all data that follows it.

    Parameters
    ----------
    known : runs of the plan that the arm may start from, by id.

    Raises
    ------
    PlanError : weights that are not there, or whose shape nothing states.
    """
    weights = parts.weights(arm.init_from, known, f"{where}.from")
    shape = _shape_of(parts, arm, weights, where)
    for seed in arm.seeds or parts.spec.seeds:
        phases = _phases(parts, arm, where)
        start, path = weights.name, weights.path
        for number, (D, streams) in enumerate(phases, start=1):
            config = started_from(parts.config(arm.objective, shape, D, streams, seed), start, arm.rewarm)
            if arm.method == "lora":
                config = config.model_copy(update={"lora_rank": arm.lora_rank, "lora_alpha": arm.lora_alpha})
            yield Draft(config, ("continued",) if number == len(phases) else ("continued_first",), init_path=path)
            start, path = config.run_id, None


def _shape_of(parts: RunParts, arm: ContinuedArm, weights: Weights, where: str) -> ModelShape:
    asked = parts.shape(arm.size, where) if arm.size else None
    shape = weights.shape or asked
    if shape is None:
        raise PlanError(
            f"the size of the weights {arm.init_from} is not known before training",
            where=where,
            why="no config.json and no run's order lies beside them",
            hint='give size, by name ("esm2-8m") or as numbers with the spec\'s architecture',
        )
    if asked not in (None, shape):
        raise PlanError(f"the weights are of size {size_text(shape)}, the arm says {arm.size}", where=f"{where}.size")
    return shape


def _phases(parts: RunParts, arm: ContinuedArm, where: str) -> list[tuple[int, tuple[Stream, ...]]]:
    """Tokens and streams of the runs that follow each other."""
    whole = parts.all_streams()
    if arm.remedy == "subset_epochs":
        assert arm.subset_tokens is not None
        assert arm.epochs is not None
        D = parts.tokens(arm.subset_tokens * arm.epochs, where, "subset_tokens")
        return [(D, parts.limited(whole, arm.subset_tokens, where))]
    assert arm.D is not None
    D = parts.tokens(arm.D, where, "D")
    if arm.remedy == "quality_first":
        spec = parts.spec
        best = parts.streams(spec.mixture, spec.sampling, (*spec.exclude, *arm.quality_exclude))
        first = round(D * arm.quality_share)
        if not 0 < first < D:
            raise PlanError(f"{D} tokens cannot be shared by two runs", where=f"{where}.D")
        return [(first, best), (D - first, whole)]
    if arm.remedy == "replay":
        assert arm.replay_source is not None
        return [(D, _with_replay(parts, arm.replay_source, arm.replay_share, where))]
    return [(D, whole)]


def _with_replay(parts: RunParts, source: str, share: float, where: str) -> tuple[Stream, ...]:
    """The spec's streams without the replay source, and that one at its share of the windows."""
    spec, corpus = parts.spec, parts.corpus
    canonical_sources(corpus, (source,))  # refuses an unknown one
    named = spec.mixture if isinstance(spec.mixture, dict) else None
    others = [name for name in named or spec.sources or trained_on(corpus) if name != source]
    if not others:
        raise PlanError(
            f"{source!r} is the only source drawn from", where=f"{where}.replay_source", hint="name another one"
        )
    new = mixture(
        corpus,
        {name: named[name] for name in others} if named else spec.mixture,
        () if named else others,
        context=spec.context,
        sampling=spec.sampling,
        exclude=spec.exclude,
    )
    total = sum(stream.weight for stream in new)
    return (*(weighted(s, (1 - share) * s.weight / total) for s in new), weighted(parts.only(source), share))


def distil_runs(parts: RunParts, arm: DistilArm, known: Mapping[str, RunConfig], where: str) -> Iterator[Draft]:
    """Every student at every share of the teacher, and without the teacher, to which its gain is read.

    Parameters
    ----------
    known : runs of the plan that may be the teacher, by id.

    Raises
    ------
    PlanError : a teacher that is not there, of the other objective, or with another vocabulary.
    """
    teacher = parts.weights(arm.teacher, known, f"{where}.teacher")
    run = known.get(teacher.name)
    if run is not None and run.objective != arm.objective:
        raise PlanError(
            f"the teacher {teacher.name} was trained for {run.objective}",
            where=f"{where}.objective",
            hint="teacher and student need the same objective",
        )
    D, streams = parts.tokens(arm.D, where, "D"), parts.all_streams()
    for size in arm.sizes:
        shape = parts.shape(size, where)
        if teacher.shape is not None and teacher.shape.vocab != shape.vocab:
            raise PlanError(
                f"a teacher of architecture {teacher.shape.architecture} cannot teach {size}",
                where=where,
                why=f"they number {teacher.shape.vocab} and {shape.vocab} symbols",
            )
        for seed in arm.seeds or parts.spec.seeds:
            plain = parts.config(arm.objective, shape, D, streams, seed)
            yield Draft(plain, ("distil",))
            for share in arm.shares:
                taught = {"teacher": teacher.name, "teacher_share": share, "teacher_temperature": arm.temperature}
                student = plain.model_copy(update=taught)
                yield Draft(student, ("distil",), teacher_path=teacher.path, teacher_shape=teacher.shape)
