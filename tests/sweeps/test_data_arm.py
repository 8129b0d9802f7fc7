"""The data as a factor of a sweep: filters, sampling, mixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plm_scaling.core.errors import ConfigError, CorpusError, PlanError
from plm_scaling.core.run import Stream
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.mixture import mixture, token_shares
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep, read_spec
from plm_scaling.sweeps.plan_records import (
    DataArm,
    DiversityArm,
    GridArm,
    IsoflopArm,
    RepeatsArm,
    SweepPlan,
    SweepSpec,
    TransferArm,
    data_text,
)

SPEC = SweepSpec(name="test", corpus="c", context=64, validation_tokens=1000, objectives=("clm",))
GRID = (GridArm(sizes=("1x16",), D=(20_000,)),)
SHARES = {"known": 1.0, "meta": 3.0}


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Corpus]) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("clustered") / "c", sequences={"known": 300, "meta": 200}, clusters=150)


def plan(corpus: Corpus, **update: object) -> SweepPlan:
    return plan_sweep(SPEC.model_copy(update=update), corpus, memory_bytes=1e12)


def test_every_combination_of_the_factors_is_run_at_one_size_and_D(clustered: Corpus) -> None:
    arm = DataArm(
        size="1x16",
        D=20_000,
        exclude=((), ("fragment",), ("viral",)),
        sampling=("flat", "cluster50"),
        mixture=("natural", SHARES),
        seeds=(0, 1),
    )
    made = plan(clustered, data=(arm,))
    assert len({run.run_id for run in made.runs}) == len(made.runs) == 3 * 2 * 2 * 2
    assert {run.roles for run in made.runs} == {("data",)}
    assert {(run.config.D, run.config.N) for run in made.runs} == {(20_000, made.runs[0].config.N)}
    seen = {
        (run.config.streams[0].exclude, run.config.streams[0].sampling, len(run.config.streams)) for run in made.runs
    }
    assert seen == {(e, s, n) for e in arm.exclude for s in arm.sampling for n in (1, 2)}


def test_a_factor_that_is_not_listed_stays_as_the_spec_has_it(clustered: Corpus) -> None:
    made = plan(
        clustered,
        exclude=("fragment",),
        mixture="tokens",
        sources=("meta", "known"),
        data=(DataArm(size="1x16", D=20_000, sampling=("flat", "cluster50")),),
    )
    flat, sampled = sorted((run.config.streams for run in made.runs), key=lambda streams: streams[0].sampling != "flat")
    assert flat == mixture(clustered, "tokens", context=64, exclude=("fragment",))
    assert sampled == mixture(clustered, "tokens", context=64, exclude=("fragment",), sampling="cluster50")


def test_the_reference_of_an_arm_is_a_run_other_arms_share(clustered: Corpus) -> None:
    made = plan(clustered, grid=GRID, data=(DataArm(size="1x16", D=20_000, exclude=((), ("viral",))),))
    assert sorted(run.roles for run in made.runs) == [("data",), ("grid", "data")]


def test_defaults_keep_the_ids_of_older_releases(corpus: Corpus) -> None:
    """The streams, and so the ids, of a spec that says nothing of the data are what they were."""
    arms = {
        "isoflop": (IsoflopArm(C=1e10, sizes=("1x16",)),),
        "repeats": (RepeatsArm(size="1x16", D=20_000, unique_tokens=(5_000,)),),
        "transfer": (TransferArm(size="1x16", D=20_000, D_source=20_000, overlap="disjoint"),),
        "diversity": (DiversityArm(size="1x16", D=20_000, unique_tokens=5_000, first="known", second="meta"),),
    }
    made = plan(corpus, **arms)
    assert {run.config.streams for run in made.runs} == {
        (Stream(),),
        (Stream(unique_tokens=5_000),),
        (Stream(unique_tokens=20_000),),
        (Stream(start_tokens=20_000),),
        (Stream(sources=("known",), unique_tokens=5_000),),
        (Stream(sources=("meta",)),),
        (Stream(sources=("known",), unique_tokens=5_000, weight=0.5), Stream(sources=("meta",), weight=0.5)),
    }
    for run in made.runs:
        for stream in run.config.streams:
            assert not {"sampling", "exclude", "duplicates"} & stream.identity().keys()


def test_filters_and_sampling_of_the_spec_reach_every_arm(clustered: Corpus) -> None:
    made = plan(
        clustered,
        sampling="cluster50",
        exclude=("viral", "fragment"),
        isoflop=(IsoflopArm(C=1e10, sizes=("1x16",)),),
        repeats=(RepeatsArm(size="1x16", D=20_000, unique_tokens=(5_000,)),),
        transfer=(TransferArm(size="1x16", D=5_000, D_source=5_000, overlap="disjoint"),),
        diversity=(DiversityArm(size="1x16", D=20_000, unique_tokens=5_000, first="known", second="meta"),),
    )
    streams = {stream for run in made.runs for stream in run.config.streams}
    assert {(stream.sampling, stream.exclude) for stream in streams} == {("cluster50", ("fragment", "viral"))}


def test_a_mixture_is_limited_and_split_as_it_is_drawn(clustered: Corpus) -> None:
    made = plan(
        clustered,
        mixture=SHARES,
        repeats=(RepeatsArm(size="1x16", D=20_000, unique_tokens=(4_000,)),),
        transfer=(TransferArm(size="1x16", D=4_000, D_source=4_000, overlap="disjoint"),),
    )
    whole = mixture(clustered, SHARES, context=64)
    assert token_shares(clustered, whole, 64) == pytest.approx([0.25, 0.75])
    of_role = {role: run.config.streams for run in made.runs for role in run.roles if len(run.roles) == 1}
    by_limit = {tuple(s.unique_tokens for s in run.config.streams) for run in made.runs if "repeats" in run.roles}
    assert by_limit == {(None, None), (1_000, 3_000)}
    assert [s.unique_tokens for s in of_role["transfer_source"]] == [1_000, 3_000]
    assert [s.start_tokens for s in of_role["transfer_target"]] == [1_000, 3_000]
    assert {s.weight for run in made.runs for s in run.config.streams} == {s.weight for s in whole}


def test_the_plan_of_cluster_runs_is_that_of_their_data(clustered: Corpus) -> None:
    arm = DataArm(size="1x16", D=60_000, sampling=("cluster50",), exclude=((), ("fragment",)))
    for run in plan(clustered, data=(arm,)).runs:
        batches = Batches(clustered, run.config)
        assert run.steps == batches.n_steps
        assert run.unique_tokens == clustered.pool_tokens(run.config.streams[0])
        assert run.unique_tokens > batches.pass_stats(0, 0).tokens
        assert run.epochs == run.config.D / run.unique_tokens
        assert batches.tokens_at(run.steps) == pytest.approx(run.config.D, rel=0.03)
        spent = batches.stats_at(run.steps)
        per_token = run.C_exact / run.config.D
        assert per_token == pytest.approx(
            _flops(run.config.n_layers, run.config.d_model, spent.positions, spent.sum_length_squared) / spent.tokens,
            rel=0.03,
        )


def _flops(n_layers: int, d_model: int, positions: int, squares: int) -> float:
    from plm_scaling.core.units import exact_training_flops

    return exact_training_flops(n_layers, d_model, positions=positions, sum_length_squared=squares)


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        ({"data": (DataArm(size="1x16", D=1e4),)}, PlanError, "varies nothing"),
        ({"data": (DataArm(size="1x16", D=1e4, exclude=(("virul",),)),)}, PlanError, "no flag 'virul'"),
        ({"data": (DataArm(size="1x16", D=1e4, mixture=({"metta": 1.0},)),)}, PlanError, "no source 'metta'"),
        ({"grid": GRID, "exclude": ("virul",)}, PlanError, "no flag 'virul'"),
        ({"grid": GRID, "mixture": SHARES, "sources": ("known",)}, PlanError, "name different ones"),
        ({"grid": GRID, "sampling": "cluster50"}, CorpusError, "no clusters"),
    ],
)
def test_faults_are_named(corpus: Corpus, update: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(corpus, **update)


TOML = """
name = "s"
corpus = "corpus"
sampling = "cluster50"
exclude = ["viral"]
[mixture]
known = 8.5
meta = 91.5
[[data]]
size = "1x16"
D = 2e4
exclude = [[], ["fragment"], ["viral"]]
sampling = ["flat", "cluster50"]
mixture = ["natural", "tokens", {known = 1, meta = 2.5}]
"""


def test_a_spec_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TOML)
    spec = read_spec(path)
    assert (spec.sampling, spec.exclude, spec.mixture) == ("cluster50", ("viral",), {"known": 8.5, "meta": 91.5})
    (arm,) = spec.data
    assert arm.exclude == ((), ("fragment",), ("viral",))
    assert arm.sampling == ("flat", "cluster50")
    assert arm.mixture == ("natural", "tokens", {"known": 1.0, "meta": 2.5})
    path.write_text(TOML.replace('sampling = "cluster50"', 'sampling = "cluster90"'))
    with pytest.raises(ConfigError, match="sampling") as caught:
        read_spec(path)
    assert caught.value.where == f"{path}:4"


def test_the_plan_says_what_each_run_trains_on(clustered: Corpus) -> None:
    made = plan(clustered, data=(DataArm(size="1x16", D=20_000, exclude=((), ("fragment",)), mixture=("natural",)),))
    assert {run.data for run in made.runs} == {"all", "all -fragment"}
    streams = (
        Stream(sources=("a", "b"), weight=1.0, unique_tokens=25_000, sampling="cluster50", exclude=("viral", "short")),
        Stream(weight=3.0, start_tokens=1_000, duplicates=True),
    )
    assert data_text(streams) == "0.25 a+b U=25k by cluster -short -viral; 0.75 all from 1k with duplicates"
