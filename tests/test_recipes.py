from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from utils.errors import InputError
from utils.recipes import RECIPES, Recipe


def test_the_rate_rises_to_its_peak_and_falls_to_nothing():
    recipe = Recipe("example", epochs=1, warmup=0.25)
    assert [recipe.rate_at(progress) for progress in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_a_cosine_rises_as_straight_and_falls_first_slowly_then_fast_then_slowly():
    recipe = Recipe("example", epochs=1, warmup=0.1, schedule="cosine")
    rates = [recipe.rate_at(progress) for progress in (0, 0.05, 0.1, 0.325, 0.55, 0.775, 1)]
    quarter = 2**0.5 / 4  # (1 + cos 45 degrees) / 2 is a half and this
    assert rates == pytest.approx([0, 0.5, 1, 0.5 + quarter, 0.5, 0.5 - quarter, 0])


def test_a_rate_in_steps_drops_after_the_epochs_that_the_recipe_names():
    recipe = Recipe("example", epochs=10, schedule="steps", drops=(4, 6), drop_factor=0.5)
    assert [recipe.rate_at(epoch / 10) for epoch in (0, 3.9, 4, 5.9, 6, 9.9)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_systems_run_as_they_ran_themselves():
    for name in ("dilated_valid", "strided_separable", "experiment2", "transition", "residual"):
        recipe = RECIPES[name]
        assert (recipe.batch_size, recipe.precision, recipe.per_image, recipe.workers) == (64, "fp32", True, 2)
    assert [RECIPES["dilated_valid"].rate_at(epoch / 25) for epoch in (9.9, 10, 20)] == pytest.approx([1, 0.1, 0.01])


def test_sides_share_the_run_in_equal_parts():
    recipe = Recipe("example", epochs=1, sides=(16, 24, 32))
    assert [recipe.side_at(p) for p in (0, 0.33, 0.34, 0.66, 0.67, 0.999, 1)] == [16, 16, 24, 24, 32, 32, 32]


@pytest.mark.parametrize(("plain", "epochs"), [(0.0, []), (0.3, [8, 9, 10]), (0.99, [*range(2, 11)])])
def test_the_last_epochs_are_plain_but_never_the_first(plain, epochs):
    recipe = Recipe("example", epochs=10, plain=plain)
    assert [e for e in range(1, 11) if recipe.is_plain(e)] == epochs


def test_every_recipe_is_kept_under_its_own_name_and_ends_at_full_size():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.side_at(1) == 32


def test_a_recipe_survives_a_list_for_its_sides():
    recipe = RECIPES["fast"]
    assert Recipe(**asdict(recipe) | {"sides": list(recipe.sides), "drops": []}) == recipe


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        RECIPES["fast"].epochs = 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("target", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e6),
        ("warmup", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("weight_decay", 1e6),
        ("optimizer", "lion"),
        ("schedule", "sine"),
        ("drops", (0,)),
        ("drop_factor", 0.0),
        ("dropout", 1.0),
        ("policy", "none"),
        ("muon_learning_rate", 0.0),
        ("muon_weight_decay", float("nan")),
        ("label_smoothing", 1.0),
        ("flip", 1.5),
        ("shift_scale_rotate", -0.1),
        ("coarse_dropout", float("nan")),
        ("plain", 1.0),
        ("crop", -1),
        ("crop", 17),
        ("color_jitter", 1.5),
        ("sides", ()),
        ("sides", (4,)),
        ("precision", "fp8"),
        ("workers", -1),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=f"'fast': {field}="):
        replace(RECIPES["fast"], **{field: value})


def test_a_name_that_no_checkpoint_could_keep_is_refused():
    with pytest.raises(InputError, match="cannot be used"):
        replace(RECIPES["fast"], name="my\trecipe")
