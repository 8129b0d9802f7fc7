"""Contacts of real structures, precisions by brute force, and models whose precision is known."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import CLS, EOS, encode
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, CorpusError, RefusedError
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.adapters.planted_contacts import PlantedContacts
from plm_scaling.evals.contact_head import (
    _fitted,
    attention_features,
    fit_contact_head,
    published_contact_head,
)
from plm_scaling.evals.contact_tasks import TASKS
from plm_scaling.evals.contacts import (
    contact_precision,
    evaluate_contacts,
    random_contacts,
    separation_floor,
)
from plm_scaling.evals.pairs import paired_rows
from plm_scaling.evals.results import read_rows
from plm_scaling.evals.run_tasks import run_tasks
from plm_scaling.evals.structures import Structure, read_structure
from plm_scaling.evals.task import Asked
from plm_scaling.models.contacts import contact_probabilities
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2

STRUCTURES = Path("evals") / "structures"
CUTS = {"L": 1, "L/2": 2, "L/5": 5}
RANGES = {"short": (6, 11), "medium": (12, 23), "long": (24, math.inf)}


@pytest.fixture(scope="module")
def chains(test_data: Path) -> list[Structure]:
    """Six globins of one family, and two folds unlike them."""
    folder = test_data / STRUCTURES
    globins = [read_structure(path, family="globin") for path in sorted(folder.glob("d*.pdb"))]
    return [*globins, read_structure(folder / "2N2U.pdb"), read_structure(folder / "1tim.pdb.gz", chain="B")]


def test_contacts_are_those_of_the_files(chains: list[Structure], test_data: Path) -> None:
    """An independent reading of the columns of the files gives the same letters, atoms and contacts."""
    three = "ALAARGASNASPCYSGLNGLUGLYHISILELEULYSMETPHEPROSERTHRTRPTYRVAL"
    one = {three[3 * k : 3 * k + 3]: letter for k, letter in enumerate("ARNDCQEGHILKMFPSTWYV")}
    for structure in chains:
        stem, chain = structure.name.rsplit("_", 1) if structure.name[-2] == "_" else (structure.name, "A")
        path = next((test_data / STRUCTURES).glob(f"{stem}*.pdb*"))
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        atoms: dict[str, dict[str, tuple[float, ...]]] = {}
        letters: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("ATOM") and line[21] in (chain, " ") and line[16] in " A":
                atoms.setdefault(line[22:27], {})[line[12:16].strip()] = tuple(
                    float(line[k : k + 8]) for k in (30, 38, 46)
                )
                letters[line[22:27]] = one.get(line[17:20], "X")
        seen = structure.seen
        assert "".join(letters.values()) == "".join(
            letter for letter, there in zip(structure.sequence, seen, strict=True) if there
        )
        point = [found["CB"] if "CB" in found and letters[k] != "G" else found["CA"] for k, found in atoms.items()]
        expected = np.array([[math.dist(a, b) < 8.0 for b in point] for a in point])
        assert np.array_equal(structure.contacts()[np.ix_(seen, seen)], expected)
        assert not structure.contacts()[~seen].any()


def brute_force(scores: np.ndarray, structure: Structure) -> dict[str, float]:
    """Best pairs one by one, in a plain loop."""
    contacts, seen, found = structure.contacts(), structure.seen, {}
    for name, (least, most) in RANGES.items():
        pairs = [
            (-scores[i, j], i, j)
            for i in range(len(structure))
            for j in range(i + 1, len(structure))
            if least <= j - i <= most and seen[i] and seen[j]
        ]
        for cut, part in CUTS.items():
            best = sorted(pairs)[: int(seen.sum()) // part]
            found[f"{name} P@{cut}"] = sum(contacts[i, j] for _, i, j in best) / len(best)
    return found


def test_precision_is_a_count_of_the_best_pairs(chains: list[Structure]) -> None:
    rng = np.random.default_rng(0)
    for structure in chains[-2:]:
        scores = rng.random((len(structure),) * 2) + 0.5 * structure.contacts()
        ours = contact_precision(scores, structure)
        assert ours.precision == pytest.approx(brute_force(scores, structure))
        constant = contact_precision(np.zeros_like(scores), structure).precision
        assert constant["long P@L"] == pytest.approx(constant["long P@L/5"])  # no pair is surer than another


def planted(chains: list[Structure], noise: float) -> PlantedContacts:
    return PlantedContacts({one.sequence: one.contacts() for one in chains}, noise=noise)


def test_planted_contacts_are_found_on_chains_never_fitted_to(chains: list[Structure]) -> None:
    """Fitted to one fold, tested on another: all contacts come first, so precision is bounded by their number alone."""
    globins, others = chains[:6], chains[6:]
    model = planted(chains, noise=0.0)
    head = fit_contact_head(model, others[:1])
    assert np.argmax(np.abs(head.weight_H)) == 3
    report = evaluate_contacts("planted", lambda one: head.predict(model, one), [*globins, others[1]], draws=50)
    for chain in report.chains:
        for name, there in chain.contacts.items():
            for cut, part in CUTS.items():
                taken = chain.residues // part
                assert chain.precision[f"{name} P@{cut}"] == pytest.approx(min(1.0, there / taken)), (chain.chain, name)
    assert report.precision["long P@L/5"].units == 2
    assert report.precision["long P@L/5"].flags == ("few_clusters",)


def test_noise_costs_what_it_should_and_floors_lie_below(chains: list[Structure]) -> None:
    globins, others = chains[:6], chains[6:]
    long = {}
    for noise in (0.0, 0.4, 1.2):
        model = planted(chains, noise)
        head = fit_contact_head(model, others)
        noisy = evaluate_contacts("noisy", lambda one, m=model, h=head: h.predict(m, one), globins)  # type: ignore[misc]
        long[noise] = np.mean([chain.precision["long P@L"] for chain in noisy.chains])
        feature = attention_features(model, globins[0].sequence)[3]
        by_hand = brute_force(feature, globins[0])["long P@L"]
        assert abs(noisy.chains[0].precision["long P@L"] - by_hand) < 0.05
    base = np.mean(
        [chain.contacts["long"] / len(chain_pairs(one)) for chain, one in zip(noisy.chains, globins, strict=True)]
    )
    by_chance = evaluate_contacts("random", random_contacts(), globins)
    chance = np.mean([chain.precision["long P@L"] for chain in by_chance.chains])
    floor = evaluate_contacts("separation", separation_floor(others), globins)
    apart = np.mean([chain.precision["long P@L"] for chain in floor.chains])
    assert long[0.0] > long[0.4] > long[1.2] > chance
    assert chance == pytest.approx(base, abs=0.03)
    assert apart < 0.3 < long[0.4]
    short = np.mean([chain.precision["medium P@L/5"] for chain in floor.chains])
    assert short < 0.5
    assert by_chance.precision == {}  # one family: no interval between families


def chain_pairs(structure: Structure) -> list[tuple[int, int]]:
    rows = np.flatnonzero(structure.seen)
    return [(i, j) for i in rows for j in rows if j - i >= 24]


def test_the_penalised_fit_is_optimal() -> None:
    """Conditions of a minimum with an L1 penalty: slopes are -+1 where a weight is not 0, and within where it is."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 6)) * np.array([1, 5, 0.01, 1, 1, 0])
    y = x[:, 0] - 0.3 * x[:, 1] + rng.normal(size=400) > 0
    weight, bias = _fitted(x, y, 0.15)
    scale = x.std(axis=0)
    assert weight[5] == 0.0
    signs = np.where(y, 1.0, -1.0)
    push = -0.15 * signs / (1 + np.exp(signs * (x @ weight + bias)))
    slope = (push @ x)[:5] / scale[:5]
    moved = np.abs(weight[:5] * scale[:5]) > 1e-4
    assert moved[:2].all()
    assert slope[moved] == pytest.approx(-np.sign(weight[:5][moved]), abs=0.02)
    assert np.abs(slope).max() < 1.02
    assert abs(push.sum()) < 0.02


