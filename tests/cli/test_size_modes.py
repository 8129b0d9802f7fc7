"""The other questions of `size`: an allocation, a model's life, the page, a metric; and options that do not mix."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TypeVar

import click
import pytest
from click.testing import CliRunner, Result

from plm_scaling.cli.main import verbs
from plm_scaling.core.records import Record
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.chosen_laws import published_sha256
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sizing.use_plan import UsePlan

BUDGET = ("--usd", "5000", "--objective", "mlm")


R = TypeVar("R", bound=Record)


def size(*words: str) -> Result:
    return CliRunner().invoke(verbs, ["size", *words], standalone_mode=False)


def as_record(kind: type[R], folder: Path, *words: str) -> R:
    (folder / "answer.json").write_text(size(*words, "--format", "json").stdout)
    return kind.read(folder / "answer.json")


def test_an_allocation_is_split_and_its_shares_are_the_whole(tmp_path: Path) -> None:
    grant = ("--nodes", "8", "--gpus-per-node", "4", "--hours", "3000", "--expires", "60d", "--objective", "mlm")
    plan = as_record(AllocationPlan, tmp_path, *grant)
    assert plan.allocation.wall_hours == pytest.approx(60 * 24, abs=1e-6)
    for option in plan.options:
        assert sum(stage.node_hours for stage in option.stages) == pytest.approx(3000, rel=1e-6)
    shown = size(*grant)
    assert shown.return_value == 0
    assert "reserve" in shown.stdout
    assert plan.best in shown.stdout
    assert plan.laws_sha256 == published_sha256("mlm")
    assert "FAR_OUTSIDE_RANGE" in plan.flags
    assert "decades outside the runs behind the laws" in shown.stderr


def test_a_model_that_is_used_more_is_smaller(tmp_path: Path) -> None:
    sizes = []
    for sequences in ("1e3", "1e6", "1e8"):
        words = (*BUDGET, "--sequences", sequences, "--length", "735", "--use", "pseudo_likelihood")
        plan = as_record(UsePlan, tmp_path, *words)
        assert plan.serving.tokens == pytest.approx(float(sequences) * 735**2)
        sizes.append(plan.lifetime.best.N)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[-1]
    assert "over 540B tokens served" in size(*BUDGET, "--sequences", "1e6", "--length", "735", "--use",
                                             "pseudo_likelihood").stdout  # fmt: skip


def test_tokens_repeated_beyond_all_evidence_decide_no_size() -> None:
    said = "too few tokens for a model of your own"
    assert said in size(*BUDGET, "--unique-tokens", "7e7").stdout
    assert said not in size(*BUDGET, "--unique-tokens", "15e9").stdout
    uses = size(*BUDGET, "--unique-tokens", "7e7", "--sequences", "1e6", "--length", "735")
    assert said in uses.stderr


def test_the_loss_of_a_life_is_that_of_size(tmp_path: Path) -> None:
    plan = as_record(UsePlan, tmp_path, *BUDGET, "--sequences", "1e3", "--length", "735")
    made = as_record(Recommendation, tmp_path, *BUDGET).decision
    assert made
    assert plan.expected_loss == pytest.approx(made.loss, abs=2e-4)
    assert plan.lifetime.target_loss != pytest.approx(made.loss, abs=2e-4)  # the forms' estimates, which the line says
    assert f"{made.loss:.4g} as the mean" in size(*BUDGET, "--sequences", "1e3", "--length", "735").stdout


def test_the_answer_and_the_page_are_files(tmp_path: Path) -> None:
    shown = size(*BUDGET, "-o", str(tmp_path / "size.json"), "--format", "json")
    assert Recommendation.read(tmp_path / "size.json").to_json() == shown.stdout.rstrip() + "\n"
    page = tmp_path / "sizing.html"
    assert size("--page", "-o", str(page), *BUDGET).stdout.strip() == str(page)
    text = page.read_text()
    assert len(text.encode()) < 200_000
    data = json.loads(text.split('id="page-data">')[1].split("</script>")[0])
    assert data["question"]["budget"] == 5000
    assert data["question"]["unit"] == "usd"


def test_a_metric_puts_public_models_and_alignments_beside_the_run(tmp_path: Path) -> None:
    view = as_record(SpendingView, tmp_path, *BUDGET, "--for", "capsid")
    scored = {action.name for action in view.actions.actions if action.utility is not None}
    assert "alignment" in scored
    assert any("esm2-650m" in name for name in scored)
    assert view.actions.metric == "capsid"
    said = next(one for one in view.actions.sentences if one.startswith("capsid without training anything"))
    assert said.index("alignment") < said.index("esm2")


def test_the_next_command_asks_spend_the_same() -> None:
    words = (*BUDGET, "--unique-tokens", "15e9", "--laws", "zoo:besiroglu2024", "--mfu", "0.3", "--force")
    (said,) = (line for line in size(*words).stderr.splitlines() if line.startswith("next: plm-scaling spend"))
    asked = shlex.split(said.partition("   #")[0])[3:]
    spend = verbs.get_command(click.Context(verbs), "spend")
    assert spend is not None
    taken = spend.make_context("spend", asked).params
    wanted = {
        "usd": 5e3,
        "unique_tokens": 15e9,
        "laws": ("zoo:besiroglu2024",),
        "mfu": 0.3,
        "force": True,
        "gpu": "a100",
    }
    assert {name: taken[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*BUDGET, "--nodes", "3"), "--nodes asks its own question: leave out --usd"),
        ((*BUDGET, "--hours", "3"), "--hours goes with --nodes"),
        ((*BUDGET, "--length", "3"), "--length goes with --sequences"),
        (("--nodes", "3", "--objective", "mlm"), "gpus-per-node"),
        (("--page", *BUDGET), "out"),
        (("--usd", "5000"), "objective"),
        (("--check", __file__, "--usd", "5"), "--check asks its own question: leave out --usd"),
    ],
)
def test_options_of_different_questions_do_not_mix(words: tuple[str, ...], said: str) -> None:
    found = CliRunner().invoke(verbs, ["size", *words])
    assert found.exit_code == 2
    assert said in found.output


def test_a_grant_that_has_ended_is_said(tmp_path: Path) -> None:
    words = ("--nodes", "3", "--gpus-per-node", "4", "--hours", "100", "--objective", "mlm", "--expires", "2020-01-01")
    found = size(*words)
    assert "is not ahead of now" in str(found.exception)
