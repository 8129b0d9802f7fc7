"""From a folder of `transformers` to an `HfModel`: which language model it is, how its tokenizer writes proteins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

import torch

from plm_scaling.core.alphabet import STANDARD, UNUSUAL
from plm_scaling.core.errors import CheckpointError, ConfigError, CorpusError
from plm_scaling.core.units import six_nd
from plm_scaling.core.weight_identity import weights_sha256
from plm_scaling.evals.adapters.base import Ability, ModelInfo
from plm_scaling.evals.adapters.hf import HfModel, LetterIds
from plm_scaling.evals.adapters.hf_pieces import HfPieces, PieceWriter
from plm_scaling.evals.adapters.published import published_tokens

__all__ = ["open_hf"]

_Kind = Literal["masked", "causal", "encoder"]
_ABILITIES: Final[dict[_Kind, tuple[Ability, ...]]] = {
    "masked": ("masked", "embed", "attend"),
    "causal": ("causal", "embed", "attend"),
    "encoder": ("embed", "attend"),
}
_QUIET: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
"""Neither asks the hub, nor asks on a terminal whether a folder's own code may run."""
_ELSEWHERE: Final = (
    "ProGen2 and its ports: progen2:PATH; ESM-2: esm2:PATH; RITA, ESM C, ESM-3 and others with code of their own: "
    "score them with their own programs"
)
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_POSITIONS_FROM_2: Final = ("esm", "roberta", "xlm-roberta")
"""Models whose positions are counted from behind the id of padding, which is 1 there."""
_ENCODERS: Final = ("t5", "mt5", "umt5")
"""Models of two halves: the encoder shows activations; what the decoder says of a sequence is no likelihood of it."""
_FLOPS_AT: Final = 512