def test_the_regression_that_came_with_esm2() -> None:
    """As a head it gives the log odds of `contact_probabilities`; a model without one has none."""
    adapter = random_weights(ModelShape(architecture="esm2", n_layers=2, d_model=32, n_heads=4), device="cpu")
    assert published_contact_head(adapter) is None
    model = adapter.model
    assert isinstance(model, Esm2)
    weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    model.set_contact_regression(50 * weight, torch.tensor([-1.0]))  # random maps are nearly flat
    sequence = "MKTAYIAKQRQISFVKSHFSRQLEERLG"
    structure = Structure("made up", sequence, np.zeros((len(sequence), 3)))
    head = published_contact_head(adapter)
    assert head is not None
    document = torch.tensor([CLS, *encode(sequence), EOS])
    [expected] = contact_probabilities(model, Documents.of([document]))
    ours = 1.0 / (1.0 + np.exp(-head.predict(adapter, structure)))
    assert np.abs(ours - expected.numpy()).max() < 1e-4
    assert np.ptp(ours) > 0.05


def test_what_cannot_be_is_named(chains: list[Structure], tmp_path: Path) -> None:
    model = planted(chains, 0.0)
    head = fit_contact_head(model, chains[6:7])
    with pytest.raises(ConfigError, match="was fitted to"):
        head.predict(model, chains[6])
    with pytest.raises(RefusedError, match="in contact"):
        fit_contact_head(model, [])
    with pytest.raises(RefusedError, match="attend"):
        attention_features(_without_maps(), "MKT")
    with pytest.raises(RefusedError, match="no finite number"):
        contact_precision(np.full((len(chains[6]),) * 2, np.nan), chains[6])
    with pytest.raises(ConfigError, match="for 67 residues"):
        contact_precision(np.zeros((3, 3)), chains[6])
    (tmp_path / "empty.pdb").write_text("REMARK nothing\nEND\n")
    with pytest.raises(CorpusError):
        read_structure(tmp_path / "empty.pdb")
    with pytest.raises(CorpusError, match="by its name"):
        read_structure(tmp_path / "model.txt")


