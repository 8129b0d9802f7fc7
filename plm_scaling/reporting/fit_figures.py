"""Pictures of one fit as files, and a page that shows them with a sentence on how to read each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from plm_scaling.core.files import write_atomic
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.choice_figures import draw_extrapolation, draw_forms
from plm_scaling.reporting.drawing import COLORS, write_picture
from plm_scaling.reporting.fit_view import Drawing, FitView, view_fit
from plm_scaling.reporting.optimum_figures import draw_optimum
from plm_scaling.reporting.profile_figures import draw_profiles
from plm_scaling.reporting.run_figures import draw_contours, draw_minima, draw_residuals, draw_runs
from plm_scaling.reporting.wording import form_words, typeset

__all__ = ["PICTURES", "Picture", "write_fit_figures"]


@dataclass(frozen=True)
class Picture:
    """What a picture shows, how to read it, and how it is drawn (None: this fit has nothing to show of it)."""

    label: str
    reading: str
    maker: Callable[[FitView], Drawing | None]


PICTURES: Final[dict[str, Picture]] = {
    "data": Picture(
        "the runs and the fitted law",
        "Dots are runs, coloured by size. A line is the law for one size, at the median batch of its runs; the dashed "
        "line joins the best sizes. Open squares are runs that were left out of the fit.",
        draw_runs,
    ),
    "residuals": Picture(
        "what the law leaves unexplained",
        "Above zero the law is too high. A running median that leaves zero, or batches that part, is something that "
        "the law does not know. Runs furthest outside the band are named.",
        draw_residuals,
    ),
    "isoflop": Picture(
        "loss at equal compute",
        "Each colour is one budget. The diamond is the lowest point of the curve, its band the 95 % interval of the "
        "size; open diamonds may be the noise's. A curve is dotted beyond the sizes it was fitted to. A circled point "
        "marks a budget without a minimum inside.",
        draw_minima,
    ),
    "surface": Picture(
        "fitted loss over size and tokens",
        "Along a line the loss is equal. Where a dot's colour differs from the lines about it, the law is off. The "
        "thick line joins the lowest losses of every compute; dashed, it is outside the sizes that were run.",
        draw_contours,
    ),
    "optimum": Picture(
        "the best size against compute",
        "The band holds 95 % of the bootstrap draws of the fitted form; the dashed lines are what other forms say "
        "that did about as well. In the shaded part everything is extrapolation.",
        draw_optimum,
    ),
    "extrapolation": Picture(
        "forms fitted to smaller budgets, tested on larger ones",
        "Each panel fits every form to the runs left of its dashed line and predicts the others; lines join the "
        "medians of each budget. A form worth trusting beyond the runs stays near zero in all panels.",
        draw_extrapolation,
    ),
    "forms": Picture(
        "error of every form on larger budgets",
        "The diamond decides the order; a form whose open square is far left of it describes better than it predicts.",
        draw_forms,
    ),
    "profiles": Picture(
        "how sharply each parameter is determined",
        "The curve rises by one where the 95 % interval ends. A flat side, or an interval that ends in an arrow, means "
        "that the runs do not bound the parameter there.",
        draw_profiles,
    ),
}
"""By name."""


def write_fit_figures(law: LawFit, table: RunTable, folder: Path, *, suffix: str = ".svg") -> tuple[Path, ...]:
    """Draw a fit into `folder`: OBJECTIVE-NAME.svg for every name of `PICTURES`, and OBJECTIVE.html that shows them.

    A picture that this fit has nothing to show of is not drawn, and one of an earlier fit is removed.

    Parameters
    ----------
    table : the runs that the law was fitted to; larger ones that were left out are shown as such.
    suffix : .svg, .png or .pdf (without a page).

    Raises
    ------
    RecordError : the table is not the law's.
    """
    view = view_fit(law, table)
    drawn: dict[str, Path] = {}
    for name, picture in PICTURES.items():
        path = folder / f"{law.objective}-{name}{suffix}"
        drawing = picture.maker(view)
        if drawing is None:
            path.unlink(missing_ok=True)
        else:
            title = f"{law.objective.upper()}: {picture.label}"
            drawn[name] = write_picture(path, _titled(drawing, title), size=drawing.size, label=title)
    if suffix == ".pdf":
        return tuple(drawn.values())
    page = folder / f"{law.objective}.html"
    write_atomic(page, _page(law, drawn))
    return (*drawn.values(), page)


def _titled(drawing: Drawing, title: str) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        head = figure.suptitle(title, x=0.008, ha="left")
        about = Annotation(drawing.about, (1.0, 0.5), xycoords=head, xytext=(9, 0), textcoords="offset points",
                           va="center", ha="left", fontsize=9, color=COLORS["muted"])  # fmt: skip
        about.set_in_layout(False)
        figure.add_artist(about)
        drawing.draw(figure)

    return draw


def _page(law: LawFit, drawn: dict[str, Path]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plm_scaling.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    pictures = [(path.name, PICTURES[name]) for name, path in drawn.items()]
    return environment.get_template("fit.html.j2").render(law=law, form=_form(law), pictures=pictures)


def _form(law: LawFit) -> str:
    if law.surface is None:
        return "no surface could be fitted"
    why = {"asked for": ", as asked for", "extrapolation": ", chosen by its error on larger budgets"}
    return form_words(law.surface) + why.get(law.chosen, "")
