"""Tasks about structure: contacts read off attention maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from plm_scaling.core.errors import RefusedError
from plm_scaling.evals.adapters.base import Adapter, FloatArray
from plm_scaling.evals.contact_head import fit_contact_head, published_contact_head
from plm_scaling.evals.contacts import (
    ContactReport,
    ContactScorer,
    evaluate_contacts,
    random_contacts,
    separation_floor,
)
from plm_scaling.evals.data_alarms import contamination_of, token_alarms
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.structures import Structure, read_structure
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of

__all__ = ["TASKS"]

_LEAST_FAMILIES: Final = 3
_UNKNOWN: Final = "every chain counts as a family of its own: relatives among the files make it look too easy."


def _contacts(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Precision on every chain by a head fitted to the other families, or by the one that came with the weights.

    A family is a folder of files inside the folder of data; files that lie beside each other in the outermost folder
    that holds any are taken for families of their own.
    """
    started, paths = time.perf_counter(), task.paths(asked)
    folders = {path.parent for path in paths}
    structures = [read_structure(path, family=path.parent.name if len(folders) > 1 else "") for path in paths]
    structures = [replace(one, name=f"{one.family}/{one.name}".lstrip("/")) for one in structures]
    families = sorted({_family(one) for one in structures})
    published = published_contact_head(adapter)
    if len(families) < _LEAST_FAMILIES and published is None:
        raise RefusedError(
            f"{len(families)} families of structures",
            why=f"a head is fitted to all families but one, and at least {_LEAST_FAMILIES} give an interval",
            hint="add structures, one folder a family",
        )
    alarms = (*token_alarms(adapter.info), *contamination_of(asked, task.name, [one.sequence for one in structures]))
    protocol = "head of the weights" if published else "head fitted to the other families"

    def model(train: Sequence[Structure]) -> ContactScorer:
        head = published or fit_contact_head(adapter, train)
        return lambda structure: head.predict(adapter, structure)

    found = _by_family(model, structures)
    floors = {
        "separation alone": _by_family(separation_floor, structures),
        "random": _by_family(lambda _: random_contacts(asked.seed), structures),
    }
    reports = {name: _report(name, scores, structures, asked) for name, scores in {"model": found, **floors}.items()}
    answers = []
    for key, value in reports["model"].precision.items():
        beside = [(name, reports[name].precision.get(key)) for name in floors]
        having = [chain for chain in reports["model"].chains if key in chain.precision]  # others are too short
        scored = Scored(
            truth=np.zeros(len(having)),
            scores=np.array([chain.precision[key] for chain in having]),
            protocol=protocol,
            clusters=tuple(chain.family for chain in having),
            cluster_kind="family",
            floors=tuple(
                FloorScore(name=name, value=one.value, low=one.low, high=one.high) for name, one in beside if one
            ),
            flags=(*(("FAMILIES_UNKNOWN",) if len(folders) == 1 else ()), *(alarm.code for alarm in alarms)),
            warnings=(*((_UNKNOWN,) if len(folders) == 1 else ()), *(alarm.sentence for alarm in alarms)),
        )
        answer = answer_of(task, adapter, asked, scored, value=value, started=started, name=f"{task.name}/{key}")
        answers.append(replace(answer, row=answer.row.model_copy(update={"metric": key})))
    return answers


def _family(structure: Structure) -> str:
    return structure.family or structure.name


def _by_family(
    made: Callable[[Sequence[Structure]], ContactScorer], structures: Sequence[Structure]
) -> dict[str, FloatArray]:
    """Scores of every chain by what was made from the chains of all other families."""
    scores = {}
    for family in sorted({_family(one) for one in structures}):
        scorer = made([one for one in structures if _family(one) != family])
        for one in structures:
            if _family(one) == family:
                scores[one.name] = np.asarray(scorer(one), dtype=np.float64)
    return scores


def _report(name: str, scores: dict[str, FloatArray], structures: Sequence[Structure], asked: Asked) -> ContactReport:
    return evaluate_contacts(name, lambda one: scores[one.name], structures, draws=asked.resamples, seed=asked.seed)


TASKS: Final = (
    Task(
        "contacts.structures", "structure", "contacts of chains by attention maps: P@L, L/2, L/5 by range", "P@L", True,
        ("attend",), _contacts, files=("*.pdb",),
    ),
)  # fmt: skip
