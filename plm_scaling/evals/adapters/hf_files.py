"""From a folder of `transformers` to an `HfModel`: which language model it is, how its tokenizer writes proteins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from plm_scaling.core.alphabet import STANDARD, UNUSUAL
from plm_scaling.core.errors import CheckpointError, ConfigError
from plm_scaling.core.units import six_nd
from plm_scaling.core.weight_identity import weights_sha256
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.adapters.hf import HfModel, LetterIds
from plm_scaling.evals.adapters.published import published_tokens

__all__ = ["letter_ids", "open_hf"]

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_POSITIONS_FROM_2: Final = ("esm", "roberta", "xlm-roberta")
"""Models whose positions are counted from behind the id of padding, which is 1 there."""
_FLOPS_AT: Final = 512


def open_hf(
    folder: Path,
    *,
    name: str | None = None,
    published_as: str | None = None,
    context: int | None = None,
    dtype: str = "fp32",
    device: str | None = None,
) -> HfModel:
    """The masked or causal language model of a folder. No code of the folder is run.

    Parameters
    ----------
    name, published_as, context, dtype, device : see `open_adapter`.

    Raises
    ------
    ConfigError : `transformers` is not installed; no language model; not one token for one residue.
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
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        masked = _is_masked(config, folder)
        kind: Any = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
        model, loading = kind.from_pretrained(
            folder,
            local_files_only=True,
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
    letters = letter_ids(tokenizer, masked=masked, where=str(folder))
    info = _info(model, config, len(tokenizer), masked=masked, origin="transformers", sha256=sha256)
    info = info.model_copy(
        update={
            "name": name or folder.name,
            "context": context or info.context,
            "dtype": str(_DTYPES[dtype]).removeprefix("torch."),
            "symbols": _symbols(tokenizer, letters, rows=model.config.vocab_size),
        }
    )
    if published_as is not None:
        D = published_tokens(published_as, info.N_total + info.N_dead)
        info = info.model_copy(update={"D": D, "C": None if D is None else six_nd(info.N, D)})
    return HfModel(model.to(_DTYPES[dtype]), letters, info, device=device)


def letter_ids(tokenizer: Any, *, masked: bool, where: str) -> LetterIds:
    """How a tokenizer writes proteins, found by writing some.

    Raises
    ------
    ConfigError : not one token for one residue; or no mask, or nothing that a causal model's first residue can follow.
    """
    text, ids = _written(tokenizer, where)
    known = dict(zip(STANDARD, ids, strict=True))
    for letter in UNUSUAL:
        alone = tokenizer(letter, add_special_tokens=False)["input_ids"]
        if len(alone) == 1 and alone[0] != tokenizer.unk_token_id and alone[0] not in ids:
            known[letter] = alone[0]
    whole = tokenizer(text)["input_ids"]
    begin = next((i for i in range(len(whole)) if whole[i : i + len(ids)] == ids), None)
    if begin is None:
        raise ConfigError("its tokenizer writes residues otherwise beside its own terminals", where=where)
    before, after = tuple(whole[:begin]), tuple(whole[begin + len(ids) :])
    if masked and tokenizer.mask_token_id is None:
        raise ConfigError("a masked model whose tokenizer has no mask", where=where)
    if not masked and not before:
        start = next((x for x in (tokenizer.bos_token_id, tokenizer.eos_token_id) if x is not None), None)
        if start is None:
            raise ConfigError(
                "a causal model whose tokenizer has no token to begin with",
                where=where,
                why="its first residue has no probability",
            )
        before = (start,)
    end = after[0] if after else tokenizer.eos_token_id
    return LetterIds(known, before, after, tokenizer.mask_token_id, tokenizer.pad_token_id, None if masked else end)


def _symbols(tokenizer: Any, letters: LetterIds, *, rows: int) -> tuple[str, ...]:
    """Names of the columns of its logits: letters as letters, rows without a symbol by their number."""
    named = dict(enumerate(tokenizer.convert_ids_to_tokens(list(range(min(rows, len(tokenizer)))))))
    named |= {token: letter for letter, token in letters.ids.items()}
    return tuple(named.get(number) or f"<row {number}>" for number in range(rows))


def _written(tokenizer: Any, where: str) -> tuple[str, list[int]]:
    """The 20 amino acids as this tokenizer wants them, plain or with spaces between, and their ids."""
    lengths = []
    for between in ("", " "):
        text = between.join(STANDARD)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        turned = list(tokenizer(text[::-1], add_special_tokens=False)["input_ids"])
        lengths.append(len(ids))
        if len(set(ids)) == len(ids) == len(STANDARD) and turned == ids[::-1] and tokenizer.unk_token_id not in ids:
            return text, ids
    raise ConfigError(
        "its tokenizer does not give one token to one residue",
        where=where,
        why=f"the 20 amino acids become {lengths[0]} tokens, or {lengths[1]} with spaces between",
        hint="models over pieces of several residues have no probability of a single one; take a character-level model",
    )


def _is_masked(config: Any, folder: Path) -> bool:
    named = (config.architectures or [""])[0]
    if named.endswith("ForMaskedLM"):
        return True
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        return False
    raise ConfigError(
        f"{named or 'a model without a named architecture'} is neither a masked nor a causal language model",
        where=str(folder / "config.json"),
        hint="its last part should be ForMaskedLM, ForCausalLM or LMHeadModel",
    )


def _info(model: Any, config: Any, symbols: int, *, masked: bool, origin: str, sha256: str) -> ModelInfo:
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
        objective="mlm" if masked else "clm",
        origin=origin,
        abilities=("masked", "embed", "attend") if masked else ("causal", "embed", "attend"),
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
