"""Fits against likelihoods maximised another way, sandwiches written out, and separation that is known."""

import itertools
import math
import re

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize

from warmeng.study.stats.logit import NotEstimable, cluster_cov, expit, fit


def answers(seed, n=600, clusters=40):
    """Single answers: design rows [n, 4] with few different values, outcomes, clusters."""
    rng = np.random.default_rng(seed)
    on, task = rng.integers(0, 2, n), rng.integers(0, 3, n)
    x = np.column_stack([np.ones(n), on, task == 1, task == 2]).astype(float)
    cluster = rng.integers(0, clusters, n)
    eta = x @ np.array([-1.0, 0.6, 0.4, -0.5]) + rng.normal(0, 0.8, clusters)[cluster]
    return x, (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float), cluster


def collapse(x, y):
    rows, at = np.unique(x, axis=0, return_inverse=True)
    at = at.ravel()
    return rows, np.bincount(at).astype(float), np.bincount(at, weights=y), at


def log_likelihood(beta, x, y):
    """Sum over single answers, written out."""
    total = 0.0
    for row, hit in zip(x, y, strict=True):
        eta = sum(b * v for b, v in zip(beta, row, strict=True))
        total += hit * eta - math.log1p(math.exp(eta))
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coefficients_maximise_the_likelihood_of_single_answers(seed):
    x, y, _ = answers(seed)
    rows, n, hits, _ = collapse(x, y)
    found = fit(rows, n, hits)

    def gradient(beta):
        p = np.array([1 / (1 + math.exp(-sum(b * v for b, v in zip(beta, row, strict=True)))) for row in x])
        return -np.array([sum((y - p) * x[:, k]) for k in range(4)])

    best = optimize.minimize(lambda b: -log_likelihood(b, x, y), np.zeros(4), jac=gradient, method="BFGS", tol=1e-10)
    assert found.beta == pytest.approx(best.x, abs=1e-6)
    assert np.abs(gradient(found.beta)).max() < 1e-8
    model = sm.GLM(y, x, family=sm.families.Binomial()).fit(tol=1e-14, maxiter=100)
    assert found.beta == pytest.approx(model.params, abs=1e-8)
    assert np.sqrt(np.diag(found.cov)) == pytest.approx(model.bse, abs=1e-8)


def test_plain_standard_errors_are_the_inverse_curvature():
    x, y, _ = answers(3)
    rows, n, hits, _ = collapse(x, y)
    found = fit(rows, n, hits)
    step, k = 1e-3, 4
    curvature = np.empty((k, k))
    for i, j in itertools.product(range(k), range(k)):
        a, b = np.eye(k)[i] * step, np.eye(k)[j] * step
        corners = [log_likelihood(found.beta + s * a + t * b, x, y) for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
        curvature[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step * step)
    assert found.cov == pytest.approx(np.linalg.inv(-curvature), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 4])
def test_clustered_errors_are_the_sandwich_written_out(seed):
    x, y, cluster = answers(seed)
    rows, n, hits, at = collapse(x, y)
    found = fit(rows, n, hits)
    names = sorted(set(cluster))
    scores = np.array([sum((y[i] - found.p[at[i]]) * x[i] for i in np.flatnonzero(cluster == c)) for c in names])
    mine = cluster_cov(found, scores)
    p = 1 / (1 + np.exp(-(x @ found.beta)))
    bread, meat = np.zeros((4, 4)), np.zeros((4, 4))
    for i in range(len(x)):
        bread += p[i] * (1 - p[i]) * np.outer(x[i], x[i])
    for score in scores:
        meat += np.outer(score, score)
    g, total, k = len(names), len(x), 4
    inverse = np.linalg.inv(bread)
    assert mine == pytest.approx(g / (g - 1) * (total - 1) / (total - k) * inverse @ meat @ inverse, abs=1e-10)
    model = sm.GLM(y, x, family=sm.families.Binomial()).fit(cov_type="cluster", cov_kwds={"groups": cluster}, tol=1e-14)
    assert np.sqrt(np.diag(mine)) == pytest.approx(model.bse, abs=1e-8)
    assert not np.allclose(mine, found.cov, rtol=0.02)


X = np.array([[1.0, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 0, 0, 0], "all 40 answers are correct"),
        ([10, 10, 10, 10], "all 40 answers are incorrect"),
        ([0, 10, 0, 10], "completely separated: no finite estimate of .*warm"),
        ([5, 5, 0, 0], "quasi-completely separated: no finite estimate of .*task"),
        ([0, 3, 0, 5], "quasi-completely separated: no finite estimate of .*warm"),
    ],
)
def test_what_separated_answers_leave_without_an_estimate_is_named(y, words):
    found = fit(X, np.full(4, 10.0), np.array(y, dtype=float), ("intercept", "warm", "task"))
    assert re.search(words, found.limits)
    # Where no row is all of one kind, but ever less so, there is a maximum.
    near = fit(X, np.full(4, 10.0), np.clip(np.array(y, dtype=float), 1e-6, 10 - 1e-6))
    assert found.p == pytest.approx(near.p, abs=1e-5)


def test_of_rows_without_answers_only_those_in_the_span_have_a_limit():
    found = fit(X, np.array([10.0, 10, 10, 0]), np.array([5.0, 5, 0, 0]))
    assert found.predict(X)[:3] == pytest.approx([0.5, 0.5, 0.0])
    assert np.isnan(found.predict(X)[3])


@pytest.mark.parametrize("y", [[0, 5, 4, 3], [0, 6, 6, 5], [1, 9, 1, 9]])
def test_a_row_without_errors_alone_is_no_separation(y):
    assert np.isfinite(fit(X, np.full(4, 10.0), np.array(y, dtype=float)).beta).all()


@pytest.mark.slow
def test_separation_is_found_exactly_where_the_likelihood_has_no_maximum():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.ones((300, 6, 1)), rng.integers(0, 2, (300, 6, 2))], axis=2)
    x = x[[np.linalg.matrix_rank(one) == 3 for one in x]]
    y = rng.integers(0, 3, x.shape[:2]).astype(float)
    beta = np.zeros((len(x), 3))
    for _ in range(20000):  # plain ascent: never jumps over a maximum
        slope = np.einsum("mdk,md->mk", x, y - 2 * expit(np.einsum("mdk,mk->md", x, beta)))
        beta += 0.1 * slope
    # where there is no maximum the slope falls off as 1 / steps, and the coefficients go on growing
    diverges = np.abs(slope).max(axis=1) > 1e-7
    refused = []
    for one, hits in zip(x, y, strict=True):
        refused.append(bool(fit(one, np.full(6, 2.0), hits).limits))
    assert refused == diverges.tolist()
    assert 0.2 < np.mean(refused) < 0.8


def test_columns_that_depend_on_each_other_are_named():
    x = np.column_stack([X, X[:, 1]])
    with pytest.raises(NotEstimable, match="not estimable: warm, again depend on each other"):
        fit(x, np.full(4, 10.0), np.array([1.0, 2, 3, 4]), ("intercept", "warm", "task", "again"))
    with pytest.raises(NotEstimable, match="no answers"):
        fit(X, np.zeros(4), np.zeros(4))
