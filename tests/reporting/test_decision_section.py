"""The decision on the report: its numbers are those of size.json, its curves those of the laws, its gaps explained."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.units import format_count
from plm_scaling.laws.interval import Interval
from plm_scaling.reporting.decision_curves import frontier_of, repeat_curve
from plm_scaling.reporting.decision_prices import budget_spending
from plm_scaling.reporting.decision_section import DecisionPart, decision_part, part_of
from plm_scaling.reporting.decision_tables import tabulate_coefficients
from plm_scaling.reporting.decision_view import ASSUMED_FACTOR, DecisionView, view_decision
from plm_scaling.reporting.law_origins import LawOrigin, law_origins
from plm_scaling.reporting.loading import load_study
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study
from plm_scaling.sizing.action import Action
from plm_scaling.sizing.adaptation import Adaptation
from plm_scaling.sizing.adaptation_pilots import AdaptationPilots
from plm_scaling.sizing.allocation import plan_allocation
from plm_scaling.sizing.allocation_risk import Allocation
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.default_laws import published_ensemble, published_fit
from plm_scaling.sizing.law_identity import law_sha256
from plm_scaling.sizing.pilots import PilotPlan, PilotValue
from plm_scaling.sizing.recommend import Budget, recommend
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sizing.tornado import Swing, Tornado
from tests.reporting.page_kit import ensemble, repeat_fit


@pytest.fixture(scope="module")
def study() -> Study:
    """Fits of both objectives, and what `size` answered from one of them."""
    laws = {objective: published_fit(objective) for objective in ("clm", "mlm")}
    sizing = recommend(Budget(usd=5000), "mlm", gpu="h100", n_gpus=8, unique_tokens=15e9, laws=[laws["mlm"]])
    return Study(name="decided", laws={"clm": laws["clm"], "mlm": laws["mlm"]}, sizing=sizing)


@pytest.fixture(scope="module")
def view(study: Study) -> DecisionView:
    found = view_decision(study)
    assert isinstance(found, DecisionView)
    return found


@pytest.fixture(scope="module")
def part(study: Study, view: DecisionView) -> DecisionPart:
    return part_of(view, study)


@pytest.fixture
def no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published scores are left out where they are not what is looked at: their pictures take a second."""
    monkeypatch.setattr("plm_scaling.reporting.decision_view._DOWNSTREAM", ())


@pytest.fixture(scope="module")
def unnamed(study: Study) -> Study:
    """The same study before anybody has named a budget."""
    return dataclasses.replace(study, sizing=None)


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html).replace("\u00a0", " "))


def stated(study: Study, **decided: object) -> Study:
    """The study with another decision in its size.json."""
    assert study.sizing
    assert study.sizing.decision
    changed = study.sizing.decision.model_copy(update=decided)
    return dataclasses.replace(study, sizing=study.sizing.model_copy(update={"decision": changed}))


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_the_probability_is_the_share_of_draws_near_their_own_best(view: DecisionView) -> None:
    made, law = view.decision, view.laws["mlm"]
    N = np.geomspace(made.N / 30, made.N * 30, 1501)
    gap = law.losses(made.N, made.D, made.unique_tokens)[:, 0] - law.losses(
        N, made.C_budget / (6 * N), made.unique_tokens
    ).min(axis=1)
    share = float(law.draw_weights @ (gap <= 0.005))
    assert 0.5 < share < 0.999
    assert view.near == (pytest.approx(share, abs=0.01), 0.005)


