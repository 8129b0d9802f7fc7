from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.recipe import batch_tokens_for, peak_lr_for
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.core.units import exact_training_flops
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.packing import window_stats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import parse_size, plan_sweep, read_spec
from plm_scaling.sweeps.plan_records import (
    DiversityArm,
    GridArm,
    IsoflopArm,
    PlannedRun,
    RepeatsArm,
    SweepPlan,
    SweepSpec,
    TransferArm,
)
from plm_scaling.sweeps.sizes import size_text

SPEC = SweepSpec(name="test", corpus="c", context=64, validation_tokens=1000)


def spec(**update: object) -> SweepSpec:
    return SPEC.model_copy(update=update)


def find(plan: SweepPlan, role: str) -> list[PlannedRun]:
    return [run for run in plan.runs if role in run.roles]


def test_golden_run_id() -> None:
    """The id of a run may never change: a later release must find the runs that this one has trained.

    If this fails, a field was renamed, a default was changed, or a new field's default is not the old behaviour.
    Give the new field a default that means the old behaviour; do not change this literal.
    """
    config = RunConfig(
        corpus_id="0" * 64,
        objective="mlm",
        n_layers=2,
        d_model=64,
        context=128,
        D=1_500_000,
        batch_tokens=512,
        peak_lr=3.9662e-3,
        recipe="small",
        streams=(Stream(sources=("a",), unique_tokens=25_000, weight=0.25), Stream(sources=("b",), weight=0.75)),
        seed=3,
        init_from="0123456789ab",
        warmup_fraction=0.05,
    )
    assert config.run_id == "15e6c2702f42"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("2x64", ModelShape(n_layers=2, d_model=64)),
        (" 12 X 768 ", ModelShape(n_layers=12, d_model=768)),
        ("6x320x20", ModelShape(n_layers=6, d_model=320, n_heads=20)),
        ("6x320x5", ModelShape(n_layers=6, d_model=320)),  # the usual heads: the same run as 6x320
        ("cheng-85m", ModelShape(n_layers=12, d_model=768)),
        ("ESM2-8M", ModelShape(architecture="esm2", n_layers=6, d_model=320, n_heads=20)),
    ],
)
def test_parse_size(text: str, shape: ModelShape) -> None:
    assert parse_size(text) == shape


def test_numbers_take_the_architecture_of_the_spec_and_names_bring_their_own(corpus: Corpus) -> None:
    arm = GridArm(sizes=("2x32x4", "esm2-8m", "cheng-3m"), D=(1e4,), objectives=("mlm",))
    plan = plan_sweep(spec(architecture="esm2", grid=(arm,)), corpus)
    assert {size_text(run.config.shape) for run in plan.runs} == {"esm2 2x32x4", "esm2 6x320x20", "8x192"}
    for run in plan.runs:
        cost = run.config.shape.training_flops(positions=1.0, sum_length_squared=0.0)
        assert run.C_exact > run.config.D * cost
        assert run.config.N == run.config.shape.N


@pytest.mark.parametrize(
    "text", ["", "64", "0x64", "2x0", "2x-64", "2*64", "2x64x3", "ax64", "2x63", "2.5x64", "esm2-9m"]
)
def test_a_size_that_is_none_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_size(text, where="isoflop[0]")
    assert caught.value.where == "isoflop[0]"


@pytest.mark.parametrize("currency", ["C_exact", "C_6nd"])
def test_D_comes_from_C_in_the_currency_asked_for(corpus: Corpus, currency: str) -> None:
    sizes = ("2x16", "2x64", "3x96")
    plan = plan_sweep(spec(currency=currency, isoflop=(IsoflopArm(C=1e11, sizes=sizes),)), corpus)
    assert len(plan.runs) == 6
    for run in plan.runs:
        C = run.C_exact if currency == "C_exact" else run.config.C_6nd
        one_token = C / run.config.D
        assert abs(C - 1e11) <= one_token / 2 * 1.0001


def test_C_exact_is_that_of_the_windows_drawn(corpus: Corpus) -> None:
    plan = plan_sweep(spec(grid=(GridArm(sizes=("2x32",), D=(1e6,)),), objectives=("clm",)), corpus)
    stats = window_stats(corpus, Stream(), 64)
    passes = 1e6 / stats.tokens
    by_hand = exact_training_flops(
        2, 32, positions=stats.positions * passes, sum_length_squared=stats.sum_length_squared * passes
    )
    assert plan.runs[0].C_exact == pytest.approx(by_hand, rel=1e-12)
    assert plan.runs[0].C_exact > plan.runs[0].config.C_6nd  # attention and head are extra
    assert plan.total_C_exact == pytest.approx(by_hand)


