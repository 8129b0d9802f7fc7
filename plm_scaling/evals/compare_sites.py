"""`compare_objectives`: causal and masked models, public ones and profiles in one table of site-conditional nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.evals.adapters.base import Adapter, Letters
from plm_scaling.evals.bootstrap import Bootstrapped, holm, paired_mean_difference
from plm_scaling.evals.site_nats import SiteNats, drawn_units, site_nats
from plm_scaling.evals.site_sample import SiteSample, sample_sites

__all__ = [
    "SiteDifference",
    "SiteTable",
    "SiteWarning",
    "compare_objectives",
    "compare_site_nats",
]

SiteWarning = Literal["windows differ"]
"""windows differ: some models read long sequences whole and others in windows, which costs the latter context."""


@dataclass(frozen=True)
class SiteDifference:
    """A model against the one that the table is compared with.

    Attributes
    ----------
    nats : mean over the sites of its nats less the other's, paired by site, drawn by cluster; negative is better.
    p_holm : of no difference, two-sided, for the table as a whole.
    """

    model: str
    nats: Bootstrapped
    p_holm: float


@dataclass(frozen=True)
class SiteTable:
    """Site-conditional nats of several models on the same sites.

    Attributes
    ----------
    results : from the lowest mean to the highest.
    against : the model that the others are compared with.
    differences : of the other models, in the order of `results`.
    """

    sample: SiteSample
    letters: Letters
    results: tuple[SiteNats, ...]
    against: str
    differences: tuple[SiteDifference, ...]
    warnings: tuple[SiteWarning, ...] = ()

    def of(self, model: str) -> SiteNats:
        """The row of a model.

        Raises
        ------
        ConfigError : it is not in the table.
        """
        for result in self.results:
            if result.info.name == model:
                return result
        raise ConfigError(
            f"{model!r} is not in the table", hint=did_you_mean(model, [r.info.name for r in self.results])
        )


def compare_objectives(
    adapters: Sequence[Adapter],
    sequences: Sequence[str],
    sites: SiteSample | int = 8,
    *,
    against: str = "",
    letters: Letters = "20",
    clusters: Sequence[int] | None = None,
    draws: int = 1000,
) -> SiteTable:
    """Place models of any kind on one axis: each in the way it was trained for, all on the same sites.

    Parameters
    ----------
    sites : a sample of these sequences, or how many sites to draw of each.
    against : the model to compare the others with; the best one by default.
    clusters : of each sequence, drawn together for intervals; each sequence for itself by default.

    Raises
    ------
    ConfigError : models of one name, none at all, or `against` not among them.
    RefusedError : a model that gives no residue a probability, or a sample of other sequences.
    """
    sample = sites if isinstance(sites, SiteSample) else sample_sites(sequences, per_sequence=sites)
    results = [
        site_nats(adapter, sequences, sample, letters=letters, clusters=clusters, draws=draws) for adapter in adapters
    ]
    return compare_site_nats(results, against=against, draws=draws)


def compare_site_nats(results: Sequence[SiteNats], *, against: str = "", draws: int = 1000) -> SiteTable:
    """The same of results at hand.

    Raises
    ------
    ConfigError : models of one name, none at all, or `against` not among them.
    RefusedError : results of different sites or letters.
    """
    ordered = tuple(sorted(results, key=lambda result: result.mean.value))
    names = [result.info.name for result in ordered]
    if not names or len(set(names)) < len(names):
        raise ConfigError("models of a table need names of their own", why=f"they are {', '.join(names) or 'none'}")
    if against and against not in names:
        raise ConfigError(f"{against!r} is not in the table", hint=did_you_mean(against, names))
    if len({(result.sample.sha256, result.letters) for result in ordered}) > 1:
        raise RefusedError(
            "nats at different sites, or over different letters, are not compared",
            why="other sequences, another seed, or renormalised over the 20 amino acids in one of them only",
            hint="score all models on one sample, with one choice of letters",
        )
    base = ordered[names.index(against)] if against else ordered[0]
    sample = base.sample
    others = [result for result in ordered if result is not base]
    differences = [
        paired_mean_difference(result.values, base.values, clusters=drawn_units(base.clusters), draws=draws)
        for result in others
    ]
    adjusted = holm([1.0 if difference.p_value is None else difference.p_value for difference in differences])
    return SiteTable(
        sample=sample,
        letters=base.letters,
        results=ordered,
        against=base.info.name,
        differences=tuple(
            SiteDifference(result.info.name, difference, p)
            for result, difference, p in zip(others, differences, adjusted, strict=True)
        ),
        warnings=("windows differ",) if len({result.cut for result in ordered}) > 1 else (),
    )
