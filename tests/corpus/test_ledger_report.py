from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made import clustered_corpus

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.ledger import Phase, ledger, open_ledger
from plm_scaling.corpus.ledger_report import LedgerReport, ledger_curve, ledger_report, trace_lineage
from plm_scaling.corpus.reader import Corpus

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return clustered_corpus(tmp_path_factory.mktemp("report") / "c", clusters=30, copies=10, sources=2)


@pytest.fixture
def runs(corpus: Corpus, configure: Configure) -> dict[str, Phase]:
    """A source run of half an epoch, its target of four epochs with copies, and a run of its own."""
    found: dict[str, Phase] = {}
    source = configure(corpus, D=1_500)
    target = configure(
        corpus, D=12_000, objective="mlm", streams=(Stream(duplicates=True),), init_from=source.run_id, seed=1
    )
    for config in (source, target, configure(corpus, D=6_000, seed=2)):
        found[config.run_id] = (config, Batches(corpus, config).n_steps)
    return found


def test_the_whole_run_with_its_lineage(corpus: Corpus, runs: dict[str, Phase]) -> None:
    source, target, _ = runs
    report = ledger_report(corpus, runs, target)
    assert report.lineage == (source,)
    assert report.step == report.n_steps == runs[target][1]
    assert report.rows == ledger(corpus, [runs[source], runs[target]])
    total = report.total
    assert total.source == "*"
    assert total.seen_earlier > 0
    assert total.repeated_duplicate > 0
    assert report.epochs["*"] == total.tokens / (total.unique + total.seen_earlier)
    assert 2 < report.epochs["*"] < 5
    assert report.clusters


def test_a_source_of_copies_alone_has_no_number_of_epochs(tmp_path: Path, configure: Configure) -> None:
    corpus = clustered_corpus(tmp_path / "c", clusters=5, copies=6)
    config = configure(corpus, D=2_000, streams=(Stream(), Stream(duplicates=True)))
    runs = {config.run_id: (config, 40)}
    assert ledger_report(corpus, runs, config.run_id).epochs["*"] is not None
    own = ledger_report(corpus, runs, config.run_id, step=0)
    assert own.epochs == {}


def test_first_repeats_are_those_of_this_run_not_of_a_longer_one(
    corpus: Corpus, runs: dict[str, Phase], configure: Configure
) -> None:
    short = configure(corpus, D=600, seed=2)  # the same order as the run of 6,000 tokens, whose table it shares
    long = list(runs)[2]
    both = runs | {short.run_id: (short, Batches(corpus, short).n_steps)}
    assert ledger_report(corpus, both, long).first_tokens["repeated_epoch"] is not None
    assert ledger_report(corpus, both, short.run_id).first_tokens["repeated_epoch"] is None
    assert ledger_report(corpus, both, short.run_id).first_tokens["repeated_duplicate"] is None


def test_tokens_name_the_first_step_that_reached_them(corpus: Corpus, runs: dict[str, Phase]) -> None:
    target = list(runs)[1]
    report = ledger_report(corpus, runs, target, at=5_000)
    assert report.total.tokens >= 5_000
    assert ledger_report(corpus, runs, target, step=report.step - 1).total.tokens < 5_000
    assert ledger_report(corpus, runs, target, step=report.step) == report


def test_curve_runs_from_nothing_to_the_end(corpus: Corpus, runs: dict[str, Phase]) -> None:
    config, steps = runs[list(runs)[1]]
    found = open_ledger(corpus, [(config, steps)])
    curve = ledger_curve(found, steps, points=7)
    assert [point.step for point in curve] == [round(steps * i / 7) for i in range(8)]
    assert curve[0].total.tokens == 0
    assert curve[0].unique_share == 1.0
    assert curve[-1].total == found.rows(steps)[-1]
    assert curve[-1].unique_share == curve[-1].total.unique / curve[-1].total.tokens < 1
    assert len(ledger_curve(found, 3, points=200)) == 4


def test_survives_its_file(corpus: Corpus, runs: dict[str, Phase], tmp_path: Path) -> None:
    report = ledger_report(corpus, runs, list(runs)[1], step=9)
    assert LedgerReport.read(report.write(tmp_path / "ledger.json")) == report


def test_refusals(corpus: Corpus, runs: dict[str, Phase], configure: Configure) -> None:
    source, target, own = runs
    end = runs[own][1]
    with pytest.raises(PlanError, match="no step"):
        ledger_report(corpus, runs, own, step=end + 1)
    with pytest.raises(PlanError, match="never draws"):
        ledger_report(corpus, runs, own, at=1e9)
    with pytest.raises(PlanError, match="both"):
        ledger_report(corpus, runs, own, at=1, step=1)
    with pytest.raises(PlanError, match=f"{target} starts from {source}"):
        ledger_report(corpus, {target: runs[target]}, target)
    assert trace_lineage(runs, target) == [source, target]
    circle = {name: (runs[name][0].model_copy(update={"init_from": own}), 1) for name in (own,)}
    with pytest.raises(PlanError, match="no run of this plan"):
        trace_lineage(circle, own)