def test_the_card_says_what_size_said(part: DecisionPart, view: DecisionView, study: Study) -> None:
    made, sizing = view.decision, study.sizing
    assert sizing
    assert made == sizing.decision
    said = words(part.sentence)
    assert f"{format_count(made.N, 2)} parameters on {format_count(made.D, 2)} tokens" in said
    assert f"under {100 * view.near[0]:.0f} % of the laws" in said
    numbers = {number.name: (number.value, number.aside.replace("\u00a0", " ")) for number in part.numbers}
    low, high = made.loss_low, made.loss_high
    assert numbers["Loss, nats per token"] == (f"{made.loss:.3f}", f"80% of runs {low:.3f} to {high:.3f}")
    assert numbers["Cost"][0] == f"${sizing.usd:,.0f}"
    assert [(row[1], row[4]) for row in part.tables[0].rows] == [
        (format_count(regret.N, 2), f"{regret.mean:.4f}") for regret in made.regrets
    ]
    bill = next(line for line in map(words, part.lines) if line.startswith(" The bill"))
    assert sizing.bill
    assert f"${sizing.bill.usd_mid:,.0f}" in bill
    assert set(map(str.lower, part.warnings)) >= set(map(str.lower, (*made.warnings, *sizing.warnings)))


def test_the_frontier_passes_through_the_decision(view: DecisionView) -> None:
    for objective, made in view.decisions.items():
        curve = view.frontiers[objective]
        at = np.log(curve.C), np.log(made.C_budget)
        for values, value in ((curve.loss, made.loss), (curve.low, made.loss_low), (curve.high, made.loss_high)):
            assert np.interp(at[1], at[0], values) == pytest.approx(value, abs=4e-3)
        assert np.exp(np.interp(at[1], at[0], np.log(curve.N))) == pytest.approx(made.N, rel=0.15)
        assert np.all(np.diff(curve.loss) <= 0)
        assert np.all((curve.low < curve.loss) & (curve.loss < curve.high))


def test_passes_follow_the_law_of_repeats() -> None:
    fresh = ensemble((("chinchilla", None), ("gamma+batch", None)), draws=5)
    for repeats, turns in ((None, False), (repeat_fit("penalty", "chinchilla"), True)):
        law = replace(fresh, repeats=repeats)
        made = decide(law, 1e21, unique_tokens=5e9, force=True)
        curve = repeat_curve(law, made, 5e9)
        assert (curve.best_epochs is not None) == turns
        near = np.interp(np.log(made.D / 5e9), np.log(curve.epochs), curve.loss)
        assert near == pytest.approx(made.loss, abs=3e-3)
        frontier = frontier_of(law, made)
        assert np.interp(np.log(1e21), np.log(frontier.C), frontier.loss) == pytest.approx(made.loss, abs=5e-3)
        assert np.all(np.diff(frontier.loss) <= 0)  # a budget is an upper bound: it never has to be spent
    assert curve.measured == (1.0, 30.0)


def test_prices_are_those_of_size(view: DecisionView, study: Study) -> None:
    assert study.sizing
    assert study.sizing.usd
    spending = budget_spending(study.sizing, view.laws["mlm"])
    assert spending.usd == pytest.approx(study.sizing.usd, rel=0.02)
    assert view.marginal
    assert view.marginal.usd == pytest.approx(spending.usd, rel=1e-6)
    assert abs(np.log(view.marginal.N / view.decision.N)) < 0.15


# ---- what is compared, what is not, and why ------------------------------------------------------------------------


def test_objectives_stand_beside_each_other_unranked(part: DecisionPart, view: DecisionView) -> None:
    compared = next(section for section in part.sections if section.key == "compared")
    assert "not comparable" in compared.reading
    assert any("Losses of CLM and MLM are not comparable" in line for line in map(words, part.lines))
    objectives, actions = compared.tables
    assert [row[-1] for row in objectives.rows] == ["CLM only", "MLM only"]
    firsts = [row[1] for row in actions.rows if row[2] == "1"]
    assert firsts == ["CLM", "MLM"]
    reuse = [row for row in actions.rows if "reuse" in row[0]]
    assert len(reuse) == 3
    assert all(row[2] == "\u2013" and "not measured" in row[-1] for row in reuse)
    assert view.actions
    transfer = view.actions.of("mlm transfer")
    assert transfer
    assert transfer.loss
    (row,) = (row for row in actions.rows if row[0] == transfer.title)
    assert row[6].startswith(f"{transfer.loss.value:.3f}")


