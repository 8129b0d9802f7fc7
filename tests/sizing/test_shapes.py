from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError
from plm_scaling.sizing.shapes import HEAD_WIDTH, Shape, nearest_shape, size_of_width, typical_width, width_per_layer

# Cheng et al. 2024: sizes whose N is 12 L d^2 exactly.
PUBLISHED = (
    (8, 192),
    (8, 320),
    (8, 512),
    (12, 768),
    (21, 896),
    (20, 1280),
    (23, 1792),
    (26, 2560),
    (36, 3072),
    (47, 4352),
)


def test_a_shape_counts_its_heads_and_parameters() -> None:
    shape = Shape(12, 768)
    assert shape.n_heads == 12
    assert shape.N == 12 * (12 * 768**2 + 2 * 768)


@pytest.mark.parametrize(("layers", "width"), PUBLISHED)
def test_published_sizes_get_published_proportions(layers: int, width: int) -> None:
    N = 12.0 * layers * width**2
    assert width / layers == pytest.approx(width_per_layer(N), rel=0.65)
    shape = nearest_shape(N)
    assert pytest.approx(N, rel=0.03) == shape.N
    assert 0.5 < shape.d_model / width < 1.5


def test_known_sizes_get_known_shapes() -> None:
    assert nearest_shape(84_934_656) == Shape(12, 768)
    assert nearest_shape(9_830_400) == Shape(8, 320)


@settings(max_examples=40, deadline=None)
@given(st.floats(6.0, 11.3))
def test_a_shape_is_near_and_buildable(log_n: float) -> None:
    N = 10.0**log_n
    shape = nearest_shape(N)
    assert shape.d_model % HEAD_WIDTH == 0
    assert shape.n_heads * HEAD_WIDTH == shape.d_model
    assert abs(math.log(shape.N / N)) < 0.1
    assert 0.4 < shape.d_model / shape.n_layers / width_per_layer(N) < 2.5


@settings(max_examples=30, deadline=None)
@given(st.floats(5.0, 11.5))
def test_the_typical_width_gives_back_n(log_n: float) -> None:
    N = 10.0**log_n
    d = typical_width(N)
    assert 12.0 * (d / width_per_layer(N)) * d**2 == pytest.approx(N)


def test_sizes_of_laptop_sweeps_are_narrow_and_of_one_head() -> None:
    assert nearest_shape(14_000) == Shape(2, 24)
    assert nearest_shape(24_700) == Shape(2, 32)
    assert nearest_shape(55_500) == Shape(2, 48)
    assert Shape(2, 48).n_heads == 1
    assert Shape(2, 128).n_heads == 2
    with pytest.raises(ConfigError, match="no shape comes near"):
        nearest_shape(2_000)


@given(st.floats(16, 30_000))
def test_a_width_has_one_size(width: float) -> None:
    assert typical_width(size_of_width(width)) == pytest.approx(width, rel=1e-12)
