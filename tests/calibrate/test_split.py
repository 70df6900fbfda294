"""Which shapes are fitted: never more than half, the same everywhere, and none on both sides."""

from hypothesis import given
from hypothesis import strategies as st

from moesim.calibrate.split import fitted_half, folds, rank

SHAPES = st.lists(st.text(st.characters(codec="ascii"), max_size=6), min_size=1, max_size=40)


@given(SHAPES)
def test_at_most_half_of_the_shapes_and_none_on_both_sides(shapes: list[str]) -> None:
    fitted = fitted_half(shapes)
    inside = {shape for shape, chosen in zip(shapes, fitted, strict=True) if chosen}
    outside = {shape for shape, chosen in zip(shapes, fitted, strict=True) if not chosen}
    assert not inside & outside
    assert len(inside) == len(set(shapes)) // 2


@given(SHAPES)
def test_the_order_of_rows_does_not_matter(shapes: list[str]) -> None:
    assert fitted_half(shapes[::-1]).tolist() == fitted_half(shapes).tolist()[::-1]


@given(SHAPES, st.integers(2, 5))
def test_folds_are_equally_large_and_keep_shapes_together(shapes: list[str], count: int) -> None:
    fold = dict(zip(shapes, folds(shapes, count).tolist(), strict=True))
    assert [fold[shape] for shape in shapes] == folds(shapes, count).tolist()
    sizes = [list(fold.values()).count(number) for number in range(count)]
    assert max(sizes) - min(sizes) <= 1


def test_the_split_is_part_of_the_code() -> None:
    """SHA-256 of the salt and the shape, first eight bytes: computed with another tool (`printf | sha256sum`)."""
    assert rank("all_reduce/8/1024") == 0xEB7243615AA8221D