def test_steps_and_epochs_are_those_of_the_data(corpus: Corpus) -> None:
    arm = DiversityArm(size="2x16", D=50_000, unique_tokens=10_000, first="known", second="meta", shares=(0.3,))
    plan = plan_sweep(spec(diversity=(arm,)), corpus)
    for run in plan.runs:
        batches = Batches(corpus, run.config)
        assert run.steps == batches.n_steps
        assert run.unique_tokens == sum(windows.stats.tokens for windows in batches.windows)
        assert run.epochs == pytest.approx(run.config.D / run.unique_tokens)
        assert batches.tokens_at(run.steps) == pytest.approx(run.config.D, rel=0.02)


def test_recipe_sets_rate_and_batch(corpus: Corpus) -> None:
    grid = GridArm(sizes=("2x64", "8x128"), D=(1e6, 3e6, 6e6))
    plan = plan_sweep(spec(grid=(grid,), lr_factor=0.5), corpus)
    assert {run.config.recipe for run in plan.runs} == {"small", "cheng"}  # 8x128 has 1.6M parameters
    for run in plan.runs:
        config = run.config
        assert config.peak_lr == pytest.approx(
            0.5 * peak_lr_for(config.N, config.batch_tokens, config.recipe), rel=1e-5
        )
        assert config.batch_tokens == batch_tokens_for(config.N, config.D, config.recipe)
        assert config.peak_lr == float(f"{config.peak_lr:.6g}")  # the id must not depend on the C library


def test_a_batch_holds_at_least_one_window(corpus: Corpus) -> None:
    plan = plan_sweep(spec(context=1024, grid=(GridArm(sizes=("2x16",), D=(1e5,)),)), corpus)
    assert {run.config.batch_tokens for run in plan.runs} == {1024}  # the recipe says 512


def test_a_given_batch_must_be_whole_windows(corpus: Corpus) -> None:
    grid = (GridArm(sizes=("2x16",), D=(1e5,)),)
    assert plan_sweep(spec(batch_tokens=640, grid=grid), corpus).runs[0].config.batch_tokens == 640
    with pytest.raises(PlanError, match="no multiple of context 64") as caught:
        plan_sweep(spec(batch_tokens=500, grid=grid), corpus)
    assert "512" in caught.value.hint


def test_runs_that_arms_share_are_planned_once_with_all_roles(corpus: Corpus) -> None:
    wanted = spec(
        objectives=("clm", "mlm"),
        grid=(GridArm(sizes=("2x16",), D=(20_000,)), GridArm(sizes=("2x16", "2x24"), D=(20_000,))),
        repeats=(RepeatsArm(size="2x16", D=20_000, unique_tokens=(5_000,)),),
        transfer=(TransferArm(size="2x16", D=20_000, D_source=20_000),),
    )
    plan = plan_sweep(wanted, corpus)
    assert len({run.run_id for run in plan.runs}) == len(plan.runs) == 4 + 2 + 1
    shared = {run.config.objective: run.roles for run in plan.runs if len(run.roles) > 1}
    assert shared == {"clm": ("grid", "repeats", "transfer_source"), "mlm": ("grid", "repeats", "transfer_scratch")}


def test_replicates_are_named(corpus: Corpus) -> None:
    arms = (IsoflopArm(C=1e10, sizes=("2x16",), seeds=(0, 1, 2)), IsoflopArm(C=1e10, sizes=("2x24",)))
    plan = plan_sweep(spec(isoflop=arms, objectives=("clm",)), corpus)
    roles = {(run.config.d_model, run.config.seed): run.roles for run in plan.runs}
    assert roles == {
        **{(16, seed): ("isoflop", "replicate") for seed in (0, 1, 2)},
        (24, 0): ("isoflop",),
    }


def test_arms_override_objectives_and_seeds(corpus: Corpus) -> None:
    arm = IsoflopArm(C=1e10, sizes=("2x16",), objectives=("mlm",))
    plan = plan_sweep(spec(isoflop=(arm,), seeds=(7, 8)), corpus)
    assert {(run.config.objective, run.config.seed) for run in plan.runs} == {("mlm", 7), ("mlm", 8)}