def test_every_coefficient_has_a_source_and_a_status(view: DecisionView) -> None:
    rows = tabulate_coefficients(view).rows
    for objective, law in view.laws.items():
        own = [row for row in rows if row[0] == objective.upper() and "weight" in row[1]]
        assert len(own) == len(law.members)
        for row, member in zip(own, law.members, strict=True):
            natural = member.form.natural(member.theta[0])
            assert all(f"{name} {value:.4g}" in row[2] for name, value in zip(member.form.names, natural, strict=True))
    assert all(row[3] and row[4] for row in rows)
    assert {row[4] for row in rows} >= {"own fit", "read", "unverified"}


def test_a_file_made_from_another_law_is_named(study: Study, view: DecisionView) -> None:
    assert study.sizing
    sha256 = law_sha256(study.laws["mlm"])
    assert law_origins(study) == view.origins == (LawOrigin("size.json", "mlm", sha256, "fit-mlm.json"),)
    assert ("MLM", "law of size.json", sha256[:12], "fit-mlm.json", "content hash") in tabulate_coefficients(view).rows
    assert not any("another law" in warning for warning in part_of(view, study).warnings)
    other = dataclasses.replace(study, sizing=study.sizing.model_copy(update={"laws_sha256": "f" * 64}))
    said = part_of(replace(view, origins=law_origins(other)), other).warnings
    assert any("size.json was made from another law of MLM (hash ffffffffffff)" in warning.lower().replace("mlm", "MLM")
               for warning in said)  # fmt: skip
    older = dataclasses.replace(study, sizing=study.sizing.model_copy(update={"laws_sha256": ""}))
    assert law_origins(older) == ()


def test_pictures_have_titles_words_and_a_text_instead(part: DecisionPart, view: DecisionView) -> None:
    panels = [*part.panels, *(panel for section in part.sections for panel in section.panels)]
    assert len(panels) == 2 + 2 + 2 + 3
    for panel in panels:
        assert len(re.findall(r"<text", panel)) > 6
        (label,) = re.findall(r'role="img" aria-label="([^"]+)"', panel)
        assert len(label) > 60
    made = view.decision
    valley, frontier = part.panels
    assert f"N chosen {format_count(made.N, 2)}" in valley
    assert all(f"{form.weight:.0%}" in valley for form in made.forms)
    assert f"your budget: {made.loss:.3f}" in frontier
    assert f"{made.loss_low:.3f} and {made.loss_high:.3f}" in frontier


def test_no_budget_means_one_that_is_assumed_and_said_so(unnamed: Study) -> None:
    found = view_decision(unnamed)
    assert isinstance(found, DecisionView)
    tops = [law.range_C[1] for law in found.laws.values() if law.range_C]
    assert found.decision.C_budget == pytest.approx(ASSUMED_FACTOR * max(tops))
    assert "Nobody has named a budget" in found.assumption
    assert (found.sizing, found.actions, found.marginal) == (None, None, None)
    for part in ("actions", "marginal", "downstream"):
        assert "plm-scaling size --objective" in found.omitted[part]
    assert "--unique-tokens" in found.omitted["repeats"]


@pytest.mark.usefixtures("no_scores")
def test_laws_that_are_not_at_hand_are_not_passed_off(study: Study) -> None:
    assert study.sizing
    assert study.sizing.decision
    foreign = view_decision(stated(study, loss=study.sizing.decision.loss + 0.05, source="elsewhere"))
    assert isinstance(foreign, DecisionView)
    assert not foreign.laws
    assert not foreign.frontiers
    assert "plm-scaling spend" in foreign.omitted["tornado"]
    assert "elsewhere" in foreign.omitted["frontier"]
    assert foreign.near == (foreign.decision.probability, 0.01)
    shipped = view_decision(dataclasses.replace(study, laws={}))
    assert isinstance(shipped, DecisionView)
    assert shipped.laws["mlm"].status == "measured"  # the shipped fits are the same laws


