"""What the folder and file names of the Cheng et al. 2024 logs say about a run; the axis of the log says it better."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from plm_scaling.core.run import Objective

__all__ = ["NICKNAMES", "SIZES", "Axis", "NamedLog", "parse_log_name", "size_name"]

Axis = Literal["gigaflops", "tokens", "samples", "steps"]

SIZES: Final[dict[str, int]] = {
    "3M": 3_538_944,
    "6M": 6_291_456,
    "10M": 9_830_400,
    "13M": 13_192_320,
    "20M": 19_267_584,
    "25M": 25_165_824,
    "34M": 33_690_624,
    "40M": 39_813_120,
    "47M": 47_775_744,
    "65M": 65_728_000,
    "85M": 84_934_656,
    "106M": 106_168_320,
    "127M": 127_699_968,
    "154M": 154_448_288,
    "170M": 170_233_344,
    "200M": 202_309_632,
    "230M": 231_211_008,
    "300M": 302_426_080,
    "393M": 393_216_000,
    "470M": 472_435_184,
    "550M": 550_502_400,
    "650M": 650_930_624,
    "680M": 680_205_312,
    "880M": 886_308_864,
    "1.2B": 1_208_618_992,
    "1.5B": 1_528_823_808,
    "1.7B": 1_784_851_968,
    "2B": 2_044_723_200,
    "2.4B": 2_359_296_000,
    "2.8B": 2_834_283_904,
    "3.4B": 3_425_697_792,
    "4B": 4_076_863_488,
    "5B": 4_917_322_640,
    "6B": 6_165_626_880,
    "7B": 7_247_758_312,
    "10B": 10_682_105_856,
}
"""N of the published models, without embeddings where the size table tells them apart.

**Source:** Cheng et al. 2024, table of model sizes of the authors' repository."""

NICKNAMES: Final[dict[str, str]] = {
    "10M": "13M",
    "10.1M": "10M",
    "25M": "34M",
    "25.1M": "25M",
    "49M": "65M",
    "130M": "127M",
    "150M": "154M",
    "157M": "154M",
    "500M": "680M",
    "1B": "1.2B",
    "3B": "2.8B",
}
"""File names call some sizes by another number."""

_OBJECTIVES: Final[dict[str, Objective]] = {"gpt": "clm", "clm": "clm", "mlm": "mlm"}

_RUN: Final = re.compile(r"^run-(?:tensorboard_)?(?P<name>(?:gpt|mlm).*?)(?:\.sh)?-tag-(?P<tag>.*)$")
_TRANSFER: Final = re.compile(
    r"^(?P<to>gpt|mlm)(?P<budget>[\d.]+e\d+)_transfer_from_(?P<source>gpt|mlm)(?P<spent>[\d.]+e\d+)_(?P<size>[\d.]+[mb])$",
    re.IGNORECASE,
)
_SHORT: Final = re.compile(
    r"^(?P<size>[\d.]+[mb])_(?P<budget>[\d.]+e\d+)(?:_(?P<source>clm|mlm)_pretrain_(?P<spent>[\d.]+e\d+))?$",
    re.IGNORECASE,
)
_SIZE: Final = re.compile(r"^(?:gpt|mlm)_(?P<size>[\d.]+[mb])(?:_|$)", re.IGNORECASE)
_BUDGET: Final = re.compile(r"_(?P<budget>[\d.]+e\d+)flops")
_LABEL: Final = re.compile(r"_(?:all)?(?P<label>[\d.]+)ep(?:_|$)")
_BATCH: Final = re.compile(r"bsz(?P<batch>[\d.]+)(?P<unit>[km]?)", re.IGNORECASE)
_RATE: Final = re.compile(r"_lr(?P<rate>[\d.]+(?:e-\d+)?)(?:_|$)")
_MASK: Final = re.compile(r"^mask_(?P<ratio>0?\.\d+)$")
_FOLDER_SIZE: Final = re.compile(r"^(?P<size>[\d.]+[MB])(?:_flops)?$")


@dataclass(frozen=True)
class NamedLog:
    """What the path of one log states; nothing here is believed where the log's own axis can be asked."""

    path: str
    name: str
    """The run's own name, without exporters' prefixes and the tag."""
    objective: Objective
    axis: Axis
    perplexity: bool = False
    training: bool = False
    """Training loss, not validation."""
    folder_size: str | None = None
    """Key of `SIZES` that the folder stands for."""
    nickname: str | None = None
    """Size as the file name writes it."""
    budget: float | None = None
    """FLOPs."""
    label: str | None = None
    """Epochs of the full corpus, as written."""
    batch_sequences: int | None = None
    peak_lr: float | None = None
    unique_corpus: bool = False
    """Trained on UniRef50 alone."""
    mask_ratio: float | None = None
    source_objective: Objective | None = None
    C_source: float | None = None
    in_transfer: bool = False
    """Filed with the transfer pairs."""

    @property
    def named_size(self) -> str | None:
        """Key of `SIZES` that folder or file name stand for; the folder comes first."""
        if self.folder_size:
            return self.folder_size
        return size_name(self.nickname) if self.nickname else None


