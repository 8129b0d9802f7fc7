"""An audit as lines and rows for a terminal."""

from __future__ import annotations

from typing import Any

from plm_scaling.core.units import format_amount, format_count
from plm_scaling.sizing.audit_records import Audit, AuditLine, AuditTable

__all__ = ["audit_lines", "exact_rows", "table_rows"]


def audit_lines(audit: Audit) -> list[str]:
    """One model: what is known of it, then every law's verdict."""
    lines = [
        f"{audit.model}: {audit.objective.upper()}, N {format_count(audit.N)}{_training(audit)}",
        "",
    ]
    for line in audit.lines:
        lines += _law_lines(line)
    return lines


def _training(audit: Audit) -> str:
    if audit.D is None or audit.C is None:
        return ", training tokens unknown"
    status = "" if audit.tokens_status in ("read", "stated") else f" [{audit.tokens_status}]"
    ratio = audit.D / audit.N
    return (
        f", D {format_count(audit.D)}{status}, {format_amount(ratio)} tokens per parameter, {audit.C:.2e} FLOPs (6 N D)"
    )


def _law_lines(line: AuditLine) -> list[str]:
    head = f"  {line.law_id} [{line.status}]: {_verdict(line)}"
    if line.flags:
        head += f"  {','.join(line.flags)}"
    lines = [head]
    if line.verdict == "refused":
        lines.append(f"    {line.reason} (--force)")
    if line.N_opt is not None and line.D_opt is not None:
        band = ""
        if line.N_low is not None and line.N_high is not None:
            band = f" (band {format_count(line.N_low, 2)} to {format_count(line.N_high, 2)})"
        lines.append(
            f"    best for this compute    N {format_count(line.N_opt, 2)}{band} on D {format_count(line.D_opt, 2)}"
        )
    if line.D_fit is not None:
        lines.append(f"    tokens that fit its size {format_count(line.D_fit, 2)}")
    return [*lines, *_cost_lines(line)]


def _cost_lines(line: AuditLine) -> list[str]:
    lines = []
    if line.wasted is not None and line.N_equal is not None and line.D_equal is not None:
        lines.append(
            f"    same loss for less       N {format_count(line.N_equal, 2)} on D {format_count(line.D_equal, 2)}: "
            f"{line.wasted:.0%} of the training compute wasted; {_serving(line)}"
        )
    if line.loss_gap is not None:
        lines.append(f"    loss above the best      {line.loss_gap:.4f} nats per token")
    return lines


def _serving(line: AuditLine) -> str:
    saving = line.serving_saving or 0.0
    if abs(saving) < 0.005:
        return "serving costs the same"
    return f"serving it costs {abs(saving):.0%} {'less' if saving > 0 else 'more'}"


def _verdict(line: AuditLine) -> str:
    if line.size_factor is None or line.verdict == "about right":
        return line.verdict if line.size_factor is None else f"about right ({_times(line.size_factor)})"
    return f"{line.verdict}, {_times(line.size_factor)}"


def _times(factor: float) -> str:
    """How far a size is from the best one."""
    if abs(factor - 1.0) < 0.05:
        return "the best size"
    if factor < 1:
        return f"1/{format_count(1 / factor, 2)} of the best size"
    return f"{format_count(factor, 2)}x the best size"


def table_rows(table: AuditTable) -> list[dict[str, Any]]:
    """One row per model and law that a recommendation would use; a law kept for comparison only has none."""
    return [_row(audit, line) for audit in table.audits for line in _shown(audit)]


def _shown(audit: Audit) -> list[AuditLine]:
    """The first law of the objective, and the first that prices the size."""
    first = list(audit.lines[:1])
    priced = [line for line in audit.lines if "TEXT_LAW" in line.flags]
    return [*first, *(line for line in priced[:1] if line not in first)]


def _row(audit: Audit, line: AuditLine) -> dict[str, Any]:
    count = format_count
    mark = "?" if audit.tokens_status == "unverified" else ""
    return {
        "model": audit.model,
        "objective": audit.objective,
        "N": count(audit.N),
        "D": "unknown" if audit.D is None else f"{count(audit.D)}{mark}",
        "law": line.law_id,
        "best N": None if line.N_opt is None else count(line.N_opt, 2),
        "N / best": None if line.size_factor is None else f"{line.size_factor:.2g}",
        "verdict": line.verdict,
        "tokens that fit": None if line.D_fit is None else count(line.D_fit, 2),
        "wasted": None if line.wasted is None else f"{line.wasted:.0%}",
        "decades outside": None if audit.C is None else f"{line.decades_outside:.1f}",
    }


def exact_rows(table: AuditTable) -> list[dict[str, Any]]:
    """One row per model and law, every number as it is."""
    return [
        {
            "model": audit.model,
            "objective": audit.objective,
            "N": audit.N,
            "D": audit.D,
            "C": audit.C,
            "tokens_status": audit.tokens_status,
            **line.model_dump(mode="json", exclude={"flags", "range_C", "source", "caveat"}),
            "flags": ",".join(line.flags),
        }
        for audit in table.audits
        for line in audit.lines
    ]
