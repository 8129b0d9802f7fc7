"""The trust checks hold, and one that is broken on purpose says so."""

from __future__ import annotations

import pytest

from plm_scaling.core.errors import RefusedError
from plm_scaling.evals import trust
from plm_scaling.evals.trust import trust_checks


def test_all_hold() -> None:
    checks = trust_checks()
    assert {check.name: check.worst for check in checks if not check.passed} == {}
    assert len(checks) >= 8


def test_a_broken_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> float:
        raise RefusedError("no such thing", why="made so")

    made = (("off", "a tenth too much", 0.1, lambda: 0.2), ("refused", "cannot be done", 1.0, refused))
    monkeypatch.setattr(trust, "_CHECKS", made)
    off, cannot = trust_checks()
    assert not off.passed
    assert not cannot.passed
    assert "no such thing" in cannot.about