def test_repeats_shrink_one_pool_and_keep_D(corpus: Corpus) -> None:
    arm = RepeatsArm(size="2x16", D=40_000, unique_tokens=(20_000, 5_000), mask_refresh=False)
    plan = plan_sweep(spec(repeats=(arm,)), corpus)
    assert {run.config.D for run in plan.runs} == {40_000}
    streams = {run.config.streams for run in plan.runs}
    assert streams == {(Stream(),), (Stream(unique_tokens=20_000),), (Stream(unique_tokens=5_000),)}
    by_unique = {run.config.streams[0].unique_tokens: run.epochs for run in plan.runs}
    assert by_unique[20_000] == pytest.approx(2, rel=0.02)
    assert by_unique[5_000] == pytest.approx(8, rel=0.03)
    # Masks are a matter of MLM only: a CLM run with other masks would be the same run under another id.
    assert {(run.config.objective, run.config.mask_refresh) for run in plan.runs} == {("clm", True), ("mlm", False)}


def test_more_unique_tokens_than_there_are_is_an_error(corpus: Corpus) -> None:
    arm = RepeatsArm(size="2x16", D=40_000, unique_tokens=(1e9,))
    with pytest.raises(PlanError, match=r"1B unique tokens wanted") as caught:
        plan_sweep(spec(repeats=(arm,)), corpus)
    assert caught.value.where == "repeats[0].unique_tokens"


@pytest.mark.parametrize(("direction", "objectives"), [("clm->mlm", ("clm", "mlm")), ("mlm->clm", ("mlm", "clm"))])
def test_transfer_pairs(corpus: Corpus, direction: str, objectives: tuple[str, str]) -> None:
    arm = TransferArm(
        size="2x16", D=20_000, D_source=30_000, direction=direction, lr_factor=0.5, scratch_D=(40_000,), seeds=(4,)
    )
    plan = plan_sweep(spec(transfer=(arm,)), corpus)
    [source], [target] = find(plan, "transfer_source"), find(plan, "transfer_target")
    scratch = {run.config.D: run.config for run in find(plan, "transfer_scratch")}
    assert (source.config.objective, target.config.objective) == objectives
    assert (source.config.D, target.config.D) == (30_000, 20_000)
    assert target.config.init_from == source.run_id
    assert set(scratch) == {20_000, 40_000}
    partner = scratch[20_000]
    assert partner.init_from is None
    assert partner.objective == target.config.objective
    assert target.config.peak_lr == pytest.approx(0.5 * partner.peak_lr, rel=1e-5)
    assert (target.config.warmup_fraction, partner.warmup_fraction) == (0.05, 0.025)
    assert {run.config.seed for run in plan.runs} == {4}
    assert {run.config.streams for run in plan.runs} == {(Stream(),)}


@pytest.mark.parametrize(("D_source", "D"), [(20_000, 10_000), (200_000, 100_000)])
def test_disjoint_phases_share_no_sequence_and_miss_none(corpus: Corpus, D_source: int, D: int) -> None:
    arm = TransferArm(size="2x16", D=D, D_source=D_source, overlap="disjoint", scratch_D=(D / 2,))
    plan = plan_sweep(spec(transfer=(arm,)), corpus)
    [source] = find(plan, "transfer_source")
    others = [*find(plan, "transfer_target"), *find(plan, "transfer_scratch")]
    assert len({run.config.streams for run in others}) == 1  # only the start of the weights differs
    seen, left = (set(corpus.pool(run.config.streams[0]).tolist()) for run in (source, others[0]))
    assert not seen & left
    assert seen | left == set(corpus.rows("train").tolist())
    epochs = {round(run.epochs, 1) for run in (source, find(plan, "transfer_target")[0])}
    assert max(epochs) - min(epochs) <= (1.0 if D_source == 20_000 else 0.1)  # too few tokens: equally repeated


def test_diversity_streams(corpus: Corpus) -> None:
    arm = DiversityArm(
        size="2x16", D=30_000, unique_tokens=6_000, first="meta", second="known", shares=(0.3, 0.7), objectives=("clm",)
    )
    plan = plan_sweep(spec(diversity=(arm,)), corpus)
    first, second = Stream(sources=("meta",), unique_tokens=6_000), Stream(sources=("known",))

    def share(stream: Stream, weight: float) -> Stream:
        return stream.model_copy(update={"weight": weight})

    assert {run.config.streams for run in plan.runs} == {
        (first,),
        (share(first, 0.7), share(second, 0.3)),
        (share(first, 0.3), share(second, 0.7)),
        (second,),
    }
    assert {run.config.D for run in plan.runs} == {30_000}
    assert {run.roles for run in plan.runs} == {("diversity",)}


