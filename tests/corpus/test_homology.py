"""MMseqs2 behind corpus/homology.py: against planted truth, with a stand-in program, and when we are killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import EOS, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.hits import identity_bins, no_hits, sorted_hits
from plm_scaling.corpus.homology import (
    Alike,
    Mmseqs,
    MmseqsWork,
    cluster_sequences,
    find_mmseqs,
    mmseqs_work,
    write_numbered,
)

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@pytest.fixture(scope="module")
def mmseqs() -> Mmseqs:
    try:
        return find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")


def batch(sequences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = [np.append(encode(sequence), np.uint8(EOS)) for sequence in sequences]
    return np.arange(len(sequences)), np.concatenate(tokens), np.array([len(one) for one in tokens])


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    """Exactly this share of the residues changed, to another letter each."""
    out = list(sequence)
    for i in rng.choice(len(out), round(share * len(out)), replace=False):
        out[i] = rng.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


def random_protein(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, length))


# ---- without the program -------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**18), st.text("LAGVSERTIDPKQNFYMHWCXBUZO", min_size=1, max_size=40)),
        min_size=1,
        max_size=8,
    )
)
def test_numbered_fasta_reads_back(tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, str]]) -> None:
    path = tmp_path_factory.mktemp("numbered") / "a.fasta"
    _, tokens, sizes = batch([sequence for _, sequence in records])
    numbers = np.array([number for number, _ in records])
    cut, token_cut = len(records) // 2, int(sizes[: len(records) // 2].sum())
    parts = [
        (numbers[:cut], tokens[:token_cut], sizes[:cut]),
        (numbers[cut:], tokens[token_cut:], sizes[cut:]),
    ]
    assert write_numbered(path, parts) == len(records)
    read = [(int(name), sequence) for name, sequence in SimpleFastaParser(io.StringIO(path.read_text()))]
    assert read == records


def test_no_program_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError) as caught:
        find_mmseqs()
    assert "MMseqs2 is not installed" in str(caught.value)
    assert "mmseqs2" in caught.value.hint


def stand_in(folder: Path, script: str) -> Mmseqs:
    path = folder / "mmseqs"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Mmseqs(path, "test")


def test_a_program_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(tmp_path, "exit 4")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match="does not start"):
        find_mmseqs()


def test_failure_shows_the_last_lines_and_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = stand_in(tmp_path, 'echo "Some progress"; echo "Cannot write: disk is full" >&2; exit 3')
    places = tmp_path / "places"
    places.mkdir()
    with mmseqs_work(program, threads=1, parent=places) as work:
        fasta = work.folder / "a.fasta"
        write_numbered(fasta, [batch(["MKLV"])])
        with pytest.raises(CorpusError) as caught:
            work.database(fasta)
    assert "createdb failed with exit code 3" in caught.value.what
    assert caught.value.why == "its last lines: Some progress | Cannot write: disk is full"
    assert not any(places.iterdir())
    assert capfd.readouterr() == ("", "")


def test_no_kmer_at_all_means_no_clusters_and_no_hits(tmp_path: Path) -> None:
    program = stand_in(
        tmp_path,
        'case "$1" in createdb) ;; *) echo "No k-mer could be extracted for the database x."; exit 1;; esac',
    )
    with mmseqs_work(program, threads=1) as work:
        fasta = work.folder / "a.fasta"
        write_numbered(fasta, [batch(["MK"])])
        database = work.database(fasta)
        assert list(work.cluster(database, Alike(0.5))) == []
        assert len(work.search(database, database, Alike(0.5))) == 0


@pytest.mark.parametrize("values", [(1.5, 0.8, 1.0), (0.5, -0.1, 1.0), (0.5, 0.8, 0.0)])
def test_nonsense_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(CorpusError):
        Alike(*values)


def test_best_hits() -> None:
    hits = sorted_hits(
        [
            np.array(column)
            for column in ([2, 1, 2, 1], [7, 8, 6, 9], [0.4, 0.9, 0.6, 0.9], [1.0] * 4, [1.0] * 4, [0] * 4)
        ]
    )
    assert hits.best().query.tolist() == [1, 2]
    assert hits.best().target.tolist() == [8, 6]  # of equally near ones the first
    assert (hits + no_hits()).target.tolist() == [8, 9, 6, 7]
    assert len(no_hits().best()) == 0


def test_bins_hold_their_lower_edge() -> None:
    assert identity_bins(np.array([0, 0.299, 0.3, 0.5, 0.899, 0.9, 1.0], dtype=np.float32)) == (2, 1, 2, 2)


_CHILD = """
import signal
import sys
from pathlib import Path
from plm_scaling.corpus.child import run_child
folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
# A program that starts another one, as MMseqs2 does.
run_child(["/bin/sh", "-c", f"sleep 1000 & echo $! > {folder}/pid; wait"], folder / "log", cwd=folder)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_program_ends_with_us(tmp_path: Path, how: signal.Signals) -> None:
    ours = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stderr=subprocess.DEVNULL)
    pid = int(_awaited(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip()))
    assert _alive(pid)
    ours.send_signal(how)
    assert ours.wait(timeout=120) != 0
    _awaited(lambda: "gone" if not _alive(pid) else "")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _awaited(ask: object, deadline_s: float = 120.0) -> str:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if answer := ask():  # type: ignore[operator]
            return str(answer)
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def test_exit_codes_come_back(tmp_path: Path) -> None:
    from plm_scaling.corpus.child import run_child

    log = tmp_path / "log"
    assert run_child(["/bin/sh", "-c", "echo hello; exit 5"], log, cwd=tmp_path) == 5
    assert log.read_text() == "hello\n"
    assert run_child(["/bin/sh", "-c", "kill -9 $$"], log, cwd=tmp_path) == 128 + signal.SIGKILL
    assert run_child(["/bin/sh", "-c", "cat"], log, cwd=tmp_path) == 0
    assert run_child([str(tmp_path / "absent")], log, cwd=tmp_path) == 127