def _without_maps() -> PlantedContacts:
    class Blind(PlantedContacts):
        @property
        def info(self) -> ModelInfo:
            return super().info.model_copy(update={"abilities": ("masked",)})

    return Blind({})


def test_skipped_numbers_count_in_separations(tmp_path: Path) -> None:
    """Residues 3 and 4 were not seen: they are X, without coordinates, in PDB and in mmCIF alike."""
    numbers, names = (1, 2, 5, 6), ("MSE", "GLY", "ALA", "CA")
    pdb, rows = [], []
    for serial, (number, name) in enumerate(zip(numbers, names, strict=True), 1):
        kind = "HETATM" if name in ("MSE", "CA") else "ATOM  "
        place = f"{float(number):8.3f}{0.0:8.3f}{0.0:8.3f}"
        pdb.append(f"{kind}{serial:5d}  CA  {name:>3} A{number:4d}    {place}  1.00  0.00           C")
        rows.append(
            f"{kind.strip()} {serial} C CA . {name} A 1 {number} ? {number}.0 0.0 0.0 1.0 0.0 {number} {name} A CA 1"
        )
    (tmp_path / "a.pdb").write_text("\n".join([*pdb, "END", ""]))
    fields = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id"
    )
    fields += (
        " pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_comp_id auth_asym_id"
    )
    fields += " auth_atom_id pdbx_PDB_model_num"
    header = "\n".join(["data_a", "loop_", *(f"_atom_site.{field}" for field in fields.split())])
    (tmp_path / "a.cif").write_text("\n".join([header, *rows, "#", ""]))
    for name in ("a.pdb", "a.cif"):
        structure = read_structure(tmp_path / name)
        assert structure.sequence == "MGXXA"
        assert structure.seen.tolist() == [True, True, False, False, True]
        assert structure.contacts().sum() == 9
    with pytest.raises(CorpusError, match="no chain 'B'"):
        read_structure(tmp_path / "a.pdb", chain="B")


def test_the_task_tests_every_family_by_a_head_of_the_others(tmp_path: Path) -> None:
    """Files of one name in two folders are two chains, and a chain too short for a range has no part in it."""
    rng, known = np.random.default_rng(0), {}
    for family, lengths in (("a", (60, 40)), ("b", (50,)), ("c", (20, 45))):
        (tmp_path / "data" / family).mkdir(parents=True)
        for k, length in enumerate(lengths):
            path = tmp_path / "data" / family / f"chain{k}.pdb"
            places = rng.uniform(0.0, 18.0, (length, 3))
            names = rng.choice(["ALA", "LEU", "LYS", "GLU"], length)
            atoms = [
                f"ATOM  {i:5d}  CA  {name} A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
                for i, (name, (x, y, z)) in enumerate(zip(names, places, strict=True), 1)
            ]
            path.write_text("\n".join([*atoms, "END", ""]))
            one = read_structure(path)
            known[one.sequence] = one.contacts()

    class Named(PlantedContacts):
        @property
        def info(self) -> ModelInfo:
            return super().info.model_copy(update={"name": f"noise {self._noise}"})

    out = tmp_path / "rows.jsonl"
    steps = run_tasks(
        [lambda noise=noise: Named(known, noise=noise) for noise in (0.1, 30.0)],
        TASKS,
        Asked(data=tmp_path / "data", resamples=50),
        out,
    )
    assert [step.outcome for step in steps] == ["done", "done"], steps
    rows = {(row.model.name, row.metric): row for row in read_rows(out)}
    assert rows["noise 0.1", "long P@L/5"].value == 1.0 > rows["noise 30.0", "long P@L/5"].value + 0.3
    assert {key: row.n for (model, key), row in rows.items() if model == "noise 0.1" and key.endswith("P@L")} == {
        "short P@L": 5,
        "medium P@L": 5,
        "long P@L": 4,
    }
    compared = {row.metric: row for row in paired_rows(out, "noise 0.1")}
    assert compared["long P@L/5"].difference.value < -0.3
    assert compared["long P@L/5"].difference.units == 3
