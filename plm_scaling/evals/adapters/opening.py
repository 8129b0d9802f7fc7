"""`open_adapter`: a model by one line of text, as users name it on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from plm_scaling.core.errors import CheckpointError, ConfigError, did_you_mean
from plm_scaling.core.model_sizes import MODEL_SIZES, model_size
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.adapters.doubles import MarkovModel, UniformModel

if TYPE_CHECKING:
    from plm_scaling.evals.adapters.own import OwnModel
    from plm_scaling.evals.composition import Composition

__all__ = ["MODEL_SPECS", "open_adapter"]

MODEL_SPECS: Final = (
    "PATH, run:PATH, esm2:PATH, progen2:PATH, hf:PATH (each also with @SHA256; esm2, progen2 and hf also with a hub id "
    "ORG/NAME; hf also with #lines60, for weights trained on FASTA lines of so many residues), random:SIZE or "
    "random:SPEC (also with #SEED), uniform, markov:FILE.npy, profile:FASTA (relatives of one length, site by site)"
)
"""What `open_adapter` reads."""
_KINDS: Final = ("run", "esm2", "progen2", "hf", "random", "markov", "profile")
_WEIGHT_FILES: Final = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_CHECKED: Final = re.compile(r"(?P<rest>.+)@(?P<sha256>[0-9a-fA-F]{64})")
_SEEDED: Final = re.compile(r"(?P<rest>.+)#(?P<seed>\d+)")
_LINED: Final = re.compile(r"(?P<rest>.+)#lines(?P<lines>[1-9]\d*)")
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class _Options:
    name: str | None
    published_as: str | None
    context: int | None
    dtype: str
    device: str | None


def open_adapter(
    spec: str,
    *,
    name: str | None = None,
    published_as: str | None = None,
    context: int | None = None,
    dtype: str = "fp32",
    device: str | None = None,
) -> Adapter:
    """The model that `spec` names.

    Weights of ESM-2 and ProGen2 run through the blocks of this package wherever they come from; `hf:` runs any masked
    or causal protein model through `transformers` (extra `hf`).

    Parameters
    ----------
    spec : see `MODEL_SPECS`. A hub id is looked for in the local hub cache before it is downloaded.
    name : what tables call it.
    published_as : name in the table of published models, whose training tokens are then taken over.
    context : longest document, in positions; None for what it was trained on.
    dtype : of the activations, fp32 or bf16. device : None for the first CUDA device where there is one, else the CPU.

    Raises
    ------
    ConfigError : no such kind of spec, no weights there, a tokenizer that cannot spell proteins.
    CheckpointError : weights that are damaged, of another kind than was said, of another checksum, or out of reach.
    """
    if spec == "uniform":
        return UniformModel(name=name or "uniform")
    kind, _, rest = spec.partition(":")
    options = _Options(name, published_as, context, dtype, device)
    if kind == "markov" and rest:
        return _markov(Path(rest), name)
    if kind == "profile" and rest:
        return _profile(Path(rest), name)
    if kind == "random" and rest:
        return _random(rest, options)
    if kind not in _KINDS or not rest:
        if not Path(_without_checksum(spec)[0]).exists():
            raise ConfigError(
                f"no model is called {spec!r}",
                why="it is neither a path nor a kind of model with what it needs",
                hint=f"{did_you_mean(kind, (*_KINDS, 'uniform'))}; known are {MODEL_SPECS}",
            )
        kind, rest = "", spec
    lined = _LINED.fullmatch(rest) if kind == "hf" else None
    place, sha256 = _without_checksum(lined["rest"] if lined else rest)
    path = Path(place) if kind in ("", "run") else _local(place)
    if path != Path(place) and name is None:
        options = replace(options, name=published_as or Path(place).name)  # the hub's folder is called by its revision
    opened = _hf(path, options, int(lined["lines"]) if lined else 0) if kind == "hf" else _own(path, kind, options)
    if sha256 and opened.info.sha256 != sha256:
        raise CheckpointError(
            "weights of another checksum than was asked for",
            where=place,
            why=f"they are {opened.info.sha256}",
            hint="download them again, or ask for these",
        )
    return opened


def _hf(path: Path, options: _Options, lines: int) -> Adapter:
    from plm_scaling.evals.adapters.hf_files import open_hf

    return open_hf(
        path,
        name=options.name,
        published_as=options.published_as,
        context=options.context,
        dtype=options.dtype,
        device=options.device,
        lines=lines,
    )


def _own(path: Path, kind: str, options: _Options) -> OwnModel:
    from plm_scaling.evals.adapters.own_models import open_own

    if not path.exists():
        raise ConfigError("nothing here", where=str(path), hint="give the path of weights, or a hub id ORG/NAME")
    opened = open_own(
        path,
        name=options.name,
        published_as=options.published_as,
        context=options.context,
        dtype=options.dtype,
        device=options.device,
    )
    found = "run" if opened.info.origin.startswith("run ") else opened.info.family
    if kind and kind != found:
        raise CheckpointError(f"not {kind} but {found}", where=str(path), hint=f"write {found}:{path}")
    return opened


def _random(rest: str, options: _Options) -> OwnModel:
    from plm_scaling.evals.adapters.own import OwnModel
    from plm_scaling.evals.adapters.own_models import PUBLIC_CONTEXT, random_control, random_weights

    seeded = _SEEDED.fullmatch(rest)
    what, seed = (seeded["rest"], int(seeded["seed"])) if seeded else (rest, 0)
    size = what.lower().replace("_", "-")
    if size in MODEL_SIZES or not (what.partition(":")[0] in _KINDS or Path(what).exists()):
        return random_weights(
            model_size(size),
            seed=seed,
            name=options.name or f"random {size} seed {seed}",
            context=options.context or PUBLIC_CONTEXT,
            device=options.device,
        )
    of = open_adapter(what, context=options.context, dtype=options.dtype, device=options.device)
    if not isinstance(of, OwnModel):
        raise ConfigError(
            f"no random weights for {what!r}", why="it is none of our models, ESM-2 or ProGen2", hint="random:esm2-8m"
        )
    return random_control(of, seed=seed)


def _markov(path: Path, name: str | None) -> MarkovModel:
    try:
        transition = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError("not a matrix that numpy saved", where=str(path), why=str(error)) from None
    return MarkovModel(transition, name=name or path.stem)


def _profile(path: Path, name: str | None) -> Composition:
    """The floor that looks at no other site: frequencies at every site of an alignment without gaps."""
    from plm_scaling.core.files import sha256_file
    from plm_scaling.evals.composition import fit_site_profile
    from plm_scaling.evals.fasta import read_fasta

    sequences = [protein.sequence for protein in read_fasta(path)]
    return fit_site_profile(sequences, name=name or path.name.partition(".")[0], sha256=sha256_file(path))


def _without_checksum(place: str) -> tuple[str, str]:
    checked = _CHECKED.fullmatch(place)
    return (checked["rest"], checked["sha256"].lower()) if checked else (place, "")


def _local(place: str) -> Path:
    path = Path(place)
    if path.exists() or path.suffix in _WEIGHT_FILES or not _HUB_ID.fullmatch(place):
        return path  # a file of weights with a wrong path is no repository
    from plm_scaling.evals.adapters.hub import hub_folder

    return hub_folder(place)
