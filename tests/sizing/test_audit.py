from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.laws.law_fit import Interval, LawFit, SurfaceFit
from plm_scaling.laws.zoo import PublishedLaw, find_law
from plm_scaling.sizing.answers import published_sizing_law
from plm_scaling.sizing.audit import audit_models, audit_under
from plm_scaling.sizing.audit_records import Audit, AuditLine, AuditTable
from plm_scaling.sizing.trained_models import TrainedModel, all_trained_models


def line_of(model: str, law: str, *, force: bool = False) -> AuditLine:
    (audit,) = api.audit(model, laws=[law], force=force).audits
    (line,) = audit.lines
    return line


# ---- published answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["zoo:besiroglu2024", "chinchilla2022-refit"])
def test_gopher_should_have_been_chinchilla(law: str) -> None:
    """280B on 300B tokens: about 70B on about four times the tokens (Hoffmann et al. 2022, abstract)."""
    line = line_of("gopher", law, force=True)
    assert line.verdict == "too large"
    assert line.N_opt == pytest.approx(70e9, rel=0.05)
    assert line.D_opt == pytest.approx(4 * 300e9, rel=0.05)
    assert line.size_factor == pytest.approx(4.0, rel=0.05)
    assert line.wasted is not None
    assert 0.4 < line.wasted < 0.6


def test_gopher_by_the_third_approach_as_printed() -> None:
    """Its rounded coefficients ask for less than half the size that the paper then built."""
    line = line_of("gopher", "hoffmann2022", force=True)
    assert line.N_opt is not None
    assert line.N_opt == pytest.approx(3.03e10, rel=0.01)


def test_the_models_of_the_study_fit_its_own_laws() -> None:
    """7.2B CLM and 10.7B MLM are what the laws say for their budgets (Cheng et al. 2024), beyond the laws' range."""
    for model, law in (("cheng-7b", "cheng-clm"), ("cheng-10b", "cheng-mlm")):
        line = line_of(model, law, force=True)
        assert line.verdict == "about right"
        assert line.size_factor == pytest.approx(1.0, abs=0.03)
        assert line_of(model, law).verdict == "refused"


# ---- closed forms and brute force ----------------------------------------------------------------------------------

exponents = st.floats(0.1, 0.8)


@given(
    E=st.floats(0, 2),
    A=st.floats(10, 5000),
    B=st.floats(10, 50_000),
    alpha=exponents,
    beta=exponents,
    log_N=st.floats(math.log(1e6), math.log(1e12)),
    log_D=st.floats(math.log(1e8), math.log(1e13)),
)
def test_against_the_closed_form_of_two_powers(
    E: float, A: float, B: float, alpha: float, beta: float, log_N: float, log_D: float
) -> None:
    """Best loss is E + K C^-g with g = ab/(a+b), so equal loss costs C ((L_best - E)/(L - E))^(1/g)."""
    params = {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta}
    published = PublishedLaw(id="x", objective="clm", form="chinchilla", status="read", source="", params=params)
    N, D = math.exp(log_N), math.exp(log_D)
    line = audit_under(published_sizing_law(published), N, D)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    C = 6 * N * D
    N_opt = G * (C / 6) ** (beta / (alpha + beta))
    assert line.N_opt == pytest.approx(N_opt, rel=1e-9)
    above = A * N**-alpha + B * D**-beta
    best = A * N_opt**-alpha + B * (C / 6 / N_opt) ** -beta
    C_equal = C * (best / above) ** ((alpha + beta) / (alpha * beta))
    assert line.loss_gap == pytest.approx(above - best, rel=1e-6, abs=1e-9)
    if C_equal > C * 1e-9 and above > 1e-3:
        assert line.C_equal == pytest.approx(C_equal, rel=1e-4)
        assert line.wasted == pytest.approx(1 - C_equal / C, abs=1e-4)
        assert line.N_equal == pytest.approx(G * (C_equal / 6) ** (beta / (alpha + beta)), rel=1e-4)
    if line.D_fit is not None:
        assert G * (N * line.D_fit) ** (beta / (alpha + beta)) == pytest.approx(N, rel=1e-9)


def test_no_model_of_equal_loss_trains_for_less() -> None:
    """Brute force over sizes: the tokens each needs for the same loss, and the compute that takes."""
    law = find_law("besiroglu2024")
    N, D = 175e9, 300e9
    line = audit_under(published_sizing_law(law), N, D)
    p = law.params
    sizes = np.geomspace(1e9, 1e12, 200_001)
    left = line.loss - p["E"] - p["A"] * sizes ** -p["alpha"]  # type: ignore[operator]
    with np.errstate(invalid="ignore"):
        compute = np.where(left > 0, 6 * sizes * (p["B"] / left) ** (1 / p["beta"]), np.inf)
    assert line.C_equal == pytest.approx(compute.min(), rel=1e-7)
    assert line.N_equal == pytest.approx(sizes[compute.argmin()], rel=1e-3)