def test_naming_all_sources_is_naming_none(corpus: Corpus) -> None:
    grid = (GridArm(sizes=("2x16",), D=(1e4,)),)
    ids = [
        {run.run_id for run in plan_sweep(spec(sources=sources, grid=grid), corpus).runs}
        for sources in ((), ("meta", "known"), ("known", "meta"), ("meta",))
    ]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_scale_multiplies_budgets_and_keeps_epochs(corpus: Corpus) -> None:
    wanted = spec(
        objectives=("clm",),
        isoflop=(IsoflopArm(C=1e10, sizes=("2x16",)),),
        repeats=(RepeatsArm(size="2x24", D=40_000, unique_tokens=(10_000,)),),
    )
    whole, half = plan_sweep(wanted, corpus), plan_sweep(wanted, corpus, scale=0.5)
    assert half.scale == 0.5
    assert find(half, "isoflop")[0].C_exact == pytest.approx(5e9, rel=1e-3)
    epochs = [max(run.epochs for run in find(plan, "repeats")) for plan in (whole, half)]
    assert epochs[0] == pytest.approx(epochs[1], rel=0.05)
    assert half.total_C_exact == pytest.approx(whole.total_C_exact / 2, rel=1e-2)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_positive_number_is_refused(corpus: Corpus, scale: float) -> None:
    with pytest.raises(PlanError, match="scale"):
        plan_sweep(spec(grid=(GridArm(sizes=("2x16",), D=(1e4,)),)), corpus, scale=scale)


@pytest.mark.parametrize(
    ("update", "where", "message"),
    [
        ({"isoflop": (IsoflopArm(C=1e10, sizes=("2x16", "big")),)}, "isoflop[0]", "'big' is no size"),
        ({"isoflop": (IsoflopArm(C=10, sizes=("2x16",)),)}, "isoflop[0]", "no token"),
        ({"grid": (GridArm(sizes=("2x16",), D=(0.1,)),)}, "grid[0].D", "less than one token"),
        ({"transfer": (TransferArm(size="2x16", D=1e4, D_source=0.1),)}, "transfer[0].D_source", "less than one token"),
        (
            {"diversity": (DiversityArm(size="2x16", D=1e4, unique_tokens=5e3, first="known", second="known"),)},
            "diversity[0]",
            "both 'known'",
        ),
        (
            {
                "diversity": (
                    DiversityArm(size="2x16", D=1e4, unique_tokens=5e3, first="known", second="meta", shares=(1.0,)),
                )
            },
            "diversity[0].shares",
            "share 1 ",
        ),
    ],
)
def test_faults_of_a_spec_are_named_with_their_arm(
    corpus: Corpus, update: dict[str, object], where: str, message: str
) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        plan_sweep(spec(**update), corpus)
    assert caught.value.where == where


def test_an_unknown_source_is_an_error_with_a_suggestion(corpus: Corpus) -> None:
    with pytest.raises(PlanError, match="no source 'metta'") as caught:
        plan_sweep(spec(sources=("metta",), grid=(GridArm(sizes=("2x16",), D=(1e4,)),)), corpus)
    assert "meta" in caught.value.hint


def test_dtype_auto_takes_the_argument(corpus: Corpus) -> None:
    grid = (GridArm(sizes=("2x16",), D=(1e4,)),)
    assert plan_sweep(spec(grid=grid), corpus, dtype="bf16").runs[0].config.dtype == "bf16"
    assert plan_sweep(spec(grid=grid, dtype="fp32"), corpus, dtype="bf16").runs[0].config.dtype == "fp32"


