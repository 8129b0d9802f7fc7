"""Models of different objectives on one axis: planted ones meet, floors stand above, own ones fit in."""

from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.adapters.doubles import MarkovModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.compare_sites import compare_objectives, compare_site_nats
from plm_scaling.evals.composition import fit_composition, fit_site_profile
from plm_scaling.evals.frontier import Frontier, FrontierPoint
from plm_scaling.evals.metric_table import MetricRow, rows_of_frontier, write_metric_table
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.variants import parse_variants
from plm_scaling.sizing.metric_map import fit_metric_maps, read_metric_table
from plm_scaling.sizing.published_scores import measured_scores

SHAPE = ModelShape(n_layers=1, d_model=16)


class Planted(MarkovModel):
    """A chain that only does what its objective was for; `blur` makes it a worse model of its source."""

    def __init__(self, objective: str, blur: float = 0.0, name: str = "") -> None:
        transition = np.random.default_rng(1).dirichlet(np.full(20, 0.2), size=20)
        super().__init__((1 - blur) * transition + blur / 20, name=name or f"planted {objective}")
        ability = "causal" if objective == "clm" else "masked"
        self._info = self._info.model_copy(update={"objective": objective, "abilities": (ability,)})


def drawn(n: int, length: int = 15, seed: int = 0) -> list[str]:
    rng, model = np.random.default_rng(seed), Planted("clm")
    sequences = []
    for _ in range(n):
        ids = [rng.choice(20, p=model.start_A)]
        while len(ids) < length:
            ids.append(rng.choice(20, p=model.transition_AA[ids[-1]]))
        sequences.append("".join(STANDARD[k] for k in ids))
    return sequences


def test_objectives_meet_on_one_axis_and_floors_stand_above() -> None:
    sequences = drawn(50)
    floors = [fit_composition(drawn(200, seed=1)), fit_site_profile(drawn(200, seed=2))]
    models = [*floors, Planted("clm"), Planted("mlm"), Planted("mlm", 0.3, "blurred")]
    table = compare_objectives(models, sequences, 3)
    order = [result.info.name for result in table.results]
    assert set(order[:2]) == {"planted clm", "planted mlm"}
    assert order[2:] == ["blurred", "composition", "site profile"] or order[2:] == [
        "blurred",
        "site profile",
        "composition",
    ]
    first, *worse = table.differences
    assert first.nats.value == pytest.approx(0.0, abs=1e-9)
    for difference in worse:
        assert difference.nats.low > 0.0
        assert difference.p_holm < 0.05
    means = [result.mean.value for result in table.results]
    assert [d.nats.value for d in table.differences] == pytest.approx(np.array(means[1:]) - means[0], abs=1e-12)
    assert {result.method for result in table.results} == {"masked", "causal", "profile"}
    again = compare_site_nats([table.of("blurred"), table.of("planted mlm")], against="blurred")
    assert again.differences[0].nats.value == pytest.approx(-table.of("blurred").mean.value + means[0], abs=1e-9)
    copy = compare_objectives([Planted("mlm"), Planted("mlm", name="itself")], sequences, table.sample)
    assert (copy.differences[0].nats.value, copy.differences[0].nats.low, copy.differences[0].nats.high) == (0, 0, 0)


def test_only_equal_sites_are_compared() -> None:
    sequences = drawn(4)
    model, other = Planted("mlm"), Planted("clm")
    sample = sample_sites(sequences)
    results = [site_nats(model, sequences, sample), site_nats(other, sequences, sample_sites(sequences, seed=1))]
    with pytest.raises(RefusedError, match="different sites"):
        compare_site_nats(results)
    raw = [site_nats(model, sequences, sample), site_nats(other, sequences, sample, letters="raw")]
    with pytest.raises(RefusedError, match="different letters"):
        compare_site_nats(raw)
    with pytest.raises(ConfigError, match="names of their own"):
        compare_objectives([model, model], sequences)
    with pytest.raises(ConfigError, match="planted mml"):
        compare_objectives([model, other], sequences, against="planted mml")
    with pytest.raises(ConfigError, match="sequences of 3 to 15"):
        fit_site_profile([*sequences, "MKV"])


