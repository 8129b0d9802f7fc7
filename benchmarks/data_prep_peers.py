"""What others use to read and tokenise proteins, each as a function of a FASTA file."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Peer:
    """A task of a package; slow ones get `share` bytes of the text only."""

    name: str
    package: str
    run: Read
    share: int = 0
    module: str = ""

    @property
    def missing(self) -> str:
        """Why it cannot run, or nothing."""
        return "" if importlib.util.find_spec(self.module or self.package) else "not installed"


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# ---- parsers -----------------------------------------------------------------------------------------------------


def pyfastx_parse(path: Path) -> None:
    import pyfastx

    for _ in pyfastx.Fasta(str(path), build_index=False):
        pass


def needletail_parse(path: Path) -> None:
    import needletail

    for record in needletail.parse_fastx_file(str(path)):
        _ = record.seq


def dnaio_parse(path: Path) -> None:
    import dnaio

    with dnaio.open(path, fileformat="fasta", open_threads=0) as reader:
        for record in reader:
            _ = record.sequence


def pyhmmer_text(path: Path) -> None:
    from pyhmmer.easel import SequenceFile

    with SequenceFile(str(path), format="fasta") as handle:
        handle.read_block()


def pyhmmer_digital(path: Path) -> None:
    from pyhmmer.easel import Alphabet, SequenceFile

    with SequenceFile(str(path), format="fasta", digital=True, alphabet=Alphabet.amino()) as handle:
        handle.read_block()


def bio_simple(path: Path) -> None:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with path.open() as handle:
        for _ in SimpleFastaParser(handle):
            pass


def bio_seqio(path: Path) -> None:
    from Bio import SeqIO

    for record in SeqIO.parse(str(path), "fasta"):
        str(record.seq)


def esm_parse(path: Path) -> Any:
    from esm.data import FastaBatchedDataset

    return FastaBatchedDataset.from_file(path)


# ---- tokenisers --------------------------------------------------------------------------------------------------


def esm_encode(path: Path) -> None:
    from esm.data import Alphabet

    alphabet = Alphabet.from_architecture("ESM-1b")
    for _, sequence in esm_parse(path):
        alphabet.encode(sequence)


def esm_batches(path: Path) -> None:
    from esm.data import Alphabet

    dataset = esm_parse(path)
    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter()
    for indices in dataset.get_batch_indices(4096, extra_toks_per_seq=1):
        convert([dataset[i] for i in indices])


def _sequences(path: Path) -> list[str]:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with path.open() as handle:
        return [sequence for _, sequence in SimpleFastaParser(handle)]


def _word_level() -> Any:
    """A compiled tokenizer of one token per letter."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    from plm_scaling.core.alphabet import SYMBOLS

    tokenizer = Tokenizer(WordLevel({symbol: i for i, symbol in enumerate(SYMBOLS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    return tokenizer


def tokenizers_batch(path: Path) -> None:
    _word_level().encode_batch(_sequences(path))


def hf_map(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        from transformers import PreTrainedTokenizerFast

        datasets.disable_caching()
        datasets.disable_progress_bars()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_word_level(), unk_token="<unk>")
        data = datasets.Dataset.from_dict({"sequence": _sequences(path)})
        data.map(lambda rows: tokenizer(rows["sequence"]), batched=True, keep_in_memory=True)


PARSERS = (
    Peer("pyfastx, build_index=False (parse)", "pyfastx", pyfastx_parse),
    Peer("needletail (parse)", "needletail", needletail_parse),
    Peer("dnaio (parse)", "dnaio", dnaio_parse, share=100_000_000),
    Peer("pyhmmer, text block (parse)", "pyhmmer", pyhmmer_text, share=100_000_000),
    Peer("pyhmmer, digital block", "pyhmmer", pyhmmer_digital, share=100_000_000),
    Peer("Bio SimpleFastaParser (parse)", "biopython", bio_simple, share=100_000_000, module="Bio"),
    Peer("Bio.SeqIO (parse)", "biopython", bio_seqio, share=30_000_000, module="Bio"),
    Peer("fair-esm FastaBatchedDataset (parse)", "fair-esm", esm_parse, share=30_000_000, module="esm"),
)
TOKENISERS = (
    Peer("fair-esm parse + Alphabet.encode", "fair-esm", esm_encode, share=200_000, module="esm"),
    Peer("fair-esm parse + BatchConverter", "fair-esm", esm_batches, share=200_000, module="esm"),
    Peer("tokenizers WordLevel, encode_batch", "tokenizers", tokenizers_batch, share=2_000_000),
    Peer("fast HF tokenizer, datasets.map", "transformers", hf_map, share=2_000_000),
)


# ---- decompression alone -----------------------------------------------------------------------------------------


def _drain(handle: Any) -> None:
    with handle:
        while handle.read(1 << 20):
            pass


def gzip_stdlib(path: Path) -> None:
    import gzip

    _drain(gzip.GzipFile(path))


def isal_igzip(path: Path) -> None:
    from isal import igzip

    _drain(igzip.open(path, "rb"))


def isal_threaded(path: Path) -> None:
    from isal import igzip_threaded

    _drain(igzip_threaded.open(path, "rb", threads=1))


def zstd_reader(path: Path) -> None:
    import zstandard

    _drain(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))


def plain_reader(path: Path) -> None:
    block = bytearray(1 << 20)
    with path.open("rb", buffering=0) as handle:
        while handle.readinto(block):
            pass