# ---- with the program ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def families() -> list[str]:
    """12 families of four: an ancestor, 6 %, 30 % and 44 % of its residues changed; then what cannot be searched."""
    rng = np.random.default_rng(1)
    out: list[str] = []
    for _ in range(12):
        ancestor = random_protein(180, rng)
        out += [ancestor, *(mutated(ancestor, share, rng) for share in (0.06, 0.30, 0.44))]
    return [*out, "MK", "X" * 60, "ACGT" * 3]


@pytest.fixture(scope="module")
def work(mmseqs: Mmseqs, tmp_path_factory: pytest.TempPathFactory) -> object:
    # A space in a path has broken more than one shell script.
    with mmseqs_work(mmseqs, parent=tmp_path_factory.mktemp("with space")) as place:
        yield place


@pytest.fixture(scope="module")
def database(work: MmseqsWork, families: list[str]) -> Path:
    fasta = work.folder / "families.fasta"
    write_numbered(fasta, [batch(families)])
    return work.database(fasta)


def as_sets(pairs: object) -> set[frozenset[int]]:
    groups: dict[int, set[int]] = {}
    for heads, members in pairs:  # type: ignore[attr-defined]
        for head, member in zip(heads.tolist(), members.tolist(), strict=True):
            groups.setdefault(head, {head}).add(member)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def test_linclust_finds_near_copies(work: MmseqsWork, database: Path) -> None:
    found = as_sets(work.linclust(database, Alike(0.9)))
    assert found == {frozenset((4 * i, 4 * i + 1)) for i in range(12)}


def test_cluster_finds_families(work: MmseqsWork, database: Path) -> None:
    found = as_sets(work.cluster(database, Alike(0.5)))
    family_of = [{i // 4 for i in group} for group in found]
    assert all(len(families) == 1 for families in family_of)
    # A pair at 56 % always meets; that all four have one centre is not promised.
    assert sum(len(group) for group in found) >= 44


@pytest.mark.slow
def test_a_few_sequences_are_clustered_in_memory(mmseqs: Mmseqs, families: list[str]) -> None:
    few = [families[0], families[4], families[1], "MK", families[5]]
    found = cluster_sequences(few).tolist()
    assert found[0] == found[2]
    assert found[1] == found[4]
    assert len({found[0], found[1], found[3]}) == 3
    assert found[3] == 3
    assert cluster_sequences([]).tolist() == []


def test_search_measures_identity(work: MmseqsWork, database: Path, families: list[str]) -> None:
    hits = work.search(database, database, Alike(0.0))
    pairs = set(zip(hits.query.tolist(), hits.target.tolist(), strict=True))
    assert len(pairs) == len(hits)
    assert all(query // 4 == target // 4 for query, target in pairs)
    assert {(4 * i, 4 * i + k) for i in range(12) for k in range(4)} <= pairs
    for query, target, identity, coverage in zip(
        hits.query, hits.target, hits.identity, np.minimum(hits.query_coverage, hits.target_coverage), strict=True
    ):
        a, b = families[query], families[target]
        truth = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
        assert coverage >= 0.8
        # An alignment may leave out ends that do not match, and open gaps.
        assert truth - 0.02 <= identity <= truth + 0.1
    assert (np.diff(hits.query) >= 0).all()


@pytest.mark.slow  # test_overlap asks the same of whole sequences
def test_search_minds_identity_coverage_and_length(work: MmseqsWork, database: Path, families: list[str]) -> None:
    rng = np.random.default_rng(2)
    queries = [families[0] + random_protein(100, rng), families[2], "MKV", random_protein(150, rng), "X" * 50]
    fasta = work.folder / "queries.fasta"
    write_numbered(fasta, [batch(queries)])
    hits = work.search(work.database(fasta), database, Alike(0.68))
    # The first covers 64 % of its length only; of the second's family only itself and its ancestor are near enough.
    assert set(zip(hits.query.tolist(), hits.target.tolist(), strict=True)) == {(1, 2), (1, 0)}


@pytest.mark.slow
def test_clusters_do_not_depend_on_threads(mmseqs: Mmseqs) -> None:
    rng = np.random.default_rng(3)
    sequences = []
    for _ in range(150):
        ancestor = random_protein(int(rng.integers(40, 400)), rng)
        sequences += [mutated(ancestor, share, rng) for share in rng.uniform(0.0, 0.5, 8)]
    tables = []
    for threads in (1, 3):
        with mmseqs_work(mmseqs, threads=threads) as place:
            fasta = place.folder / "a.fasta"
            write_numbered(fasta, [batch(sequences)])
            database = place.database(fasta)
            # The order of the pairs may differ, what belongs to what may not.
            tables.append(
                [
                    {tuple(pair) for part in found for pair in np.stack(part).T.tolist()}
                    for found in (place.linclust(database, Alike(0.9)), place.cluster(database, Alike(0.5)))
                ]
            )
    assert [len(table) for table in tables[0]] == [1200, 1200]
    assert tables[1] == tables[0]


@pytest.mark.slow
def test_one_sequence_alone(mmseqs: Mmseqs) -> None:
    rng = np.random.default_rng(4)
    with mmseqs_work(mmseqs, threads=1) as place:
        fasta = place.folder / "one.fasta"
        write_numbered(fasta, [batch([random_protein(80, rng)])])
        assert as_sets(place.cluster(place.database(fasta), Alike(0.5))) == set()
    assert not os.path.exists(place.folder)
