"""The table of published variants, and what the fields of a configuration accept."""

import dataclasses
import itertools

import pytest

from mvc.errors import UserError
from mvc.model.config import PATTERN_PRESETS, VARIANTS, attention_pattern, get_config

# From the paper and the published checkpoints, typed apart from the table: depths, heads, windows of stages 3 and 4,
# dim, stem dim, drop path, layer scale, size, crop and its mode.
PUBLISHED = {
    "T": ("1 3 8 4", "2 4 8 16", "14 7", 80, 32, 0.2, None, 224, 1.0, "center"),
    "T2": ("1 3 11 4", "2 4 8 16", "14 7", 80, 32, 0.2, None, 224, 0.98, "center"),
    "S": ("3 3 7 5", "2 4 8 16", "14 7", 96, 64, 0.2, None, 224, 0.93, "center"),
    "B": ("3 3 10 5", "2 4 8 16", "14 7", 128, 64, 0.3, 1e-5, 224, 1.0, "center"),
    "L": ("3 3 10 5", "4 8 16 32", "14 7", 196, 64, 0.3, 1e-5, 224, 1.0, "center"),
    "L2": ("3 3 12 5", "4 8 16 32", "14 7", 196, 64, 0.3, 1e-5, 224, 1.0, "center"),
    "B-21K": ("3 3 10 5", "2 4 8 16", "14 7", 128, 64, 0.3, 1e-5, 224, 1.0, "center"),
    "L-21K": ("3 3 10 5", "4 8 16 32", "14 7", 196, 64, 0.3, 1e-5, 224, 1.0, "center"),
    "L2-512-21K": ("3 3 12 5", "4 8 16 32", "32 16", 196, 64, 0.3, 1e-5, 512, 0.93, "squash"),
    "L3-256-21K": ("3 3 20 10", "4 8 16 32", "16 8", 256, 64, 0.5, 1e-5, 256, 1.0, "center"),
    "L3-512-21K": ("3 3 20 10", "4 8 16 32", "32 16", 256, 64, 0.5, 1e-5, 512, 0.93, "squash"),
}


def test_the_table_holds_the_published_variants_and_tiny():
    assert set(VARIANTS) == {*PUBLISHED, "tiny"}
    assert all(name == config.name for name, config in VARIANTS.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_facts(name):
    config = get_config(name)
    facts = (
        *(" ".join(map(str, numbers)) for numbers in (config.depths, config.num_heads, config.window_sizes)),
        *(config.dim, config.stem_dim, config.drop_path_rate, config.layer_scale),
        *(config.image_size, config.crop, config.crop_mode),
    )
    assert facts == PUBLISHED[name]
    assert (config.d_state, config.d_conv, config.mlp_ratio, config.num_classes, config.in_chans) == (8, 3, 4, 1000, 3)
    assert (config.mixer, config.attention) == ("concat", "last_half")
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["l3-512-21k", "L3-512-21K", "L3-512-21k"])
def test_names_in_any_letter_case(name):
    assert get_config(name) is not None
    assert get_config(name) == VARIANTS["L3-512-21K"]


def test_unknown_variant_names_near_ones():
    with pytest.raises(UserError, match=r"'L3-512'.*did you mean L3-512-21K"):
        get_config("L3-512")
    with pytest.raises(UserError, match=r"'qqq': The variants are T, T2, S, B,"):
        get_config("qqq")


def test_changes_leave_the_table_alone():
    config = get_config("T", num_classes=7, window_sizes=(8, 4))
    assert (config.num_classes, config.window_sizes, config.dim) == (7, (8, 4), 80)
    assert get_config(config, in_chans=1).num_classes == 7
    assert VARIANTS["T"].num_classes == 1000


def test_unknown_field():
    with pytest.raises(UserError, match="'classes'; the fields are attention, attn_drop_rate"):
        get_config("T", classes=7)


def test_frozen_and_hashable():
    config = get_config("T")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 96
    assert len({config, get_config("t"), get_config("T2")}) == 2


