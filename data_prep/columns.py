"""Which column of a table holds the sequences, the accessions and what else a header tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from plm_scaling.core.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ROLES", "Columns", "find_columns", "is_integer", "is_list"]

ROLES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "sequence": (
        (
            "sequence",
            "seq",
            "protein_sequence",
            "protein_seq",
            "aa_sequence",
            "aa_seq",
            "amino_acid_sequence",
            "cds_seqs",
        ),
        ("text",),
    ),
    "accession": (
        ("accession", "acc", "uniprot_accession", "uniprot_id", "mgyp"),
        ("id", "protein_id", "sequence_id", "seq_id", "cds_ids"),
        ("entry", "cluster_id", "uniref_id"),
        ("name",),
    ),
    "description": (("description", "header", "protein_name"), ("name",)),
    "members": (("n", "members", "cluster_size", "member_count"),),
    "organism": (("organism", "organism_name", "species"),),
    "taxon": (("taxon", "taxon_id", "taxid", "tax_id", "ncbi_taxon_id", "organism_id"),),
    "rep_id": (("rep_id", "repid", "representative", "representative_id"),),
    "evidence": (("evidence", "protein_existence", "pe"),),
    "full_length": (("full_length",),),
}
"""Names a column may have (in any case) by what it holds, in groups of falling preference."""
_USER_KEYS: Final = {"seq": "sequence", "id": "accession"}
_INTEGERS: Final = frozenset({"members", "taxon", "evidence"})


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; empty where there is none.

    Parameters
    ----------
    sequence : text, or a list of texts per row (OMG's scaffolds have one list of proteins per row).
    accession : text or whole numbers; without it records are called `row_0`, `row_1`, ...
    description, members, organism, taxon, rep_id, evidence, full_length : what the header can tell beside.
    mgyp : the accessions are MGnify's, stored as numbers.
    """

    sequence: str
    accession: str = ""
    description: str = ""
    members: str = ""
    organism: str = ""
    taxon: str = ""
    rep_id: str = ""
    evidence: str = ""
    full_length: str = ""
    mgyp: bool = False

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "mgyp")
        return list(dict.fromkeys(name for name in values if name))


def find_columns(schema: pa.Schema, where: str, chosen: Mapping[str, str] | None = None) -> Columns:
    """Tell by their names and types what the columns of a table hold.

    Parameters
    ----------
    schema : names and types of the columns.
    where : the table, for errors.
    chosen : columns the user named: `seq` and `id`, or any field of Columns.

    Raises
    ------
    ConfigError : a chosen column is not there or of the wrong type.
    CorpusError : no column, or more than one of equal right, holds sequences (or accessions).

    Notes
    -----
    MGnify's Parquet files (2026) store accessions as numbers: `protein_id` 4750550 is MGYP000004750550 in its FASTA.
    Whole numbers called `mgyp`, or called `protein_id` beside `full_length` or `description`, are read so.
    **Source:** docs.mgnify.org, "Remote querying of MGnify Proteins using Parquet and DuckDB".
    """
    named = {_USER_KEYS.get(key, key): name for key, name in (chosen or {}).items()}
    found: dict[str, str] = {}
    for role in ROLES:
        if role in named:
            found[role] = _chosen(schema, where, role, named[role])
        else:
            taken = set(found.values()) | set(named.values())
            found[role] = _guessed(schema, where, role, taken)
    if not found["sequence"]:
        raise CorpusError(
            "no column holds sequences", where=where, why=_listing(schema), hint="name it: FILE?seq=COLUMN&id=COLUMN"
        )
    mgyp = found["accession"].lower() == "mgyp" or (
        found["accession"].lower() == "protein_id" and bool(found["full_length"] or found["description"])
    )
    accession_type = _element(schema.field(found["accession"]).type) if found["accession"] else None
    return Columns(**found, mgyp=mgyp and accession_type is not None and is_integer(accession_type))


def _guessed(schema: pa.Schema, where: str, role: str, taken: set[str]) -> str:
    for group in ROLES[role]:
        hits = [
            field.name
            for field in schema
            if field.name.lower() in group and field.name not in taken and _fits(role, field.type)
        ]
        if len(hits) > 1 and role in ("sequence", "accession"):
            key = next(key for key, value in _USER_KEYS.items() if value == role)
            raise CorpusError(
                f"{len(hits)} columns may hold the {role}s: {', '.join(hits)}",
                where=where,
                why=_listing(schema),
                hint=f"name the one you mean: FILE?{key}={hits[0]}",
            )
        if hits:
            return str(hits[0])
    return ""


def _chosen(schema: pa.Schema, where: str, role: str, name: str) -> str:
    if name not in schema.names:
        raise ConfigError(f"there is no column {name!r}", where=where, why=_listing(schema))
    if not _fits(role, schema.field(name).type):
        raise ConfigError(
            f"column {name!r} cannot hold the {role}", where=where, why=f"its type is {schema.field(name).type}"
        )
    return name


def _listing(schema: pa.Schema) -> str:
    return "the columns are " + ", ".join(f"{field.name} ({field.type})" for field in schema)


def _fits(role: str, kind: pa.DataType) -> bool:
    import pyarrow.types as types

    element = _element(kind)
    if role == "full_length":
        return bool(types.is_boolean(element))
    if role in _INTEGERS:
        return is_integer(element)
    return _is_text(element) or (role == "accession" and is_integer(element))


def _element(kind: pa.DataType) -> pa.DataType:
    """Type of one value: what a list holds, what a dictionary stands for."""
    import pyarrow.types as types

    if is_list(kind):
        kind = kind.value_type
    return kind.value_type if types.is_dictionary(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists (views are none: Arrow 26 converts them wrongly)."""
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def is_integer(kind: pa.DataType) -> bool:
    """Whether a column of this type holds whole numbers."""
    import pyarrow.types as types

    return bool(types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )
