"""Perplexity: known entropies, fixed masks, protocols kept apart, bins by identity to what was really seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import PrepSpec
from plm_scaling import api
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, CorpusError, PlmScalingError, RefusedError
from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.homology import find_mmseqs
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.trained import trained_rows
from plm_scaling.evals.adapters.base import Query
from plm_scaling.evals.adapters.doubles import MarkovModel, PlantedProfile, UniformModel
from plm_scaling.evals.bootstrap import bootstrap_mean
from plm_scaling.evals.held_out import HeldOutLosses, held_out_losses
from plm_scaling.evals.likelihoods import pseudo_totals
from plm_scaling.evals.perplexity import losses_of_run, nearest_training, perplexity_by_identity, training_rows

RNG = np.random.default_rng(17)
LETTERS = list(STANDARD)


class Watched(UniformModel):
    """A uniform model that keeps the queries it was shown."""

    def __init__(self, context: int = 0) -> None:
        super().__init__()
        self._info = self._info.model_copy(update={"context": context})
        self.queries: list[Query] = []

    def masked_logprobs(self, queries, *, letters="20"):
        self.queries += queries
        return [np.full((len(query.read), 20), -np.log(20)) for query in queries]


def test_a_chain_reaches_its_entropy_and_one_at_a_time_is_pseudo_likelihood() -> None:
    transition = RNG.dirichlet(np.full(20, 0.3), size=20)
    model = MarkovModel(transition)
    ids = np.zeros((150, 30), dtype=int)
    ids[:, 0] = RNG.choice(20, 150, p=model.start_A)
    for i in range(1, 30):
        ids[:, i] = (transition[ids[:, i - 1]].cumsum(1) < RNG.random((150, 1))).sum(1).clip(0, 19)
    sequences = ["".join(STANDARD[k] for k in row) for row in ids]
    first = -(model.start_A * np.log(model.start_A)).sum()
    rate = -(model.start_A[:, None] * transition * np.log(transition)).sum()
    (row,) = perplexity_by_identity(held_out_losses(model, sequences, "clm")).bins
    assert row.nats is not None
    assert abs(row.nats.value - (first + 29 * rate) / 30) < 3 * row.nats.se
    assert row.perplexity == pytest.approx(np.exp(row.nats.value))
    assert (row.name, row.sequences, row.targets, row.clusters) == ("all", 150, 4500, 150)
    few = sequences[:3]
    alone = held_out_losses(model, few, "mlm1")
    np.testing.assert_allclose(alone.sums, -pseudo_totals(model, few).values, rtol=1e-9)
    assert alone.targets.tolist() == [30, 30, 30]
    some = held_out_losses(model, few, "mlm1", per_sequence=4)
    assert some.targets.tolist() == [4, 4, 4]
    assert (
        len({alone.key, some.key, held_out_losses(model, few, "mlm15").key, held_out_losses(model, few, "clm").key})
        == 4
    )


def test_fixed_masks_follow_from_the_letters_and_score_the_true_ones() -> None:
    planted = np.log(RNG.dirichlet(np.ones(20), size=300))
    sequences = ["".join(RNG.choice(LETTERS, 300)) for _ in range(40)]
    model, watched = PlantedProfile(planted), Watched()
    found = held_out_losses(model, sequences, "mlm15")
    held_out_losses(watched, sequences, "mlm15")
    kinds = np.zeros(3)
    for number, (sequence, query) in enumerate(zip(sequences, watched.queries, strict=True)):
        assert set(query.masked) <= set(query.read)
        truth = [planted[site, STANDARD.index(sequence[site])] for site in query.read]
        assert found.sums[number] == pytest.approx(-sum(truth), rel=1e-9)
        changed = [site for site in range(300) if query.sequence[site] != sequence[site]]
        assert set(changed) <= set(query.read) - set(query.masked)
        kinds += [len(query.masked), len(changed), len(query.read) - len(query.masked) - len(changed)]
    np.testing.assert_allclose(kinds / kinds.sum(), [0.8, 0.095, 0.105], atol=0.03)
    assert found.targets.sum() / 12_000 == pytest.approx(0.15, abs=0.01)
    turned = held_out_losses(model, sequences[::-1], "mlm15")
    np.testing.assert_array_equal(turned.sums[::-1], found.sums)
    flat = held_out_losses(UniformModel(), sequences, "mlm15")
    np.testing.assert_allclose(flat.sums, flat.targets * np.log(20), rtol=1e-12)


def test_long_sequences_come_in_consecutive_pieces_with_the_same_targets() -> None:
    sequences = ["".join(RNG.choice([*LETTERS, "X"], n)) for n in (100, 3, 47)]
    whole, pieces = Watched(), Watched(context=22)
    a, b = (held_out_losses(model, sequences, "mlm15") for model in (whole, pieces))
    np.testing.assert_array_equal(a.targets, b.targets)
    assert a.key != b.key
    assert max(len(query.sequence) for query in pieces.queries) == 20
    for query in [*whole.queries, *pieces.queries]:
        assert all(query.sequence[site] != "X" or site not in query.read for site in query.masked)
    (row,) = perplexity_by_identity(a).bins
    assert row.sequences == int((a.targets > 0).sum())


def test_bins_hold_their_lower_edge_and_draw_clusters() -> None:
    identity = [0.0, 0.29, 0.3, 0.49, 0.5, 0.9, 0.95, 1.0]
    sums, targets = RNG.uniform(50, 90, 8), np.array([20, 30, 25, 40, 20, 10, 0, 30])
    sums[6] = 0.0
    losses = HeldOutLosses(UniformModel().info, "clm", sums, targets)
    clusters = [0, 1, 2, 2, 3, 4, 5, 6]
    table = perplexity_by_identity(losses, identity, clusters=clusters)
    assert [(row.name, row.sequences, row.clusters) for row in table.bins] == [
        *[("all", 7, 6), ("< .3", 2, 2), (".3-.5", 2, 1), (".5-.9", 1, 1), ("> .9", 2, 2)]
    ]
    assert table.of(".3-.5").perplexity is None  # one cluster is no interval, and so no claim
    nats = table.of("< .3").nats
    assert nats is not None
    assert nats.value == pytest.approx(sums[:2].sum() / 50)
    wanted = bootstrap_mean(
        sums[targets > 0] / targets[targets > 0], weights=targets[targets > 0], clusters=[0, 1, 2, 2, 3, 4, 6]
    )
    assert table.of("all").nats == wanted
    assert table.of("all").low == pytest.approx(np.exp(wanted.low))
    assert type(table).model_validate_json(table.model_dump_json()) == table
    for bad in ([0.1] * 7, [0.1] * 7 + [1.2]):
        with pytest.raises(ConfigError, match="8 sequences"):
            perplexity_by_identity(losses, bad)


def test_refusals() -> None:
    class Broken(UniformModel):
        def residue_logprobs(self, sequences, *, direction="forward", letters="20"):
            return [np.full(len(s), np.nan if "W" in s else -1.0) for s in sequences]

    with pytest.raises(PlmScalingError, match="1 of 2 sequences") as error:
        held_out_losses(Broken(), ["MK", "MW"], "clm")
    assert "sequence 2" in str(error.value)
    with pytest.raises(ConfigError, match="mlm51") as typo:
        held_out_losses(UniformModel(), ["MK"], "mlm51")
    assert "mlm1" in typo.value.hint
    with pytest.raises(ConfigError, match="no sequence"):
        held_out_losses(UniformModel(), [])
    causal = UniformModel()
    causal._info = causal._info.model_copy(update={"abilities": ("causal",)})
    assert held_out_losses(causal, ["MK"]).key.startswith("clm/forward")
    with pytest.raises(RefusedError):
        held_out_losses(causal, ["MK"], "mlm15")


@pytest.mark.slow
def test_identity_is_to_what_the_run_has_really_seen(tmp_path: Path) -> None:
    try:
        find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")
    proteins = ["".join(RNG.choice(LETTERS, 120)) for _ in range(40)]
    (tmp_path / "a.fasta").write_text("".join(f">p{k}\n{one}\n" for k, one in enumerate(proteins)))
    api.prep({"a": [tmp_path / "a.fasta"]}, tmp_path / "corpus", PrepSpec(val_share=0.1))
    corpus = Corpus.open(tmp_path / "corpus")
    config = RunConfig(
        corpus_id=corpus.corpus_id, objective="clm", n_layers=1, d_model=16, context=128, D=3000, batch_tokens=256,
        peak_lr=1e-3, recipe="small",
    )  # fmt: skip
    seen = trained_rows(corpus, [(config, 3)])
    names = corpus.accessions(np.arange(len(corpus.length)))
    of_name = {name: proteins[int(name[1:])] for name in names}
    rest = np.setdiff1d(corpus.rows("train"), seen)
    known, unseen = of_name[names[seen[0]]], of_name[names[rest[0]]]
    near = known[:100] + "".join(RNG.choice(LETTERS, 20))
    found = nearest_training(corpus, [(config, 3)], [known, unseen, near], threads=1)
    assert found.identity[0] == 1.0
    assert found.identity[1] < 0.5  # in the training split, and in no batch of this run
    assert 0.8 < found.identity[2] <= 1.0


def test_losses_a_run_has_left_are_read_and_keep_their_own_key(tmp_path, monkeypatch) -> None:
    import plm_scaling.evals.perplexity as module

    columns = {"row": [7, 2], "loss_sum": [30.0, 12.0], "n_targets": [10, 5]}
    columns |= {"residue_loss_sum": [27.0, 10.0], "n_residue_targets": [9, 4]}
    (tmp_path / "r").mkdir()
    pq.write_table(pa.table({"set": ["val_iid"] * 2, **columns}), tmp_path / "r" / "val.parquet")
    scored = SimpleNamespace(set_name="val_iid", validation_id="abc")
    record = SimpleNamespace(validation=[scored], config=SimpleNamespace(objective="mlm"))
    monkeypatch.setattr(module, "RunFolder", lambda path: SimpleNamespace(record=lambda: record))
    losses, rows = losses_of_run(tmp_path / "r", UniformModel().info)
    assert rows.tolist() == [2, 7]
    assert (losses.sums.tolist(), losses.targets.tolist()) == ([12.0, 30.0], [5, 10])
    assert losses.key == "mlm15/as in training, validation abc/letters raw"


def test_training_rows_of_a_run_are_its_batches(tmp_path, monkeypatch) -> None:
    import plm_scaling.evals.perplexity as module

    corpus = SimpleNamespace(corpus_id="here", rows=lambda split: np.arange(9))
    order = SimpleNamespace(config=SimpleNamespace(corpus_id="here"))
    monkeypatch.setattr(module, "RunFolder", lambda path: SimpleNamespace(order=lambda: order))
    monkeypatch.setattr(module, "phases_of_run", lambda corpus, run: [(order.config, 1)])
    monkeypatch.setattr(module, "trained_rows", lambda corpus, phases: np.array([3, 5]))
    model = UniformModel()
    rows, known = training_rows(corpus, model)
    assert (len(rows), known) == (9, False)
    model.run = tmp_path
    rows, known = training_rows(corpus, model)
    assert (rows.tolist(), known) == ([3, 5], True)
    order.config.corpus_id = "elsewhere"
    assert training_rows(corpus, model)[1] is False
