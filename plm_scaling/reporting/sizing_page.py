"""The sizing page: one offline HTML file that answers for any budget, with the laws' draws and the code inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
from markupsafe import Markup
from pydantic import Field

from plm_scaling.core.alphabet import VOCAB_SIZE
from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.files import write_atomic
from plm_scaling.core.records import Record
from plm_scaling.reporting.drawing import COLORS, DARK
from plm_scaling.sizing.answers import FLAG_DECADES, REFUSE_DECADES
from plm_scaling.sizing.costs import ATTENDED_TOKENS, Budget, Hardware, gpu_named, load_hardware
from plm_scaling.sizing.quantity_bounds import BOUNDS
from plm_scaling.sizing.shapes import HEAD_WIDTH, Shape
from plm_scaling.sizing.unique_data import MAX_EPOCHS

__all__ = ["PAGE_SCRIPTS", "PageQuestion", "page_data", "page_question", "render_sizing_page", "write_sizing_page"]

PAGE_SCRIPTS: Final = ("sizing_math.js", "sizing_kinds.js", "sizing_answer.js", "sizing_words.js", "sizing_page.js")
"""The page's code in the order it is run; the last one alone touches the page."""

_BOUNDED: Final = {
    **{
        name: name for name in ("gpu_hours", "usd", "flops", "unique_tokens", "usd_per_gpu_hour", "mfu", "serve_tokens")
    },
    "data_usd_per_token": "usd_per_token",
    "gpus": "n_gpus",
}
"""What the page calls a quantity -> its name in `BOUNDS`."""

Json = dict[str, Any]


class PageQuestion(Record):
    """What the page's controls say: the question it answers, and the one it opens with."""

    objective: str = ""
    """Empty: the first of the page's."""
    budget: float = Field(default=5000.0, gt=0)
    unit: Literal["flops", "gpu_hours", "usd"] = "gpu_hours"
    unique_tokens: float | None = Field(default=15e9, gt=0)
    """None: as many as the run asks for."""
    data_usd_per_token: float = Field(default=0.0, ge=0)
    """Price of further unique tokens; 0: none are for sale."""
    gpu: str = "a100"
    gpus: int = Field(default=8, ge=1)
    usd_per_gpu_hour: float | None = Field(default=None, gt=0)
    """None: the hardware file's mid price."""
    mfu: float | None = Field(default=None, gt=0, le=1)
    serve_tokens: float = Field(default=0.0, ge=0)
    """Tokens the finished model will read over its life."""
    repeats: Literal["law", "new"] = "law"
    """new: every repeated token counts as a new one."""
    force: bool = False


def page_question(
    *,
    objective: str = "",
    gpu_hours: float | None = None,
    usd: float | None = None,
    flops: float | None = None,
    **more: Any,
) -> PageQuestion:
    """The question a page opens with, from the arguments of `size`; without a budget the page's own.

    `more` are further fields of `PageQuestion`; one that is None keeps its default, but for `unique_tokens`, where it
    means as many as the run asks for.

    Raises
    ------
    ConfigError : more than one budget, an unknown field, or a number out of bounds.
    """
    given: dict[str, Any] = {"gpu_hours": gpu_hours, "usd": usd, "flops": flops}
    fields = {key: value for key, value in more.items() if value is not None or key == "unique_tokens"}
    if any(value is not None for value in given.values()):
        budget = Budget(**given)
        unit = next(name for name in given if getattr(budget, name) is not None)
        fields |= {"unit": unit, "budget": getattr(budget, unit)}
    return PageQuestion.checked(objective=objective, **fields)


def write_sizing_page(
    out: Path,
    laws: Sequence[Json],
    *,
    question: PageQuestion | None = None,
    hardware: Hardware | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
) -> Path:
    """`render_sizing_page` as a file, replaced atomically."""
    page = render_sizing_page(laws, question=question, hardware=hardware, attended_tokens=attended_tokens)
    write_atomic(out, page)
    return out


def render_sizing_page(
    laws: Sequence[Json],
    *,
    question: PageQuestion | None = None,
    hardware: Hardware | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
) -> str:
    """The page's HTML: controls, drawing, laws and code in one file without any request to elsewhere.

    Parameters
    ----------
    laws : one entry of `plm_scaling.reporting.page_laws.page_laws` for each objective offered.
    question : what the page opens with; an address with a state after `#` overrides it.
    hardware : accelerators offered; None for the shipped file.
    attended_tokens : length-weighted mean document length of the packed windows, tokens.

    Raises
    ------
    ConfigError : no laws, two entries of one objective, or a question they cannot answer.
    """
    data = page_data(laws, question=question, hardware=hardware, attended_tokens=attended_tokens)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plm_scaling.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("sizing.html.j2").render(
        objectives=[entry["objective"] for entry in data["ensembles"]],
        gpus=data["hardware"]["gpus"],
        data=Markup(_embedded(data)),
        scripts=[(name.partition(".")[0].replace("_", "-"), Markup(_code(name))) for name in PAGE_SCRIPTS],
        light=Markup(_variables(COLORS)),
        dark=Markup(_variables(DARK)),
    )


def page_data(
    laws: Sequence[Json],
    *,
    question: PageQuestion | None = None,
    hardware: Hardware | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
) -> Json:
    """Everything the page's code reads: laws, accelerators, limits and the opening question; errors as there."""
    offered = [entry["objective"] for entry in laws]
    if not offered or len(set(offered)) < len(offered):
        raise ConfigError("a sizing page needs laws of at least one objective, each objective once", why=f"{offered}")
    hardware = hardware or load_hardware()
    asked = question or PageQuestion()
    gpu_named(asked.gpu, hardware)
    objective = asked.objective or offered[0]
    if objective not in offered:
        raise ConfigError(f"the page holds no law of {objective!r}", hint=did_you_mean(objective, offered))
    return {
        "ensembles": list(laws),
        "hardware": {
            **hardware.model_dump(mode="json", exclude={"gpus"}),
            "gpus": {
                key: gpu.model_dump(mode="json", exclude={"source", "bandwidth_tb_s", "peak_dtype"})
                for key, gpu in hardware.gpus.items()
            },
            "attended_tokens": attended_tokens,
            "vocab_size": VOCAB_SIZE,
            "smallest_N": Shape(1, HEAD_WIDTH).N,
        },
        "limits": {
            "flag_decades": FLAG_DECADES,
            "refuse_decades": REFUSE_DECADES,
            "max_epochs": MAX_EPOCHS,
            "bounds": {key: BOUNDS[name][:2] for key, name in _BOUNDED.items()},
        },
        "question": {**asked.model_dump(mode="json"), "objective": objective, "gpu": asked.gpu.strip().lower()},
    }


def _embedded(data: Json) -> str:
    """JSON that may stand inside a script element: no tag or comment can begin in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _code(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colors.items() if not name.startswith("b"))