@pytest.mark.parametrize("name", ["cheng-clm", "cheng-a9-clm", "besiroglu2024", "muennighoff2023"])
@pytest.mark.parametrize("N", [3e6, 6.5e8, 1e10])
def test_tokens_that_fit_make_the_size_the_best_one(name: str, N: float) -> None:
    law = published_sizing_law(find_law(name))
    tokens = audit_under(law, N, None, force=True).D_fit
    assert tokens is not None
    line = audit_under(law, N, tokens, force=True)
    assert line.size_factor == pytest.approx(1.0, rel=1e-9)
    assert line.verdict == "about right"
    if line.loss is not None:
        assert line.wasted == pytest.approx(0.0, abs=1e-3)
        assert line.serving_saving == pytest.approx(0.0, abs=1e-3)


# ---- doubts --------------------------------------------------------------------------------------------------------


def test_far_from_its_runs_a_law_refuses_until_forced() -> None:
    refused, forced = (api.audit("esm2-15b", laws=["cheng-mlm"], force=force) for force in (False, True))
    assert not refused.answered
    (line,) = refused.audits[0].lines
    assert (line.verdict, line.N_opt, line.D_fit) == ("refused", None, None)
    assert "2.4 decades above" in line.reason
    assert any("--force" in note for note in refused.notes)
    assert forced.audits[0].lines[0].size_factor == pytest.approx(15.1e9 / (6.19e-8 * 7.79e22**0.776), rel=5e-3)
    assert {"ABOVE_RANGE", "FAR_OUTSIDE_RANGE"} <= set(forced.audits[0].flags)


def test_every_flag_of_a_line_is_spelt_out() -> None:
    for audit in (*api.audit().audits, *api.audit(force=True).audits):
        assert {flag for line in audit.lines for flag in line.flags} <= set(audit.flags)
        assert len(audit.warnings) >= len(audit.flags)
        assert not [word for word in audit.warnings if word.split(": ")[-1].rstrip(".").isupper()]


def test_a_protein_model_meets_its_own_laws_before_those_of_text() -> None:
    (audit,) = api.audit("ESM2_t33_650M_UR50D").audits
    assert audit.model == "esm2-650m"
    assert [line.law_id for line in audit.lines[:3]] == ["cheng2024-fits-mlm", "cheng-mlm", "cheng-a9-mlm"]
    assert audit.lines[0].wasted is not None, "its own losses price the size, not those of text"
    assert "COST_NOT_STATED" not in audit.flags
    assert "TEXT_LAW" in audit.lines[3].flags
    assert "clm" not in " ".join(line.law_id for line in audit.lines)
    assert "TOKENS_NOT_NEW" in audit.flags


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_what_size_recommends_the_audit_calls_right(objective: str) -> None:
    plan = api.size(objective=objective, flops=1e21)
    (audit,) = api.audit(params=plan.N, tokens=plan.D, objective=objective).audits
    first = audit.lines[0]
    assert first.law_id == plan.answers[0].law_id
    assert first.verdict == "about right"
    # `size` weighs draws, the audit asks the estimates alone.
    assert first.size_factor == pytest.approx(1.0, abs=0.05)
    assert first.wasted == pytest.approx(0.0, abs=0.01)
    (large,) = api.audit(params=4 * plan.N, tokens=plan.D / 4, objective=objective).audits
    assert large.lines[0].verdict == "too large"
    assert large.lines[0].loss_gap == pytest.approx(large.lines[0].loss - first.loss, rel=0.01)


def test_text_models_are_no_proteins() -> None:
    (audit,) = api.audit("gpt3").audits
    assert "TEXT_LAW" not in audit.flags
    assert {found.model for found in api.audit().audits}.isdisjoint({"gpt3", "gopher"})
    with pytest.raises(ConfigError, match="none of these laws"):
        api.audit("gpt3", laws=["cheng-clm"])


def test_what_is_not_known_of_a_model_is_not_made_up() -> None:
    (audit,) = api.audit("progen2-small").audits
    assert (audit.D, audit.C) == (None, None)
    assert "TOKENS_UNKNOWN" in audit.flags
    assert {line.verdict for line in audit.lines} == {"tokens unknown"}
    assert audit.lines[0].D_fit is not None
    assert audit.lines[0].size_factor is None
    (told,) = api.audit("progen2-small", tokens=2e11).audits
    assert told.lines[0].size_factor is not None
    assert (told.D, told.tokens_status) == (2e11, "stated")


