"""Model sizes as a sweep writes them: "2x64", "6x320x20" or a name."""

from __future__ import annotations

import re
from typing import Final

from plm_scaling.core.architecture import Architecture, ModelShape, head_dim_for
from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.model_sizes import model_size

__all__ = ["parse_size", "plain_shape", "size_text"]

_SIZE: Final = re.compile(r"^([1-9][0-9]*)\s*[xX]\s*([1-9][0-9]*)(?:\s*[xX]\s*([1-9][0-9]*))?$")
_NAME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9]*-[A-Za-z0-9.-]+$")


def parse_size(text: str, architecture: Architecture = "plm", *, where: str = "") -> ModelShape:
    """The shape that a size stands for.

    Parameters
    ----------
    text : layers x width ("2x64"), layers x width x heads ("6x320x20"), or a name ("esm2-8m", "cheng-85m").
    architecture : of a size given by numbers; a name brings its own.

    Raises
    ------
    PlanError : anything else, an odd width, heads that do not divide it, or an unknown name.
    """
    word = text.strip()
    try:
        if match := _SIZE.match(word):
            n_layers, d_model, n_heads = (int(group) if group else None for group in match.groups())
            fields = {"n_layers": n_layers, "d_model": d_model, "n_heads": n_heads}
            return plain_shape(ModelShape.checked(architecture=architecture, **fields))
        if _NAME.match(word):
            return plain_shape(model_size(word))
    except ConfigError as error:
        raise PlanError(f"{text!r}: {error.what}", where=where, why=error.why, hint=error.hint) from None
    raise PlanError(
        f"{text!r} is no size",
        where=where,
        hint='write "layers x width", as "2x64", "layers x width x heads", as "6x320x20", or a name, as "esm2-8m"',
    )


def plain_shape(shape: ModelShape) -> ModelShape:
    """The same shape with what is the default left out: one model, one way to say it, one run id."""
    defaults = {
        "n_heads": shape.d_model % 2 == 0 and shape.heads == shape.d_model // head_dim_for(shape.d_model),
        "d_ffn": shape.ffn == 4 * shape.d_model,
        "rotary_dim": shape.turned == shape.head_dim,
    }
    return shape.model_copy(update={name: None for name, usual in defaults.items() if usual})


def size_text(shape: ModelShape) -> str:
    """A shape as short as it can be said: 2x64, 6x320x20 where the heads are not the usual ones, esm2 6x320x20."""
    heads = f"x{shape.n_heads}" if shape.n_heads else ""
    named = "" if shape.architecture == "plm" else f"{shape.architecture} "
    return f"{named}{shape.n_layers}x{shape.d_model}{heads}"