def test_notes_name_what_is_doubtful(corpus: Corpus) -> None:
    wanted = spec(
        objectives=("clm",),
        grid=(GridArm(sizes=("2x16",), D=(2_000, 300_000, 1_000_000)),),
        repeats=(RepeatsArm(size="2x24", D=300_000, unique_tokens=(200, 30_000)),),
    )
    plan = plan_sweep(wanted, corpus, memory_bytes=1e12)
    notes = {(run.config.d_model, run.config.D, run.config.streams[0].unique_tokens): run.notes for run in plan.runs}
    assert notes == {
        (16, 2_000, None): ("FEW_STEPS",),
        (16, 300_000, None): (),  # 2.8 epochs
        (16, 1_000_000, None): ("DATA_EXHAUSTED",),
        (24, 300_000, None): (),
        (24, 300_000, 30_000): (),  # ten epochs, as asked for
        (24, 300_000, 200): ("FEW_WINDOWS",),
    }
    assert all("MEMORY" in run.notes for run in plan_sweep(wanted, corpus, memory_bytes=1e8).runs)


def test_an_unlimited_reference_that_repeats_is_flagged(corpus: Corpus) -> None:
    arm = RepeatsArm(size="2x16", D=1_000_000, unique_tokens=(10_000,))
    plan = plan_sweep(spec(repeats=(arm,), objectives=("clm",)), corpus, memory_bytes=1e12)
    assert {run.config.streams[0].unique_tokens: run.notes for run in plan.runs} == {
        None: ("DATA_EXHAUSTED",),
        10_000: (),
    }


SIZES = st.lists(st.sampled_from(["1x16", "2x16", "2x32"]), min_size=1, max_size=2, unique=True).map(tuple)
TOKENS = st.integers(5_000, 60_000).map(float)
TRANSFERS = st.builds(
    TransferArm,
    size=st.sampled_from(["1x16", "2x16"]),
    D=TOKENS,
    D_source=TOKENS,
    direction=st.sampled_from(["clm->mlm", "mlm->clm"]),
    overlap=st.sampled_from(["shared", "disjoint"]),
    scratch_D=st.lists(TOKENS, max_size=2).map(tuple),
    seeds=st.sampled_from([(), (1, 2)]),
)
GRIDS = st.builds(GridArm, sizes=SIZES, D=st.lists(TOKENS, min_size=1, max_size=2).map(tuple))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transfers=st.lists(TRANSFERS, min_size=1, max_size=3), grids=st.lists(GRIDS, max_size=2))
def test_every_plan_is_in_an_order_that_can_be_run(
    corpus: Corpus, transfers: list[TransferArm], grids: list[GridArm]
) -> None:
    plan = plan_sweep(spec(transfer=tuple(transfers), grid=tuple(grids)), corpus)
    place = {run.run_id: number for number, run in enumerate(plan.runs)}
    assert len(place) == len(plan.runs)
    for run in plan.runs:
        assert run.run_id == run.config.run_id
        if run.config.init_from:
            assert place[run.config.init_from] < place[run.run_id]
    # Among runs nothing waits for, the costliest comes first.
    waited_for = {run.config.init_from for run in plan.runs}
    free = [run.C_exact for run in plan.runs if run.run_id not in waited_for]
    assert all(a >= b for a, b in itertools.pairwise(free))


def test_the_same_spec_gives_the_same_plan_and_survives_its_file(corpus: Corpus, tmp_path: Path) -> None:
    wanted = spec(transfer=(TransferArm(size="2x16", D=2e4, D_source=3e4, overlap="disjoint"),))
    plan = plan_sweep(wanted, corpus)
    assert plan_sweep(wanted, corpus) == plan
    assert SweepPlan.read(plan.write(tmp_path / "plan.json")) == plan
    assert plan.corpus_id == corpus.corpus_id
    assert Path(plan.corpus) == corpus.path.resolve()


TOML = """
name = "s"
corpus = "../corpus"
[[isoflop]]
C = 1e12
sizes = ["2x16"]
"""


def test_read_spec_resolves_the_corpus(tmp_path: Path) -> None:
    path = tmp_path / "specs" / "s.toml"
    path.parent.mkdir()
    path.write_text(TOML)
    read = read_spec(path)
    assert read.corpus == str(tmp_path / "corpus")
    assert read.isoflop == (IsoflopArm(C=1e12, sizes=("2x16",)),)


def test_read_spec_names_line_and_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TOML + "seedz = [0, 1]\n")
    with pytest.raises(ConfigError) as caught:
        read_spec(path)
    assert (caught.value.where, caught.value.hint) == (f"{path}:7", "did you mean seeds?")


def test_a_spec_without_arms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\ncorpus = "c"\n')
    with pytest.raises(PlanError, match="asks for no run"):
        read_spec(path)