@pytest.mark.usefixtures("no_scores")
def test_a_size_without_losses_or_price_is_completed_and_said_so(study: Study) -> None:
    assert study.sizing
    bare = study.sizing.model_copy(update={"decision": None, "usd": None})
    found = view_decision(dataclasses.replace(study, sizing=bare))
    assert isinstance(found, DecisionView)
    assert "states no loss" in found.assumption
    assert found.decision.C_budget == pytest.approx(bare.C)
    assert found.decision.objective == "mlm"
    assert found.omitted["actions"] == found.omitted["marginal"] == "Not computed: size.json states no price."


def test_what_cannot_be_decided_says_why(study: Study) -> None:
    nothing = view_decision(Study(name="empty"))
    assert isinstance(nothing, str)
    assert "there is no fit" in nothing
    fit = study.laws["mlm"].model_copy(update={"surface": None, "forms": ()})
    refused = view_decision(Study(name="x", laws={"mlm": fit}))
    assert isinstance(refused, str)
    assert "MLM predicts no losses" in refused
    assert "plm-scaling size" in render_page(Study(name="empty"))


@pytest.mark.usefixtures("no_scores")
def test_what_spend_said_is_shown_as_it_said_it(tmp_path: Path, study: Study, view: DecisionView) -> None:
    assert view.actions
    assert view.marginal
    swing = Swing(
        name="unique tokens", low_label="7.5B", high_label="30B", N=(1e9, 2e9), loss=(2.1, 1.9), usd=(5e3, 5e3),
        usd_same_loss=(9e3, 3e3), swing_N=0.3, swing_loss=0.2, swing_usd=0.5,
    )  # fmt: skip
    pilot = PilotValue(
        name="row <1>", N=(1e7, 4e7), D=(1e9, 1e9), usd=40.0, evsi=0.002, evsi_se=0.0, evsi_usd=250.0,
        nats_per_usd=5e-5, pays=True,
    )  # fmt: skip
    plan = PilotPlan(
        usd=5e3, N_now=1e9, evpi=0.004, evpi_usd=500.0, usd_per_nat=1.25e5, common_sd=0.05, candidates=(pilot,),
        first=(pilot,), regret_after=0.002, stop="further pilots cost more than they save",
    )  # fmt: skip
    run = Adaptation(
        model="esm2-35m", method="lora", tokens=7e5, epochs=4.0, flops=1e15, gpu_hours=0.1, usd=0.3, state_gb=0.2
    )
    own = AdaptationPilots(
        objective="mlm", tokens=7e7, runs=(run,), gpu_hours=0.1, usd=0.3, noise=0.01, design=("pilots: one <run>",),
        findings=("esm2-35m: ossified",),
    )  # fmt: skip
    tuned = Action(
        key="adapt", name="mlm adapt full esm2-35m", title="fine-tune", objective="mlm", group="own", N=3e7,
        transferred=Interval(value=5e8, low=3e8, high=2e9), wanted_tokens=3.5e10, ruled_out="no",
    )  # fmt: skip
    spent = SpendingView(
        adaptation={"mlm": own},
        actions=view.actions.model_copy(update={"usd": 9e3, "actions": (*view.actions.actions, tuned)}),
        marginal={"mlm": view.marginal.model_copy(update={"usd": 9e3})},
        tornado={"mlm": Tornado(N=1.5e9, loss=2.0, usd=5e3, swings=(swing,))},
        pilots={"mlm": plan},
    )
    spent.write(tmp_path / "spend.json")
    study.laws["mlm"].write(tmp_path / "fit-mlm.json")
    found = load_study(tmp_path)
    assert found.spending == spent
    foreign = dataclasses.replace(stated(study, loss=9.0), spending=found.spending)  # no laws: quick
    part = decision_part(foreign)
    sections = {section.key: section for section in part.sections}
    assert "$9,000" in sections["dollar"].reading
    (panel,), (swings,) = sections["sensitivity"].panels, sections["sensitivity"].tables
    assert "unique tokens from 7.5B to 30B, 2.100 to 1.900" in panel
    assert swings.rows[0][-1] == "$9,000 to $3,000"
    assert sections["pilots"].tables[0].rows[0] == (
        "row <1>", "2", "10M to 40M".replace(" ", "\u00a0"), "$40", "0.00200", "$250", "yes",
    )  # fmt: skip
    assert sections["own"].title == "Your own 70M tokens"
    assert sections["own"].reading == "esm2-35m: ossified. Pilots: one <run>."
    worth, pilots = sections["own"].tables
    assert worth.rows == (("esm2-35m", "300M to 2B".replace(" ", "\u00a0"), "35B", "0.2 %".replace(" ", "\u00a0")),)
    assert pilots.rows == (
        ("esm2-35m", "low-rank additions", "1.0 %".replace(" ", "\u00a0"), "4", "1e+15", "$0.3", "0.2 GB"),
    )
    assert any("another budget: $9,000 , not $" in line for line in map(words, part.lines))