def open_hf(
    folder: Path,
    *,
    name: str | None = None,
    published_as: str | None = None,
    context: int | None = None,
    dtype: str = "fp32",
    device: str | None = None,
    lines: int = 0,
) -> HfModel | HfPieces:
    """The language model of a folder: masked, causal, or an encoder that only shows activations (T5).

    One whose tokens hold several residues gives totals (causal) and activations. No code of the folder is run.

    Parameters
    ----------
    lines : residues of a line, for a model of pieces that was trained on lines of FASTA (ProtGPT2: 60).
    name, published_as, context, dtype, device : see `open_adapter`.

    Raises
    ------
    ConfigError : `transformers` is not installed; no language model it knows; a tokenizer that cannot spell proteins.
    CheckpointError : weights that are damaged or incomplete.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError("transformers is not installed", hint="pip install 'plm-scaling[hf]'") from None
    if not (folder / "config.json").is_file():
        raise ConfigError("no config.json here", where=str(folder), hint="give a folder of transformers, or ORG/NAME")
    if dtype not in _DTYPES:
        raise ConfigError(f"no dtype {dtype!r}", hint="fp32 or bf16")
    sha256 = weights_sha256(folder)
    config, tokenizer, model, kind = _loaded(transformers, folder)
    writer = _writer(tokenizer, kind, str(folder), lines)
    info = _info(model, config, len(tokenizer), kind=kind, origin="transformers", sha256=sha256)
    symbols = _symbols(tokenizer, writer, rows=model.config.vocab_size)
    info = info.model_copy(
        update={
            "name": name or folder.name,
            "context": context or info.context,
            "dtype": str(_DTYPES[dtype]).removeprefix("torch."),
            "symbols": symbols,
            "before": tuple(symbols[token] for token in writer.before),
        }
    )
    if published_as is not None:
        D = published_tokens(published_as, info.N_total + info.N_dead)
        info = info.model_copy(update={"D": D, "C": None if D is None else six_nd(info.N, D)})
    model = model.to(_DTYPES[dtype])
    if isinstance(writer, LetterIds):
        return HfModel(model, writer, info, device=device)
    able: tuple[Ability, ...] = ("total", "embed") if kind == "causal" else ("embed",)
    info = info.model_copy(update={"abilities": able})
    return HfPieces(model, writer, info, pad=tokenizer.pad_token_id or 0, device=device)


def _loaded(transformers: Any, folder: Path) -> tuple[Any, Any, Any, _Kind]:
    """Config, tokenizer, model and what it is. Code that lies in the folder is never run."""
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = described.get("model_type") in transformers.CONFIG_MAPPING
    if not known:
        raise ConfigError(
            f"transformers has no model type {described.get('model_type')!r}",
            where=str(folder / "config.json"),
            why="it comes with code of its own, which is never run" if "auto_map" in described else "",
            hint=_ELSEWHERE,
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **_QUIET)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_QUIET)
        kind = _kind(config, folder)
        loader: Any = {
            "masked": transformers.AutoModelForMaskedLM,
            "causal": transformers.AutoModelForCausalLM,
            "encoder": transformers.AutoModelForTextEncoding,
        }[kind]
        model, loading = loader.from_pretrained(
            folder,
            **_QUIET,
            attn_implementation="eager",  # the only one that shows its maps
            output_loading_info=True,
        )
    except ConfigError:
        raise
    except Exception as error:  # the library has a name of its own for each kind of damage
        raise CheckpointError(
            "transformers cannot load this model", where=str(folder), why=str(error).strip().splitlines()[0]
        ) from None
    if missing := sorted(key for key in loading["missing_keys"] if "contact_head" not in key):
        raise CheckpointError(
            f"{missing[0]} is missing", where=str(folder), why="it would be random", hint="is this the whole model?"
        )
    return config, tokenizer, model, kind


def _writer(tokenizer: Any, kind: _Kind, where: str, lines: int) -> LetterIds | PieceWriter:
    """How a tokenizer writes proteins, found by writing some."""
    found = _by_letters(tokenizer)
    if found is None:
        return _by_pieces(tokenizer, kind, where, lines)
    if lines:
        raise ConfigError("a model that reads residue by residue knows no lines", where=where)
    text, ids = found
    known = dict(zip(STANDARD, ids, strict=True))
    for letter in UNUSUAL:
        alone = tokenizer(letter, add_special_tokens=False)["input_ids"]
        if len(alone) == 1 and alone[0] != tokenizer.unk_token_id and alone[0] not in ids:
            known[letter] = alone[0]
    before, after, end = _around(tokenizer, text, ids, kind, where)
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ConfigError("a masked model whose tokenizer has no mask", where=where)
    return LetterIds(known, before, after, tokenizer.mask_token_id, tokenizer.pad_token_id, end)


def _by_letters(tokenizer: Any) -> tuple[str, list[int]] | None:
    """The 20 amino acids as this tokenizer wants them, plain or with spaces between, and their ids; None for pieces."""
    for between in ("", " "):
        text = between.join(STANDARD)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        turned = list(tokenizer(text[::-1], add_special_tokens=False)["input_ids"])
        if len(set(ids)) == len(ids) == len(STANDARD) and turned == ids[::-1] and tokenizer.unk_token_id not in ids:
            return text, ids
    return None


def _by_pieces(tokenizer: Any, kind: _Kind, where: str, lines: int) -> PieceWriter:
    if not tokenizer.is_fast:
        raise ConfigError(
            "its tokenizer does not say which residues its tokens hold",
            where=where,
            why="it gives no token to each residue, and is none of the fast ones",
            hint="a tokenizer.json beside the model makes it one",
        )
    text = STANDARD + "\n" + STANDARD if lines else STANDARD
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    before, after, close = _around(tokenizer, text, ids, kind, where)
    writer = PieceWriter(tokenizer, before, after, close, lines)
    try:
        tried = writer.pieces(STANDARD + STANDARD[::-1])
    except CorpusError as error:
        raise ConfigError("its tokenizer cannot spell the 20 amino acids", where=where, why=error.what) from None
    if strange := set(tried.ids[tried.begin : tried.end].tolist()) - set(writer.of_residues.tolist()):
        raise ConfigError("its tokenizer writes residues as tokens that do not read as residues", where=where,
                          why=f"such as {tokenizer.convert_ids_to_tokens(min(strange))!r}")  # fmt: skip
    return writer


def _around(
    tokenizer: Any, text: str, ids: list[int], kind: _Kind, where: str
) -> tuple[tuple[int, ...], tuple[int, ...], int | None]:
    """Ids ahead of and behind a sequence, and the one that ends the text of a causal model."""
    whole = list(tokenizer(text)["input_ids"])
    begin = next((i for i in range(len(whole)) if whole[i : i + len(ids)] == ids), None)
    if begin is None:
        raise ConfigError("its tokenizer writes residues otherwise beside its own terminals", where=where)
    before, after = tuple(whole[:begin]), tuple(whole[begin + len(ids) :])
    if kind != "causal":
        return before, after, None
    if not before:
        start = next((x for x in (tokenizer.bos_token_id, tokenizer.eos_token_id) if x is not None), None)
        if start is None:
            raise ConfigError(
                "a causal model whose tokenizer has no token to begin with",
                where=where,
                why="its first residue has no probability",
            )
        before = (start,)
    return before, after, after[0] if after else tokenizer.eos_token_id


def _symbols(tokenizer: Any, writer: LetterIds | PieceWriter, *, rows: int) -> tuple[str, ...]:
    """Names of the columns of its logits: letters as letters, rows without a symbol by their number."""
    named = dict(enumerate(tokenizer.convert_ids_to_tokens(list(range(min(rows, len(tokenizer)))))))
    if isinstance(writer, LetterIds):
        named |= {token: letter for letter, token in writer.ids.items()}
    return tuple(named.get(number) or f"<row {number}>" for number in range(rows))


def _kind(config: Any, folder: Path) -> _Kind:
    named = (config.architectures or [""])[0]
    if named.endswith("ForMaskedLM"):
        return "masked"
    if config.model_type in _ENCODERS:
        return "encoder"
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    raise ConfigError(
        f"{named or 'a model without a named architecture'} is neither a masked nor a causal language model",
        where=str(folder / "config.json"),
        hint="its last part should be ForMaskedLM, ForCausalLM or LMHeadModel",
    )


def _info(model: Any, config: Any, symbols: int, *, kind: _Kind, origin: str, sha256: str) -> ModelInfo:
    """N are the parameters of the longest list of modules, which is what every such model keeps its blocks in."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    blocks = max(lists, key=lambda module: sum(p.numel() for p in module.parameters()))
    N = sum(p.numel() for p in blocks.parameters())
    everything = {p: p.numel() for key, p in model.named_parameters() if "contact_head" not in key}
    rows = {p: p[symbols:].numel() for p in _vocabulary(model) if p is not None and len(p) > symbols}
    dead = sum(rows.values())
    width, vocabulary = config.hidden_size, config.vocab_size
    positions = getattr(config, "max_position_embeddings", None) or 0
    offset = 2 if config.model_type in _POSITIONS_FROM_2 and positions else 0
    return ModelInfo(
        name="",
        family="hf",
        objective={"masked": "mlm", "causal": "clm", "encoder": "none"}[kind],
        origin=origin,
        abilities=_ABILITIES[kind],
        N=N,
        N_total=sum(everything.values()) - dead,
        N_dead=dead,
        flops_per_token=2.0 * N + 4.0 * len(blocks) * width * _FLOPS_AT + 2.0 * width * vocabulary,
        context=positions - offset,
        sha256=sha256,
    )


def _vocabulary(model: Any) -> set[Any]:
    """Tensors with a row for each symbol."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {getattr(end, key, None) for end in ends if end is not None for key in ("weight", "bias")}
