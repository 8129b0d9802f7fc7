from __future__ import annotations

import pickle

import pytest

from plm_scaling.core import errors
from plm_scaling.core.errors import PlmScalingError, did_you_mean

KINDS = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_the_border_of_a_process(kind: type[PlmScalingError]) -> None:
    error = kind("it broke", where="a.toml:3", why="too hot", hint="cool it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.what, back.where, back.why, back.hint) == ("it broke", "a.toml:3", "too hot", "cool it")


def test_an_error_says_where_what_why_and_what_to_try() -> None:
    whole = PlmScalingError("it broke", where="a.toml:3", why="too hot", hint="cool it")
    assert str(whole) == "a.toml:3: it broke\n  why: too hot\n  try: cool it"
    assert str(PlmScalingError("it broke")) == "it broke"
    assert str(PlmScalingError("it broke", hint="cool it")) == "it broke\n  try: cool it"


def test_exit_codes_are_those_of_the_module_page() -> None:
    stated = {}
    for line in (errors.__doc__ or "").splitlines()[2:]:
        name, code = line.lstrip("|`- ").split()[:4:3] if "exit code" in line else line.lstrip("|`- ").split()[:2]
        stated[name] = int(code)
    assert stated == {kind.__name__: kind.exit_code for kind in KINDS}


def test_the_nearest_word_is_suggested_else_all_of_them() -> None:
    assert did_you_mean("n_layer", ["n_layers", "d_model"]) == "did you mean n_layers?"
    assert did_you_mean("zzz", ["b", "a"]) == "allowed: a, b"
