"""Arms that cross factors: transfer by size and share with its controls, repeats by size and masks, corner probes."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.run import Stream
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep, read_spec
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan, SweepSpec

VALUES: dict[str, object] = {"name": "t", "corpus": "c", "context": 64, "validation_tokens": 1000}
SHARES = (0.125, 0.25, 0.5)
SIZES = ("1x16", "2x16", "2x24")


def plan(corpus: Corpus, **update: object) -> SweepPlan:
    return plan_sweep(SweepSpec.model_validate(VALUES | update), corpus, memory_bytes=1e12)


def of_role(made: SweepPlan, role: str) -> list[PlannedRun]:
    return [run for run in made.runs if role in run.roles]


def grid(**update: object) -> list[dict[str, object]]:
    return [{"sizes": SIZES, "source_shares": SHARES, "D": (40_000,)} | update]


# ---- transfer --------------------------------------------------------------------------------------------------------


def test_transfer_crosses_source_share_and_size(corpus: Corpus) -> None:
    made = plan(corpus, transfer_grid=grid())
    by_id = {run.run_id: run for run in made.runs}
    targets = of_role(made, "transfer_target")
    assert Counter(run.config.shape for run in targets) == Counter(dict.fromkeys({r.config.shape for r in targets}, 3))
    assert len(targets) == 9
    scratch = {(run.config.N, run.config.D): run.config for run in of_role(made, "transfer_scratch")}
    for run in targets:
        source = by_id[run.config.init_from or ""].config
        assert (source.objective, run.config.objective) == ("clm", "mlm")
        assert source.D + run.config.D == 40_000
        assert source.D / 40_000 in SHARES
        assert source.final_lr_fraction == 0.1  # decayed to its end: its schedule is its own D
        partner = scratch[run.config.N, run.config.D]  # a matched schedule
        assert (partner.batch_tokens, partner.peak_lr) == (run.config.batch_tokens, run.config.peak_lr)
        assert partner.init_from is None
        assert (run.config.N, 40_000) in scratch  # what the compute of both phases could have bought


def test_transfer_at_a_fixed_compute(corpus: Corpus) -> None:
    made = plan(corpus, transfer_grid=grid(D=(), C=2e9))
    by_id = {run.run_id: run for run in made.runs}
    for run in of_role(made, "transfer_target"):
        assert run.C_exact + by_id[run.config.init_from or ""].C_exact == pytest.approx(2e9, rel=0.01)
    one_each = plan(corpus, transfer_grid=grid(D=(20_000, 30_000, 40_000)))
    sums = {r.config.N: r.config.D for r in sorted(of_role(one_each, "transfer_scratch"), key=lambda r: r.config.D)}
    assert sorted(sums.values()) == [20_000, 30_000, 40_000]


@pytest.mark.parametrize("overlap", ["shared", "disjoint"])
def test_controls_start_from_other_sources_of_the_same_tokens(corpus: Corpus, overlap: str) -> None:
    arm = {"size": "1x16", "D": 15_000, "D_source": 5_000, "overlap": overlap, "controls": ["rewarmed", "shuffled"]}
    made = plan(corpus, transfer=[arm])
    by_id = {run.run_id: run for run in made.runs}
    shuffled, plain = sorted(
        of_role(made, "transfer_target"), key=lambda run: "shuffled" not in by_id[run.config.init_from or ""].data
    )
    (rewarmed,) = of_role(made, "rewarmed")
    same = {"init_from": plain.config.init_from}
    assert shuffled.config.model_copy(update=same) == rewarmed.config.model_copy(update=same) == plain.config
    source, control, own = (by_id[run.config.init_from or ""].config for run in (plain, shuffled, rewarmed))
    assert control.streams == tuple(s.model_copy(update={"shuffled": True}) for s in source.streams)
    assert control.model_copy(update={"streams": source.streams}) == source
    assert (own.objective, own.streams, own.D) == ("mlm", source.streams, source.D)
    assert by_id[control.run_id].roles == ("shuffled_source",)
    assert "shuffled" not in Stream().identity()


def test_every_arm_of_a_transfer_has_its_learning_rate_probed(corpus: Corpus) -> None:
    made = plan(corpus, transfer_grid=grid(sizes=("1x16",), lr_factors=(0.5,)))
    probes = of_role(made, "lr_probe")
    rates = {(r.config.D, r.config.init_from): r.config.peak_lr for r in made.runs}
    assert Counter(bool(run.config.init_from) for run in probes) == {True: 3, False: 3}
    usual = {(r.config.D, r.config.init_from): r.config.peak_lr for r in made.runs if "lr_probe" not in r.roles}
    for run in probes:
        assert run.roles == ("lr_probe",)
        assert run.config.peak_lr == pytest.approx(0.5 * usual[run.config.D, run.config.init_from], rel=1e-5)
    assert set(rates) == set(usual)


# ---- repeats, diversity ----------------------------------------------------------------------------------------------


def test_repeats_cross_sizes_pools_and_masks(corpus: Corpus) -> None:
    arm = {"sizes": ("1x16", "2x16"), "D": 20_000, "unique_tokens": (5_000, 2_000), "mask_refresh": [True, False]}
    made = plan(corpus, repeats=[arm])
    seen = Counter(
        (r.config.objective, r.config.N, r.config.streams[0].unique_tokens, r.config.mask_refresh) for r in made.runs
    )
    sizes = {run.config.N for run in made.runs}
    pools = (None, 5_000, 2_000)
    assert seen == Counter(
        [("mlm", *cell) for cell in product(sizes, pools, (True, False))]
        + [("clm", *cell, True) for cell in product(sizes, pools)]
    )
    one = plan(corpus, repeats=[{"size": "1x16", "D": 20_000, "unique_tokens": (5_000, 2_000)}])
    assert {run.run_id for run in one.runs} < {run.run_id for run in made.runs}


def test_repetition_and_shift_can_be_told_apart_from_the_diversity_arm(corpus: Corpus) -> None:
    """At one share of the second source the repetition of the first varies, and at one repetition the share."""
    arm = {"size": "1x16", "D": 20_000, "first": "known", "second": "meta", "shares": (0.25, 0.5, 0.75)}
    made = plan(corpus, diversity=[arm | {"unique_tokens": 4_000}, arm | {"unique_tokens": 8_000}])
    assert {run.config.objective for run in made.runs} == {"clm", "mlm"}
    design: dict[float, set[float]] = {}
    for run in made.runs:
        streams = {stream.sources: stream for stream in run.config.streams}
        first = streams.get(("known",))
        weight = first.weight if first else 0.0
        share = 0.0 if len(streams) == 1 and first else 1.0 - weight
        drawn = run.config.D * (1.0 - share)
        design.setdefault(share, set()).add(drawn / first.unique_tokens if first and first.unique_tokens else 0.0)
    assert sorted(design) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {share: len(epochs) for share, epochs in design.items() if share < 1.0} == dict.fromkeys(
        (0.0, 0.25, 0.5, 0.75), 2
    )
    assert design[0.5] & design[0.0] == {2.5}  # as often repeated, with and without the other source


# ---- probes of the learning rate -------------------------------------------------------------------------------------

ISOFLOP = [{"C": 1e9, "sizes": ("1x16", "1x24", "2x16")}, {"C": 4e9, "sizes": ("1x24", "2x24", "2x32")}]


def test_the_corners_of_the_isoflop_arms_are_probed_first(corpus: Corpus) -> None:
    made = plan(corpus, isoflop=ISOFLOP, lr_probe=[{}], seeds=(3, 4))
    probes = of_role(made, "lr_probe")
    assert len(probes) == 4 * 3 * 2
    assert made.runs[: len(probes)] == tuple(probes)
    for objective in ("clm", "mlm"):
        here = [run for run in probes if run.config.objective == objective]
        own = [run.config for run in here if run.roles != ("lr_probe",)]
        assert {run.roles for run in here} == {("lr_probe",), ("isoflop", "lr_probe", "replicate")}
        assert sorted((c.n_layers, c.d_model) for c in own) == [(1, 16), (1, 24), (1, 24), (2, 32)]
        for config in own:
            others = [run.config for run in here if (run.config.N, run.config.D) == (config.N, config.D)]
            factors = sorted(other.peak_lr / config.peak_lr for other in others)
            assert factors == pytest.approx([0.5, 1.0, 2.0], rel=1e-5)
            assert {other.model_copy(update={"peak_lr": config.peak_lr}) for other in others} == {config}
            assert {other.seed for other in others} == {3}


def test_corners_of_a_grid_and_corners_given(corpus: Corpus) -> None:
    of_grid = plan(corpus, grid=[{"sizes": ("2x16", "1x16", "2x24"), "D": (1e4, 3e4, 2e4)}], lr_probe=[{}])
    expected = {(1, 16, 10_000), (1, 16, 30_000), (2, 24, 10_000), (2, 24, 30_000)}
    probes = of_role(of_grid, "lr_probe")
    assert {(r.config.n_layers, r.config.d_model, r.config.D) for r in probes} == expected
    given = plan(corpus, lr_probe=[{"sizes": ("1x16", "2x24"), "D": (1e4, 3e4), "factors": (0.7, 1.0, 1.4)}])
    assert {(r.config.n_layers, r.config.d_model, r.config.D) for r in given.runs} == expected
    at_compute = plan(corpus, lr_probe=[{"sizes": ("1x16", "2x24"), "C": (1e9, 4e9)}])
    assert {round(run.C_exact / 1e8) for run in at_compute.runs} == {10, 40}


def test_a_probe_waits_for_what_it_needs(corpus: Corpus) -> None:
    """A probe that branches off a longer run comes after it, even though probes come first."""
    made = plan(
        corpus,
        objectives=("clm",),
        schedule="wsd",
        warmup_tokens=1_000,
        batch_tokens=256,
        grid=[{"sizes": ("1x16",), "D": (1e4, 2e4, 3e4)}],
        lr_probe=[{"sizes": ("1x16",), "D": (1e4, 2e4)}],
    )
    place = {run.run_id: number for number, run in enumerate(made.runs)}
    assert any(run.trunk for run in of_role(made, "lr_probe"))
    assert all(place[run.trunk] < place[run.run_id] for run in made.runs if run.trunk)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[[lr_probe]]\nfactors = [0.5, 2]", "holds 1"),
        ('[[lr_probe]]\nsizes = ["1x16"]', "either D or C"),
        ("[[lr_probe]]\nD = [1e4]", "give sizes too"),
        ('[[repeats]]\nsize = "1x16"\nsizes = ["1x16"]\nD = 1e4\nunique_tokens = [1e3]', "either size or sizes"),
        ('[[repeats]]\nsize = "1x16"\nD = 1e4\nunique_tokens = [1e3]\nmask_refresh = []', "mask_refresh"),
        ('[[transfer_grid]]\nsizes = ["1x16"]', "either D or C"),
        ('[[transfer_grid]]\nsizes = ["1x16"]\nD = [1e4, 2e4]', "one for each"),
        ('[[transfer_grid]]\nsizes = ["1x16"]\nD = [1e4]\nsource_shares = [1.0]', "source_shares"),
        ('[[transfer_grid]]\nsizes = ["1x16"]\nD = [1e4]\ncontrols = ["shufled"]', "controls"),
    ],
)
def test_what_an_arm_lacks_is_named(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'name = "s"\ncorpus = "c"\n{lines}\n')
    with pytest.raises(ConfigError, match=message):
        read_spec(path)


def test_a_probe_without_corners_is_refused(corpus: Corpus) -> None:
    with pytest.raises(PlanError, match="no isoflop or grid arm of mlm"):
        plan(corpus, lr_probe=[{}], grid=[{"sizes": ("1x16",), "D": (1e4,), "objectives": ("clm",)}])
