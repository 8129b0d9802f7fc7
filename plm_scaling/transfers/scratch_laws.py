"""The forms a scratch law may have, each fitted and weighted: D_t depends on the form more than on noise."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.ensemble import design_refusals
from plm_scaling.laws.fit import fit_sample
from plm_scaling.laws.forms import find_form
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.problem import Sample, make_sample

__all__ = ["FORMS", "LawMember", "ScratchLaw", "ScratchLaws"]

FORMS: Final = ("bounded", "bounded+batch", "log_quadratic", "gamma", "chinchilla")
"""Forms fitted where no law is given: they bend in different ways between and beyond the runs."""

_AS_GOOD: Final = 2.0
"""Forms whose misfit is within this factor of the best one's count."""
_LEAST_WEIGHT: Final = 0.02
_DRAWS: Final = 200


@dataclass(frozen=True)
class LawMember:
    """One form of the scratch law with its share among the forms."""

    surface: SurfaceFit
    weight: float

    @property
    def name(self) -> str:
        """The form's name; a plateau that was given is part of it."""
        fixed = self.surface.plateau
        return self.surface.form if fixed is None else f"{self.surface.form} (L0 {fixed:.3g})"


@dataclass(frozen=True)
class ScratchLaw:
    """The forms of one objective's scratch law, heaviest first; none where its runs determine no surface."""

    members: tuple[LawMember, ...] = ()
    flags: tuple[str, ...] = ()
    runs: RunTable | None = None
    """The table's scratch runs of this objective and validation set."""

    @property
    def best(self) -> SurfaceFit | None:
        """The surface that counts most."""
        return self.members[0].surface if self.members else None


class ScratchLaws:
    """Scratch laws by objective and validation set: those given, else fitted once to the table's scratch runs."""

    def __init__(self, table: RunTable, laws: Mapping[str, LawFit] | None = None, *, seed: int = 0) -> None:
        self._table = table
        self._given = dict(laws or {})
        self._seed = seed
        self._made: dict[Hashable, ScratchLaw] = {}

    def of(self, target: RunRow) -> ScratchLaw:
        """The law that a transferred run is read against."""
        key = (target.objective, target.validation_id, target.corpus_id, target.recipe_key)
        if key not in self._made:
            given = self._given.get(target.objective)
            law = _given_law(given, target) if given else ScratchLaw()
            runs = self._runs(target)
            if not law.members and len(runs):
                columns = [runs.column(name) for name in ("N", "D", "loss", "batch_tokens")]
                law = _equal_weights(make_sample(*columns), self._seed)
            self._made[key] = replace(law, runs=runs)
        return self._made[key]

    def _runs(self, target: RunRow) -> RunTable:
        return law_runs(self._table, target.objective).where(
            lambda row: (
                not row.excluded
                and (row.validation_id, row.corpus_id) == (target.validation_id, target.corpus_id)
                and row.recipe_key == target.recipe_key
            )
        )


def _given_law(law: LawFit, target: RunRow) -> ScratchLaw:
    """The forms that a fit holds, by their weights there; its surface alone where it holds no others."""
    held = [score for score in law.forms if score.surface and score.weight >= _LEAST_WEIGHT]
    total = sum(score.weight for score in held)
    members = [LawMember(score.surface, score.weight / total) for score in held if score.surface]
    if not members and law.surface is not None:
        members = [LawMember(law.surface, 1.0)]
    sets = {law.validation_id, target.validation_id} - {None}
    members.sort(key=lambda member: -member.weight)
    return ScratchLaw(tuple(members), ("LAW_OF_OTHER_SET",) if len(sets) > 1 and members else ())


def _equal_weights(sample: Sample, seed: int) -> ScratchLaw:
    """Equal weights over the forms whose misfit is within a factor of two of the best one's, best first."""
    fits = []
    for name in FORMS:
        form = find_form(name)
        if design_refusals(sample, name) or (form.has_batch and not sample.has_batches):
            continue
        fits.append(fit_sample(sample, form, draws=_DRAWS, seed=seed))
    if not fits:
        return ScratchLaw()
    fits.sort(key=lambda fit: fit.rms_relative_error)
    good = [fit for fit in fits if fit.rms_relative_error <= _AS_GOOD * fits[0].rms_relative_error]
    return ScratchLaw(tuple(LawMember(fit, 1.0 / len(good)) for fit in good))