def test_relatives_are_drawn_together() -> None:
    sequences = drawn(12)
    models = [Planted("clm"), Planted("mlm", 0.3, "blurred")]
    family = [k // 4 for k in range(12)]
    alone, together = (compare_objectives(models, sequences, 2, clusters=clusters) for clusters in (None, family))
    for table, units in ((alone, 12), (together, 3)):
        assert (table.results[0].mean.units, table.differences[0].nats.units) == (units, units)
    assert alone.differences[0].nats.value == pytest.approx(together.differences[0].nats.value, rel=1e-12)
    with pytest.raises(ConfigError, match="3 clusters for 12"):
        compare_objectives(models, sequences, 2, clusters=[0, 1, 2])


def test_composition_is_the_frequencies_counted() -> None:
    model = fit_composition(["AAAX", "K"])
    assert np.exp(model.logprobs) == pytest.approx(
        [{"A": 4, "K": 2}.get(letter, 1) / 24 for letter in STANDARD], abs=1e-12
    )
    sequences = ["MKXA", "AXA"]
    sample = sample_sites(sequences)
    by_totals = site_nats(model, sequences, sample, method="causal")
    np.testing.assert_allclose(by_totals.values, site_nats(model, sequences, sample).values, atol=1e-12)


@pytest.mark.parametrize("letters", ["20", "raw"])
def test_own_models_of_both_objectives_take_part(letters) -> None:
    """Random weights know little: nats are near ln 20, by masks and by totals, whatever is shared or cut."""
    sequences = [*drawn(3, 24), "MKXAW"]
    sample = sample_sites(sequences, per_sequence=2)
    context = 24 if letters == "20" else 26
    causal = random_weights(SHAPE, objective="clm", context=context, name="clm", device="cpu")
    masked = random_weights(SHAPE, objective="mlm", context=32, name="mlm", device="cpu")
    table = compare_objectives([causal, masked, fit_composition(sequences)], sequences, sample, letters=letters)
    assert table.warnings == (("windows differ",) if letters == "20" else ())
    assert {table.of(name).method for name in ("clm", "mlm")} == {"causal", "masked"}
    for name in ("clm", "mlm"):
        assert table.of(name).mean.value == pytest.approx(np.log(20 if letters == "20" else 26), abs=0.6)
    k = 0
    sequence, site = sequences[0], int(sample.position[0])
    begin = max(0, min(site - 11, 26 - context))
    end = begin + context - 2
    candidates = STANDARD if letters == "20" else STANDARD + "XBUZO"
    totals = np.array(
        [
            causal.residue_logprobs([(sequence[:site] + x + sequence[site + 1 :])[begin:end]], letters=letters)[0].sum()
            if x in STANDARD or letters == "raw"
            else -np.inf
            for x in candidates
        ]
    )
    wanted = np.logaddexp.reduce(totals) - totals[candidates.index(sequence[site])]
    assert table.of("clm").values[k] == pytest.approx(wanted, abs=1e-5)


def test_a_library_takes_the_work_that_is_counted() -> None:
    """28 sites of a protein of 735 residues in small: the counts are what went through the model."""
    wild = drawn(1, 90)[0]
    rng = np.random.default_rng(3)
    library = ["".join(rng.choice(list(STANDARD), 4)) for _ in range(30)]
    variants = parse_variants(wild, library, region=(68, 72))
    masked = random_weights(SHAPE, objective="mlm", device="cpu")
    scores = score_variants(masked, wild, variants)
    assert scores.cost.forwards == 4
    assert masked.tokens_processed == scores.cost.tokens == 4 * 92
    causal = random_weights(SHAPE, objective="clm", device="cpu")
    scores = score_variants(causal, wild, variants)
    alone = random_weights(SHAPE, objective="clm", device="cpu")
    alone.share_beginnings = False
    np.testing.assert_allclose(score_variants(alone, wild, variants).values, scores.values, atol=1e-5)
    assert scores.cost.saved > 3.0
    assert causal.tokens_processed == pytest.approx(scores.cost.tokens, rel=0.05)
    assert alone.tokens_processed == pytest.approx(scores.cost.tokens_unshared, rel=0.05)


def test_the_table_is_what_spend_maps_losses_with(tmp_path) -> None:
    """Maps are of runs alone: no controls, and public models, whose loss is on other proteins, by name and metric."""
    told = [("clm", 2.0 + k / 10, 2.7 + k / 20, False) for k in range(4)]
    told += [("mlm", 2.4 + k / 10, 2.6 + k / 20, False) for k in range(4)]
    points = tuple(
        FrontierPoint(model="m", objective=objective, source="computed", loss=loss, value=value, control=control)
        for objective, loss, value, control in [*told, ("clm", 3.0, 3.1, True), ("mlm", None, 2.0, False)]
    )
    public = FrontierPoint(
        model="esm2_t33_650M_UR50D", objective="mlm", source="computed", value=2.1, low=2.0, high=2.2, family="esm2"
    )
    frontier = Frontier(task="t", metric="site nats", higher_is_better=False, points=(*points, public))
    *rows, last = rows_of_frontier(frontier)
    assert rows == [MetricRow(loss, value, objective) for objective, loss, value, _ in told]
    table = write_metric_table(tmp_path / "metrics.csv", (*rows, last))
    read = read_metric_table(table)
    assert [(point.loss, point.metric, point.objective) for point in read] == [
        (row.loss, row.metric, row.objective) for row in rows
    ]
    [measured] = measured_scores(table)
    assert (measured.name, measured.value, measured.low, measured.high) == ("esm2-650m", 2.1, 2.0, 2.2)
    maps, _ = fit_metric_maps(read, "site nats", higher_is_better=False)
    assert set(maps) == {"clm", "mlm"}
    assert maps["clm"].at(2.0) < maps["clm"].at(2.3)
    with pytest.raises(ConfigError, match="no scored model has a loss"):
        write_metric_table(tmp_path / "x.csv", ())
    assert not (tmp_path / "x.csv").exists()