UNUSABLE = [
    ("dim", 0),
    ("stem_dim", -1),
    ("d_state", 0),
    ("d_conv", 0),
    ("mlp_ratio", 0),
    ("in_chans", 0),
    ("depths", (1, 2, 3)),
    ("depths", (1, 0, 2, 2)),
    ("num_heads", (1, 2)),
    ("num_heads", (1, 1, 3, 4)),
    ("num_heads", (1, 1, 2, 0)),
    ("window_sizes", (2,)),
    ("window_sizes", (0, 2)),
    ("num_classes", -1),
    ("drop_path_rate", 1.0),
    ("drop_path_rate", -0.1),
    ("drop_rate", 1.5),
    ("attn_drop_rate", float("nan")),
    ("mixer", "parallel"),
    ("crop", 0.0),
    ("crop", 1.1),
    ("crop_mode", "border"),
    ("attention", "middle_half"),
    ("attention", "MMA"),
    ("attention", "MX"),
    ("attention", "random:two"),
]


@pytest.mark.parametrize(("field", "value"), [pytest.param(*case, id=f"{case[0]}={case[1]}") for case in UNUSABLE])
def test_unusable_value_is_named(field, value):
    with pytest.raises(UserError) as caught:
        get_config("tiny", **{field: value})
    assert f"config field {field} is {value!r}; it must be " in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "even", "odd"),
    [
        ("last_half", "MMMMAAAA", "MMMMAAA"),
        ("first_half", "AAAAMMMM", "AAAMMMM"),
        ("last_quarter", "MMMMMMAA", "MMMMMMA"),
        ("alternate_ma", "MAMAMAMA", "MAMAMAM"),
        ("alternate_am", "AMAMAMAM", "AMAMAMA"),
    ],
)
def test_pattern_presets(preset, even, odd):
    assert preset in PATTERN_PRESETS
    assert attention_pattern(preset, depth=8) == even
    assert attention_pattern(preset, depth=7) == odd


@pytest.mark.parametrize("depth", [1, 2, 7, 8])
def test_random_pattern_is_of_its_seed(depth):
    patterns = [attention_pattern(f"random:{seed}", depth=depth) for seed in range(20)]
    assert patterns == [attention_pattern(f"random:{seed}", depth=depth) for seed in range(20)]
    assert {pattern.count("A") for pattern in patterns} == {depth // 2}
    assert depth < 7 or len(set(patterns)) > 5


def test_random_pattern_is_kept_between_releases():
    assert attention_pattern("random:0", depth=8, stage=2) == "AMMAAAMM"


def test_patterns_of_a_pair_go_to_stages_3_and_4():
    config = get_config("T", attention=("AMMMMMMA", "first_half"))
    assert (config.block_pattern(2), config.block_pattern(3)) == ("AMMMMMMA", "AAMM")


def test_published_attention_starts_after_the_half_rounded_up():
    assert [get_config("S").block_pattern(stage) for stage in (2, 3)] == ["MMMMAAA", "MMMAA"]


@pytest.mark.parametrize("name", ["T", "L3-256-21K"])
def test_drop_path_rises_linearly_over_all_blocks(name):
    config = get_config(name)
    by_stage = config.drop_path_rates()
    assert tuple(map(len, by_stage)) == config.depths
    rates = list(itertools.chain(*by_stage))
    assert (rates[0], rates[-1]) == (0.0, config.drop_path_rate)
    step = config.drop_path_rate / (len(rates) - 1)
    assert [after - before for before, after in itertools.pairwise(rates)] == pytest.approx([step] * (len(rates) - 1))


def test_sizes_that_follow():
    config = get_config("L")
    assert [config.channels(stage) for stage in range(4)] == [196, 392, 784, 1568]
    assert (config.inner_channels(2), config.dt_rank(2), config.dt_rank(3)) == (392, 49, 98)
    assert get_config("T", mixer="regular").inner_channels(2) == 320
    assert get_config("tiny", dim=20).dt_rank(2) == 5
