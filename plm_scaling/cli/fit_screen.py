"""A fitted law as rows for a terminal."""

from __future__ import annotations

from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import Interval, LawFit

__all__ = ["law_rows", "with_interval"]

Row = dict[str, str]


def with_interval(interval: Interval | None) -> str:
    """0.68 [0.51, 0.93], with the digits the interval's width allows."""
    if interval is None:
        return "not identified"
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def law_rows(fit: LawFit) -> list[Row]:
    """Minima per budget, exponents, surface parameters: quantity, estimate with interval, flags."""
    rows: list[Row] = []
    if fit.isoflop:
        for row in fit.isoflop.rows:
            where = "-"
            if row.N_opt:
                low, high = format_count(row.N_opt.low), format_count(row.N_opt.high)
                where = f"{format_count(row.N_opt.value)} [{low}, {high}]"
            rows.append({"quantity": f"N_opt at C = {row.C:.3g}", "estimate": where, "flags": ",".join(row.flags)})
        for name, exponent in (("N_opt ~ C^a, a", fit.isoflop.a_N), ("D_opt ~ C^b, b", fit.isoflop.a_D)):
            rows.append({"quantity": name, "estimate": with_interval(exponent), "flags": ",".join(fit.isoflop.flags)})
    if fit.surface:
        for name, value in fit.surface.parameters.items():
            rows.append({"quantity": f"surface {name}", "estimate": with_interval(value), "flags": ""})
        rows.append(
            {
                "quantity": "surface beta/(alpha+beta)",
                "estimate": with_interval(fit.surface.a_N),
                "flags": ",".join(fit.surface.flags),
            }
        )
        rows.append(
            {"quantity": "surface rms error", "estimate": f"{100 * fit.surface.rms_relative_error:.2g} %", "flags": ""}
        )
    if fit.noise_sd is not None:
        rows.append({"quantity": "seed noise (sd)", "estimate": f"{fit.noise_sd:.2g} nats", "flags": ""})
    return rows