def test_recalled_tokens_are_said_to_be() -> None:
    unverified = [model.name for model in all_trained_models() if model.status == "unverified"]
    assert unverified == ["esm2-15b"]
    assert "TOKENS_UNVERIFIED" in api.audit("esm2-15b").audits[0].flags


def test_tokens_follow_from_published_compute() -> None:
    (audit,) = api.audit("progen2-xlarge").audits
    assert pytest.approx(1.34e22, rel=1e-12) == audit.C
    assert pytest.approx(347e9, rel=0.01) == audit.D


def test_a_table_row_cannot_contradict_itself() -> None:
    fields = {"name": "x", "objective": "mlm", "source": "s"}
    for wrong in (
        {"params": 1e9, "size": "esm2-8m"},
        {"size": "esm2-9m"},
        {"params": 1e9, "tokens": 1e9},
        {"params": 1e9, "status": "read"},
        {"params": 1e9, "tokens": 1e9, "flops": 1e20, "status": "read"},
    ):
        with pytest.raises(ConfigError):
            TrainedModel.checked(**fields, **wrong)


# ---- one's own -----------------------------------------------------------------------------------------------------


def own_fit() -> LawFit:
    values = {"E": 2.0, "A0": 0.4, "B0": 0.3, "alpha": 0.35, "beta": 0.3}
    rng = np.random.default_rng(0)
    draws = tuple(tuple(float(v * math.exp(rng.normal(0, 0.05))) for v in values.values()) for _ in range(50))
    surface = SurfaceFit(
        N0=1e8,
        D0=1e10,
        parameters={name: Interval(value=v, low=v, high=v) for name, v in values.items()},
        draws=draws,
        huber_delta=1e-3,
        objective_value=0.0,
        starts=1,
        starts_agreeing=1.0,
        rms_relative_error=0.0,
        a_N=Interval(value=0.46, low=0.4, high=0.5),
        range_N=(1e6, 1e8),
        range_D=(1e8, 1e10),
    )
    return LawFit.model_validate(
        {
            "objective": "mlm",
            "currency": "C_6nd",
            "n_runs": 12,
            "surface": surface,
            "range_C": (1e17, 1e19),
            "data_hash": "0",
        }
    )


def test_a_fit_of_ones_own_judges_with_its_own_interval(tmp_path: Path) -> None:
    path = own_fit().write(tmp_path / "fit-mlm.json")
    (audit,) = api.audit(params=1e9, tokens=1e10, objective="mlm", laws=[path]).audits
    (line,) = audit.lines
    assert line.law_id == "own-mlm-surface"
    assert line.verdict == "too large"
    assert line.N_low is not None
    assert line.N_high is not None
    assert line.N_low < line.N_opt < line.N_high < 1e9  # type: ignore[operator]
    p = {"E": 2.0, "A": 0.4 * 1e8**0.35, "B": 0.3 * 1e10**0.3, "alpha": 0.35, "beta": 0.3}
    same = PublishedLaw(id="x", objective="mlm", form="chinchilla", status="read", source="", params=p)
    (expected,) = (
        audit_models(
            [TrainedModel(name="x", objective="mlm", params=1e9, tokens=1e10, status="stated", source="")], [same]
        )
        .audits[0]
        .lines
    )
    assert line.wasted == pytest.approx(expected.wasted, rel=1e-6)
    assert line.D_fit == pytest.approx(expected.D_fit, rel=1e-6)


def test_a_table_of_audits_is_a_file(tmp_path: Path) -> None:
    table = api.audit()
    assert AuditTable.read(table.write(tmp_path / "audit.json")) == table
    assert {type(audit) for audit in table.audits} == {Audit}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"model": "esm3-8m"}, "no model is called"),
        ({"model": "esm2-8m", "params": 1e9}, "its own parameters"),
        ({"params": 1e9, "tokens": 1e9}, "which objective"),
        ({"tokens": 1e9}, "tokens of which model"),
        ({"model": "cheng-650m"}, "which objective"),
        ({"model": "esm2-8m", "laws": ["zoo:serrano2024"]}, "does not say which size"),
        ({"model": "esm2-8m", "laws": ["zoo:nobody"]}, "no published law"),
        ({"params": 1e300, "tokens": 1e12, "objective": "mlm"}, r"params = 1e\+300 is above"),
    ],
)
def test_what_cannot_be_audited_is_said(words: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        api.audit(**words)  # type: ignore[arg-type]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no complete run"):
        api.audit(tmp_path)
    with pytest.raises(ConfigError, match="its own tokens"):
        api.audit(tmp_path, tokens=1e9)
