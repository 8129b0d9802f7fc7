"""`spend` and `exchange`: what they print, that they are one call of the API, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from plm_scaling import api
from plm_scaling.cli.main import verbs
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.run import Stream
from plm_scaling.core.run_row import RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.sizing.chosen_laws import published_sha256
from plm_scaling.sizing.costs import Budget
from plm_scaling.sizing.default_laws import published_ensemble
from plm_scaling.sizing.situations import make_situations, spending_for
from plm_scaling.sizing.spending import best_allocation
from plm_scaling.sizing.spending_view import SpendingView, read_sources

ASK = ["spend", "--gpu-hours", "2000", "--unique-tokens", "5e9", "--no-pilots"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(verbs, list(arguments), standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value, result.stdout


@pytest.mark.slow
def test_the_screen_says_what_the_call_says(tmp_path: Path) -> None:
    sources = tmp_path / "sources.toml"
    sources.write_text('[[source]]\nname = "metagenomes"\nusd_per_token = 1e-7\n')
    runs = tmp_path / "runs.csv"
    runs.write_text("model,method,tokens,loss\nesm2-35m,full,7e7,2.2\nesm2-35m,scratch,7e7,2.1\n")
    own = ("--proprietary-tokens", "7e7", "--proprietary-length", "736", "--proprietary-runs", str(runs))
    asked = (*ASK, "--objective", "mlm", "--sources", str(sources), "--public", "esm2-650m=2.3", *own)
    code, text = run(*asked)
    assert code == 0
    view = api.spend(
        objectives=["mlm"],
        gpu_hours=2000,
        unique_tokens=5e9,
        sources=sources,
        public_losses={"esm2-650m": 2.3},
        proprietary_tokens=7e7,
        proprietary_length=736,
        proprietary_runs=runs,
        pilots=False,
    )
    for sentence in (*view.adaptation["mlm"].design, *view.adaptation["mlm"].findings):
        assert sentence in text
    assert "esm2-35m: ossified" in text
    assert text.splitlines()[0] == view.actions.sentences[0]
    for action in view.actions.actions:
        assert action.title in text
        assert action.ruled_out in text
    first = next(a for a in view.actions.actions if a.rank == 1 and not a.group.endswith("own sequences"))
    assert "of metagenomes" in first.title
    assert "dollar of unique tokens" in text
    scratch = view.actions.of("mlm scratch")
    made = api.size(objective="mlm", gpu_hours=2000, unique_tokens=5e9).decision
    assert scratch is not None
    assert scratch.loss is not None
    assert made is not None
    assert pytest.approx(made.N, rel=0.01) == scratch.N
    assert scratch.loss.value == pytest.approx(made.loss, abs=2e-4)
    _, as_json = run(*asked, "--format", "json")
    loaded = json.loads(as_json)
    loaded.pop("schema_version", None)
    assert SpendingView.model_validate(loaded) == view
    assert view.laws_sha256 == {"mlm": published_sha256("mlm")}


def test_both_objectives_are_not_compared_without_a_map() -> None:
    _, text = run(*ASK, "--objective", "any", "--for", "capsid")
    assert text.startswith("not comparable: no measured map from loss to capsid")
    assert "0.572" in text, "the alignment's published score stands beside them"
    assert "did you mean capsid?" not in text
    assert "did you mean capsid?" in run(*ASK, "--objective", "mlm", "--for", "capsids")[1]


def test_what_lies_beyond_the_scored_models_is_said_of_each_action(tmp_path: Path) -> None:
    table = tmp_path / "scored.csv"
    table.write_text("loss,metric\n2.4,.30\n2.3,.34\n2.2,.37\n2.1,.41\n")
    _, text = run(*ASK, "--objective", "mlm", "--for", "fitness", "--metrics", str(table))
    assert text.count("beyond the models you scored") == 2, "from scratch and after a first phase"


def test_a_public_model_that_was_measured_ranks_by_its_own_number(tmp_path: Path) -> None:
    """On a scale without published scores."""
    table, runs = tmp_path / "scored.csv", ["2.4,2.40,mlm,,,", "2.3,2.36,mlm,,,", "2.2,2.33,mlm,,,", "2.1,2.29,mlm,,,"]
    table.write_text(
        "\n".join(["loss,metric,objective,model,low,high", *runs, ",1.9,mlm,esm2_t33_650M_UR50D,1.89,1.91"]) + "\n"
    )
    asked = {"objectives": ("mlm",), "usd": 20_000.0, "unique_tokens": 15e9, "metric": "site nats", "pilots": False}
    view = api.spend(**asked, metric_table=table, lower_is_better=True)
    [reuse] = [one for one in view.actions.actions if one.key == "reuse" and "esm2-650m" in one.name]
    assert reuse.utility is not None
    assert reuse.utility.value == pytest.approx(1.9)
    assert reuse.rank == 1, "better than what any run is mapped to"
    table.write_text("loss,metric,model\n,x,esm2-650m\n")
    with pytest.raises(ConfigError, match="finite numbers"):
        api.spend(**asked, metric_table=table)


def test_a_budget_far_from_the_laws_is_refused() -> None:
    with pytest.raises(RefusedError, match="decades above the runs behind the MLM laws"):
        run("spend", "--flops", "1e24", "--objective", "mlm")
    with pytest.raises(RefusedError, match="states no loss"):
        run("spend", "--flops", "1e20", "--objective", "mlm", "--laws", "zoo:cheng-mlm")


def test_what_is_no_loss_is_a_usage_error() -> None:
    result = CliRunner().invoke(verbs, [*ASK, "--objective", "mlm", "--public", "esm2-650m"])
    assert result.exit_code == 2
    assert "is not MODEL=LOSS" in result.output


@pytest.mark.parametrize("budget", [{"usd": 3000.0}, {"gpu_hours": 3000.0}, {"flops": 1e21}])
def test_budgets_buy_what_they_say(budget: dict[str, float]) -> None:
    laws = published_ensemble("mlm")
    found = spending_for(Budget(**budget), laws, gpu="a100", unique_tokens=5e9)
    best = best_allocation(found.spending)
    assert found.fixed == next(iter(budget))
    if "flops" in budget:
        assert pytest.approx(1e21, rel=1e-6) == best.C
    elif "gpu_hours" in budget:
        assert best.gpu_hours == pytest.approx(3000.0, rel=1e-3)
    else:
        assert best.usd == pytest.approx(3000.0, rel=1e-9)
    owned, _ = make_situations(Budget(**budget), ["mlm"], public_losses={"progen2-xlarge": 2.0, "esm2-650m": 2.2})
    assert owned[0].public_losses == {"esm2-650m": 2.2}


@pytest.mark.slow
def test_exchange_writes_what_spend_reads(tmp_path: Path) -> None:
    laws = published_ensemble("mlm")
    N, D, U = 1e8, 4e9, 5e8

    def row(share: float, worth: float) -> RunRow:
        target = {"sources": ("uniref",), "unique_tokens": int(U), "weight": 1 - share or 1.0}
        other = {"sources": ("bfd",), "weight": share or 1.0}
        streams = [Stream.model_validate(s) for s in ([target] if share < 1 else []) + ([other] if share else [])]
        grid = np.geomspace(1e7, 1e12, 500)
        own = laws.loss(N, (1 - share) * D, U)
        fresh = np.exp(np.interp(-own, [-laws.loss(N, d) for d in grid], np.log(grid)))
        return RunRow(
            run_id=f"r{share}",
            objective="mlm",
            role="diversity",
            N=N,
            D=D,
            loss=laws.loss(N, float(fresh) + worth * share * D),
            streams=json.dumps([stream.model_dump(mode="json") for stream in streams]),
        )

    runs = RunTable((row(0.0, 0.0), row(0.5, 0.6))).write(tmp_path / "runs.csv")
    out = tmp_path / "sources.toml"
    code, text = run("exchange", str(runs), "--objective", "mlm", "-o", str(out))
    assert code == 0
    assert text.startswith("one token of bfd is worth")
    (source,) = read_sources(out)
    assert source.rho.low < 0.6 < source.rho.high
    _, table = run("exchange", str(runs), "--objective", "mlm", "--format", "csv")
    assert table.splitlines()[0].startswith("source,target,objective,N,D,rho")
    # Rates without a price are tokens for nothing, as many as are trained on.
    _, priced = run(*ASK, "--objective", "mlm", "--sources", str(out))
    assert "of bfd" in priced
