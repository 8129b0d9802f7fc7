"""Clusters and homologues of protein sequences by MMseqs2, an external program found on PATH.

Sequences go in as FASTA files whose names are numbers (`write_numbered`), and numbers come back: no accession is read
the way another program thinks it should be. All files of a call live in a temporary folder that is removed.

What MMseqs2 cannot do, measured with release 14:

* Shorter than `SHORTEST` residues: no k-mer, hence neither clusters nor hits; such a sequence stays alone.
* Longer than `LONGEST_JUDGED`: alignment scores are 16-bit, so that an alignment of near copies ends after about 6,000
  residues and covers too little of both to count. Clusters and hits of longer sequences are missed.
* Clusters depend on the order of the sequences; on the number of threads they do not.

**Source:** Steinegger & Soding 2017 (MMseqs2), 2018 (linclust).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import EOS, SYMBOLS, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.processor import cpu_count
from plm_scaling.corpus.child import run_child
from plm_scaling.corpus.hits import Hits, no_hits, sorted_hits

__all__ = [
    "CLUSTER_ARGS",
    "LONGEST_JUDGED",
    "SECOND_SEARCH_ARGS",
    "SHORTEST",
    "Alike",
    "Mmseqs",
    "MmseqsWork",
    "cluster_sequences",
    "find_mmseqs",
    "mmseqs_work",
    "write_numbered",
]

Int = npt.NDArray[np.int64]
Batch = tuple[Int, npt.NDArray[np.uint8], Int]

SHORTEST: Final = 14
LONGEST_JUDGED: Final = 5_000

CLUSTER_ARGS: Final = ("-s", "1", "--cluster-steps", "1", "--exact-kmer-matching", "1", "--max-rejected", "3")
"""One step of cascaded clustering with exact k-mers of all positions, giving up on a sequence after three candidates
that are not alike. On 89,095 real sequences a quarter of the default's CPU time, and 0.5 % more clusters at 50 %
identity: similar k-mers pay below 50 % identity only."""
SECOND_SEARCH_ARGS: Final = ("--spaced-kmer-mode", "0")
"""Contiguous instead of spaced k-mers: a search that fails on other pairs than the default does."""

_NO_KMER: Final = "No k-mer could be extracted"
_COLUMNS: Final = {
    **dict.fromkeys(("query", "target"), "int64"),
    **dict.fromkeys(("fident", "evalue"), "float64"),
    **dict.fromkeys(("qstart", "qend", "qlen", "tstart", "tend", "tlen"), "int64"),
}
"""Coverages are computed from ends and lengths as MMseqs2 does: its own columns round to three digits."""
_DIGITS: Final = 20
_SMALL_BYTES: Final = 1 << 22
"""Up to so many bytes of FASTA, k-mers of 5 find more and their table is filled in no time; beyond, MMseqs2 decides."""
_LETTERS: Final = np.frombuffer(
    "".join("\n" if i == EOS else s if len(s) == 1 else "X" for i, s in enumerate(SYMBOLS)).encode(), dtype=np.uint8
)


@dataclass(frozen=True)
class Mmseqs:
    """The program: where it is and what it says it is."""

    path: Path
    version: str

    def __str__(self) -> str:
        return f"MMseqs2 {self.version}"


@dataclass(frozen=True)
class Alike:
    """When two sequences count as alike.

    Parameters
    ----------
    identity : least share of identical residues among the columns of the alignment, in [0, 1].
    coverage : least share of both sequences that the alignment covers, in [0, 1].
    evalue : most alignments as good as this one expected by chance in the whole search.
    """

    identity: float
    coverage: float = 0.8
    evalue: float = 1e-3

    def __post_init__(self) -> None:
        if not (0.0 <= self.identity <= 1.0 and 0.0 <= self.coverage <= 1.0 and self.evalue > 0.0):
            raise CorpusError(f"{self} asks for no share of residues", why="identity and coverage are in [0, 1]")

    def args(self) -> tuple[str, ...]:
        """The same in MMseqs2's words."""
        numbers = ("--min-seq-id", f"{self.identity:g}", "-c", f"{self.coverage:g}", "-e", f"{self.evalue:g}")
        return (*numbers, "--cov-mode", "0")


