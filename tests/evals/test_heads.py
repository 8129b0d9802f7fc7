from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals import ridge
from plm_scaling.evals.heads import fit_logistic, l1_logistic, l2_logistic, nearest_labels
from plm_scaling.evals.ridge import fit_ridge, ridge_path


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 30), st.integers(1, 3), st.booleans())
def test_every_penalty_solves_its_normal_equations(seed: int, n: int, p: int, targets: int, centre: bool) -> None:
    """Wide and tall alike, each penalty beside a solver of its own; and rows left out one by one beside refits."""
    rng = np.random.default_rng(seed)
    X, y, penalties = rng.normal(2.0, 1.0, (n, p)), rng.normal(size=(n, targets)), (0.1, 3.0, 50.0)
    path = ridge_path(X, y, penalties, centre=centre, leave_out=True)
    shift = X.mean(0) if centre else np.zeros(p)
    Z = X - shift
    for k, penalty in enumerate(penalties):
        expected = np.linalg.solve(Z.T @ Z + penalty * np.eye(p), Z.T @ (y - y.mean(0)))
        np.testing.assert_allclose(path.weights[k], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(path.predict(X)[k], Z @ expected + y.mean(0), rtol=1e-6, atol=1e-8)
    if n > 3:
        wrong = []
        for i in range(n):
            rest = np.arange(n) != i
            wrong.append(y[i] - ridge_path(X[rest], y[rest], [3.0], centre=centre).predict(X[[i]])[0, 0])
        assert path.left_out is not None
        assert path.left_out[1] == pytest.approx(float((np.array(wrong) ** 2).mean()), rel=1e-6)


def test_many_sparse_columns_reach_the_same_solution_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    X = sparse.csr_array(sparse.random_array((400, 600), density=0.05, rng=rng))
    y = X @ rng.normal(size=600) + rng.normal(size=400) + 7.0
    exact = ridge_path(X, y)
    monkeypatch.setattr(ridge, "_EXACT", 10)
    stepped = ridge_path(X, y)
    solved = stepped.error < 1e-6
    assert solved.sum() >= 6
    np.testing.assert_allclose(stepped.weights[solved], exact.weights[solved], rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(ridge, "_STEPS", 5)
    short = ridge_path(X, y)
    off = np.abs(short.weights - exact.weights).max(axis=(1, 2))
    assert off[0] > 1e-2
    assert short.error[0] > 1e-3
    assert fit_ridge(X, y).penalty >= short.penalties[short.error <= 1e-3].min()


def test_the_penalty_is_chosen_on_rows_that_are_not_fitted_to() -> None:
    rng = np.random.default_rng(2)
    X, weights = rng.normal(size=(300, 200)), rng.normal(size=200)
    y = X @ weights + rng.normal(0.0, 30.0, 300)
    fit = fit_ridge(X, y)
    held = ridge.held_out_rows(300, 0)
    fitted = np.setdiff1d(np.arange(300), held)
    again = ridge_path(X[fitted], y[fitted], [fit.penalty]).predict(X)[0, :, 0]
    np.testing.assert_allclose(fit.predict(X), again, rtol=1e-9)
    assert fit.penalty > 10.0  # noise asks for shrinkage
    few = fit_ridge(X[:30], y[:30])
    assert few.chosen_by.startswith("leaving out one row")
    with pytest.raises(ConfigError, match="not finite"):
        fit_ridge(np.where(X > 3.0, np.nan, X), y)


def test_logistic_heads_end_where_no_step_helps() -> None:
    """Optimality: gradients balance the penalty, within its bounds for the first norm; useless features get 0."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, 12))
    label = (X[:, 0] - 2.0 * X[:, 1] + rng.logistic(size=200) > 0.5).astype(int) * 4 - 1
    head = l1_logistic(X, label, 12.0)
    slope = X.T @ (head.probabilities(X)[:, 1] - (label == 3))
    used = np.abs(head.weights[:, 0]) > 1e-9
    assert head.converged
    assert used[:2].all()
    assert used.sum() < 12
    np.testing.assert_allclose(slope[used], -12.0 * np.sign(head.weights[used, 0]), atol=2e-3)
    assert (np.abs(slope[~used]) <= 12.0 + 2e-3).all()
    assert abs(float((head.probabilities(X)[:, 1] - (label == 3)).sum())) < 1e-2
    assert set(head.predict(X)) == {-1, 3}
    for labels in (label, rng.integers(0, 4, 200)):
        ridge_like = l2_logistic(X, labels, 2.0)
        truth = labels[:, None] == ridge_like.classes
        wrong = ridge_like.probabilities(X) - truth
        wrong = wrong[:, 1:] if len(ridge_like.classes) == 2 else wrong
        np.testing.assert_allclose(X.T @ wrong + 2.0 * ridge_like.weights, 0.0, atol=2e-3)


def test_chosen_logistic_names_classes_in_the_features_own_units() -> None:
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(5, 8))
    labels = rng.integers(0, 5, 600)
    X = 1000.0 + 50.0 * (centres[labels] + rng.normal(0.0, 0.4, (600, 8)))
    head, _ = fit_logistic(X[:500], labels[:500], np.arange(50))
    nearest = ((X[500:, None] - (1000.0 + 50.0 * centres)) ** 2).sum(2).argmin(1)
    assert (head.predict(X[500:]) == nearest).mean() > 0.9


def test_the_nearest_row_against_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    train, other = rng.normal(size=(40, 6)), rng.normal(size=(30, 6))
    names = np.array([f"n{k}" for k in range(40)])
    expected = [
        names[max(range(40), key=lambda k: float(row @ train[k]) / float(np.linalg.norm(train[k])))] for row in other
    ]
    assert list(nearest_labels(train, names, other)) == expected
    assert list(nearest_labels(sparse.csr_array(train), names, sparse.csr_array(other))) == expected
    nearest = [names[np.linalg.norm(train - row, axis=1).argmin()] for row in other]
    assert list(nearest_labels(train, names, other, by="distance")) == nearest
    assert list(nearest_labels(sparse.csr_array(train), names, sparse.csr_array(other), by="distance")) == nearest