def size_name(nickname: str) -> str | None:
    """The key of `SIZES` that a file's nickname stands for."""
    word = nickname.upper()
    word = NICKNAMES.get(word, word)
    return word if word in SIZES else None


def parse_log_name(path: str, above: tuple[str, ...] = ()) -> NamedLog | None:
    """What a path of the released folder states; None where objective or axis cannot be told.

    Parameters
    ----------
    path : POSIX path, from any level of the release.
    above : folders that lie above the path's first.
    """
    stem, folders = PurePosixPath(path).stem, (*above, *PurePosixPath(path).parts[:-1])
    run = _RUN.match(stem)
    name, tag = (run["name"], run["tag"]) if run else (stem, "")
    mask = _MASK.match(name)
    objective = _objective(name, folders, mask is not None)
    axis = _axis(tag, folders, mask is not None)
    if objective is None or axis is None:
        return None
    facts = _transfer_facts(name) or _sweep_facts(name)
    return NamedLog(
        path=path,
        name=name,
        objective=objective,
        axis=axis,
        perplexity=" ppl " in tag,
        training="training" in tag,
        folder_size=_folder_size(folders),
        unique_corpus=bool(re.search(r"_ur50(?:_|$)", name)),
        mask_ratio=float(mask["ratio"]) if mask else None,
        in_transfer="transfer_valid" in folders or "_transfer_from_" in name or "_pretrain_" in name,
        **facts,
    )


def _objective(name: str, folders: tuple[str, ...], mask: bool) -> Objective | None:
    if mask:
        return "mlm"
    words = [name[:3].lower(), *(word for folder in reversed(folders) for word in re.split(r"[_\W]+", folder.lower()))]
    return next((_OBJECTIVES[word] for word in words if word in _OBJECTIVES), None)


def _axis(tag: str, folders: tuple[str, ...], mask: bool) -> Axis | None:
    if mask:
        return "steps"
    for word, axis in (("gigaflo", "gigaflops"), ("vs tokens", "tokens"), ("vs samples", "samples")):
        if word in tag:
            return axis  # type: ignore[return-value]
    return "tokens" if folders and folders[-1] == "tokens" else None


def _folder_size(folders: tuple[str, ...]) -> str | None:
    """The folder's size; folders of sweeps and mask ratios use the exact names, those of pairs use nicknames."""
    match = _FOLDER_SIZE.match(folders[-1]) if folders else None
    return match["size"] if match and match["size"] in SIZES else None


def _transfer_facts(name: str) -> dict[str, Any] | None:
    match = _TRANSFER.match(name) or _SHORT.match(name)
    if match is None:
        return None
    facts: dict[str, Any] = {"nickname": match["size"], "budget": float(match["budget"])}
    if match["source"]:
        facts |= {"source_objective": _OBJECTIVES[match["source"].lower()], "C_source": float(match["spent"])}
    return facts


def _sweep_facts(name: str) -> dict[str, Any]:
    size, budget, label = _SIZE.match(name), _BUDGET.search(name), _LABEL.search(name)
    batch, rate = _BATCH.search(name), _RATE.search(name)
    return {
        "nickname": size["size"] if size else None,
        "budget": float(budget["budget"]) if budget else None,
        "label": label["label"] if label else None,
        "batch_sequences": _sequences(float(batch["batch"]), batch["unit"].lower()) if batch else None,
        "peak_lr": _rate(rate["rate"]) if rate else None,
    }


def _sequences(number: float, unit: str) -> int:
    """Sequences of a batch: bsz256 counts them, bsz250k and bsz0.5M count tokens, 1,024 each, to the next 2^k."""
    if not unit:
        return int(number)
    tokens = number * {"k": 1e3, "m": 1e6}[unit]
    return min((256, 512, 1024, 2048), key=lambda n: abs(n * 1024 - tokens))


def _rate(text: str) -> float:
    """lr4e-4 is 4e-4; lr5.0 and lr10 count in 1e-4."""
    return float(text) if "e" in text else float(text) * 1e-4