# ---- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_scores")
def test_a_page_with_everything_is_one_small_offline_file(study: Study, part: DecisionPart) -> None:
    plan = plan_allocation(
        published_ensemble("mlm").thinned(8),
        Allocation(nodes=2, gpus_per_node=4, node_hours=2000),
        draws=50,
        force=True,
    )
    hostile = stated(study, source="<script>law</script>", loss=9.0, flags=("NO_DRAWS",))
    assert hostile.sizing
    sizing = hostile.sizing.model_copy(update={"warnings": ("<img src=x>",), "gpu": "<b>gpu</b>"})
    split = plan.model_copy(update={"warnings": ("<i>wait</i>",), "gpu": "<u>gpu</u>"})
    text = render_page(Study(name="<em>", sizing=sizing, allocation=split))
    assert len(text.encode()) + sum(map(len, part.panels)) < 1_000_000
    for tag in ("<script", "<img", "<b>gpu", "<i>wait", "<u>gpu", "<em>"):
        assert tag not in text
    assert "&lt;img src=x&gt;" in text
    assert "<b>no probability</b> can be given" in text
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert not [link for link in re.findall(r"https?://[^\"' )<]*", text) if "www.w3.org" not in link]
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<a href="#([^"]+)"', text)) <= set(ids)
    order = [text.index(f'id="{key}"') for key in ("decision", "decision-pictures", "verdict", "allocation", "isoflop")]
    assert order == sorted(order)


def test_a_decision_nobody_asked_for_follows_the_verdict(unnamed: Study) -> None:
    bare = unnamed.laws["mlm"].model_copy(update={"isoflop": None, "isoflop_other_currency": None})
    text = render_page(dataclasses.replace(unnamed, laws={"mlm": bare}))
    assert text.index('id="verdict"') < text.index('id="decision"') < text.index("assumed budget")
    assert "Only MLM has laws here" in text


def test_size_json_of_the_folder_is_read_and_a_damaged_one_named(tmp_path: Path, study: Study) -> None:
    assert study.sizing
    study.sizing.write(tmp_path / "size.json")
    found = load_study(tmp_path)
    assert found.sizing == study.sizing
    assert not [sentence for sentence in found.missing if "size" in sentence]
    (tmp_path / "size.json").write_text("{")
    study.laws["mlm"].write(tmp_path / "fit-mlm.json")
    damaged = load_study(tmp_path)
    assert damaged.sizing is None
    assert any("answer of size cannot be read" in sentence for sentence in damaged.missing)