def find_mmseqs() -> Mmseqs:
    """MMseqs2 as it is installed here.

    Raises
    ------
    CorpusError : it is not, or it does not start.
    """
    found = shutil.which("mmseqs")
    hint = "install it (apt install mmseqs2, conda install -c bioconda mmseqs2), or go without clusters"
    if found is None:
        raise CorpusError("MMseqs2 is not installed here", why="there is no program `mmseqs` on PATH", hint=hint)
    try:
        answer = subprocess.run([found, "version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise CorpusError("MMseqs2 does not start", where=found, why=str(error), hint=hint) from None
    return Mmseqs(Path(found), answer.stdout.strip())


# ---- sequences in --------------------------------------------------------------------------------------------------


def write_numbered(path: Path, batches: Iterable[Batch]) -> int:
    """Write sequences as FASTA named by numbers; returns how many there are.

    Parameters
    ----------
    batches : (numbers int64[k], tokens uint8[sum(sizes)], sizes int64[k]); each sequence's tokens end with `<eos>`,
        which counts in its size.
    """
    count = 0
    with path.open("wb") as handle:
        for numbers, tokens, sizes in batches:
            if len(numbers):
                handle.write(_fasta(numbers, tokens, sizes).data)
                count += len(numbers)
    return count


def _fasta(numbers: Int, tokens: npt.NDArray[np.uint8], sizes: Int) -> npt.NDArray[np.uint8]:
    """FASTA text of a batch, each header one line of fixed width."""
    n, width = len(numbers), _DIGITS + 2
    headers = np.empty((n, width), dtype=np.uint8)
    headers[:, 0], headers[:, -1] = ord(">"), ord("\n")
    rest = numbers.astype(np.int64)
    for column in range(_DIGITS, 0, -1):
        rest, digit = np.divmod(rest, 10)
        headers[:, column] = digit + ord("0")
    starts = np.cumsum(sizes) - sizes + np.arange(n) * width
    text = np.empty(int(np.sum(sizes)) + n * width, dtype=np.uint8)
    at = (starts[:, None] + np.arange(width)).ravel()
    is_letter = np.ones(len(text), dtype=bool)
    is_letter[at] = False
    text[at] = headers.ravel()
    text[is_letter] = _LETTERS[tokens]
    return text


# ---- the program at work -------------------------------------------------------------------------------------------


@contextmanager
def mmseqs_work(
    program: Mmseqs | None = None, *, threads: int | None = None, parent: Path | None = None
) -> Iterator[MmseqsWork]:
    """A temporary folder for MMseqs2 to work in, removed in the end whatever happens.

    Parameters
    ----------
    program : the program; looked for on PATH by default.
    threads : cores it may use; all that this process may by default.
    parent : where the folder is made, with room for several times the sequences; the system's by default.

    Raises
    ------
    CorpusError : MMseqs2 is not installed.
    """
    program = program or find_mmseqs()
    with tempfile.TemporaryDirectory(prefix="mmseqs-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield MmseqsWork(program, Path(folder).absolute(), threads or cpu_count())


class MmseqsWork:
    """Calls of MMseqs2 in one temporary folder.

    Attributes
    ----------
    program : the program.
    folder : the temporary folder.
    threads : cores it may use.
    """

    def __init__(self, program: Mmseqs, folder: Path, threads: int) -> None:
        self.program, self.folder, self.threads = program, folder, threads
        self._made = 0
        self._small: set[Path] = set()

    def database(self, fasta: Path) -> Path:
        """A database of the sequences of a FASTA file by `write_numbered`, which must stay where it is.

        Raises
        ------
        CorpusError : MMseqs2 failed.
        """
        database = self._new("db")
        # The kind is told, not guessed: proteins of A, C, G, T alone exist. Mode 1 links the file, copies nothing.
        self._run("createdb", fasta.absolute(), database, "--dbtype", "1", "--createdb-mode", "1")
        if fasta.stat().st_size <= _SMALL_BYTES:
            self._small.add(database)
        return database

    def linclust(self, database: Path, alike: Alike) -> Iterator[tuple[Int, Int]]:
        """Clusters in linear time: finds near copies, misses a third of the pairs near 50 % identity.

        Yields
        ------
        (int64[k], int64[k]) : representative and member, batch by batch; a representative is its own member. Members
            of a cluster need not follow each other, and a sequence not named is alone.

        Raises
        ------
        CorpusError : MMseqs2 failed.
        """
        return self._clusters("linclust", database, alike.args())

    def cluster(self, database: Path, alike: Alike, args: Sequence[str] = CLUSTER_ARGS) -> Iterator[tuple[Int, Int]]:
        """Clusters by cascaded clustering: linclust, then a search of all representatives against each other.

        Parameters
        ----------
        args : further arguments of `mmseqs cluster`; none for its own defaults.

        Yields
        ------
        As `linclust`.
        """
        return self._clusters("cluster", database, self.cluster_args(database, alike, args))

    def cluster_args(self, database: Path, alike: Alike, args: Sequence[str] = CLUSTER_ARGS) -> tuple[str, ...]:
        """The arguments that decide the clusters."""
        return (*alike.args(), *args, *self._kmer(database))

    def search(
        self,
        queries: Path,
        targets: Path,
        alike: Alike,
        *,
        sensitivity: float = 5.7,
        max_hits: int = 50,
        args: Sequence[str] = (),
    ) -> Hits:
        """Search all queries against all targets.

        Parameters
        ----------
        queries, targets : databases of this folder; they may be the same.
        alike : what counts as a hit.
        sensitivity : 1 fast to 7.5 sensitive; more similar k-mers are looked up.
        max_hits : candidates aligned per query, those with the best gapless score.
        args : further arguments of `mmseqs search`.

        Raises
        ------
        CorpusError : MMseqs2 failed.
        """
        result, table = self._new("result"), self._new("hits")
        how = (
            "-s",
            f"{sensitivity:g}",
            "--max-seqs",
            str(max_hits),
            "--alignment-mode",
            "3",
            *self._kmer(targets),
            *args,
        )
        if not self._scratched("search", queries, targets, result, *alike.args(), *how):
            return no_hits()
        self._run("convertalis", queries, targets, result, table, "--format-output", ",".join(_COLUMNS), threads=True)
        hits = no_hits()
        if table.stat().st_size:
            read = _csv(table, _COLUMNS).read_all()
            column = {name: read[name].to_numpy() for name in _COLUMNS}
            covered = [(abs(column[f"{x}end"] - column[f"{x}start"]) + 1) / column[f"{x}len"] for x in "qt"]
            hits = sorted_hits([*(column[name] for name in ("query", "target", "fident")), *covered, column["evalue"]])
        self._forget(result, table)
        return hits

    def new_file(self, kind: str, ending: str) -> Path:
        """A name in the folder that nothing has yet."""
        return self._new(kind).with_suffix(ending)

    def _clusters(self, verb: str, database: Path, args: Sequence[str]) -> Iterator[tuple[Int, Int]]:
        result, table = self._new("clusters"), self._new("members")
        if not self._scratched(verb, database, result, *args):
            return
        self._run("createtsv", database, database, result, table, threads=True)
        with _csv(table, {"representative": "int64", "member": "int64"}) as reader:
            for batch in reader:
                yield batch.column(0).to_numpy(), batch.column(1).to_numpy()
        self._forget(result, table)

    def _kmer(self, database: Path) -> tuple[str, ...]:
        return ("-k", "5") if database in self._small else ()

    def _new(self, kind: str) -> Path:
        self._made += 1
        return self.folder / f"{kind}{self._made}"

    def _scratched(self, verb: str, *args: Path | str) -> bool:
        """Run a verb that wants a scratch folder; False if no sequence is long enough to have a k-mer."""
        scratch = self._new("scratch")
        scratch.mkdir()
        places = [arg for arg in args if isinstance(arg, Path)]
        try:
            return self._run(verb, *places, scratch, *args[len(places) :], threads=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _run(self, verb: str, *args: Path | str, threads: bool = False) -> bool:
        log = self.folder / "log.txt"
        words = [self._word(arg) for arg in args]
        command = [str(self.program.path), verb, *words, *(("--threads", str(self.threads)) * threads)]
        code = run_child(command, log, cwd=self.folder)
        if not code:
            return True
        text = log.read_text(errors="replace").replace("\r", "\n")
        if _NO_KMER in text:
            return False
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[")]
        raise CorpusError(
            f"mmseqs {verb} failed with exit code {code}",
            where=str(self.program.path),
            why="its last lines: " + " | ".join(lines[-6:]),
            hint="look for room on the disk and in memory; fewer threads need less of both",
        )

    def _word(self, arg: Path | str) -> str:
        # MMseqs2's scripts break at a space in a path, so they are given names within the folder they run in.
        inside = isinstance(arg, Path) and arg.is_relative_to(self.folder)
        return str(Path(arg).relative_to(self.folder) if inside else arg)

    def _forget(self, *stems: Path) -> None:
        """Remove results that were read: databases are several files with one stem."""
        for stem in stems:
            for path in (stem, *self.folder.glob(f"{stem.name}.*")):
                path.unlink(missing_ok=True)


def cluster_sequences(
    sequences: Sequence[str], alike: Alike | None = None, *, threads: int | None = None
) -> npt.NDArray[np.int64]:
    """Cluster a few sequences: the position of the representative of each, int64[n].

    Parameters
    ----------
    alike : 50 % identity over .8 of both by default.

    Raises
    ------
    CorpusError : MMseqs2 is not installed, or it failed.
    ValueError : a character is not a residue letter.
    """
    found = np.arange(len(sequences))
    with mmseqs_work(threads=threads) as work:
        if not sequences:
            return found
        for representative, member in work.cluster(_few(work, sequences), alike or Alike(identity=0.5)):
            found[member] = representative
    return found


def _few(work: MmseqsWork, sequences: Sequence[str]) -> Path:
    """A database of sequences in memory, numbered by position; at least one."""
    tokens = [np.append(encode(sequence), np.uint8(EOS)) for sequence in sequences]
    sizes = np.array([len(one) for one in tokens], dtype=np.int64)
    path = work.new_file("few", ".fasta")
    write_numbered(path, [(np.arange(len(tokens)), np.concatenate(tokens), sizes)])
    return work.database(path)


def _csv(path: Path, types: dict[str, str]) -> Any:
    """A streaming reader of tab-separated columns without a header."""
    import pyarrow as pa
    import pyarrow.csv as csv

    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(column_names=list(types), use_threads=False),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(column_types={name: pa.type_for_alias(t) for name, t in types.items()}),
    )
