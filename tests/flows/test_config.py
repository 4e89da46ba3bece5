"""A configuration is right, or every mistake in it is one line that names the place."""

import pathlib

import pytest

from flows.config import (
    ConfigError,
    apply_settings,
    check_inputs,
    load_config,
    parse_config,
)

DEPLOYMENTS = pathlib.Path(__file__).parents[2] / "deployments"
SMALLEST = {"workspace": "w", "data": {"photos": "p"}}


def problems(tables) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", sorted(DEPLOYMENTS.glob("*.toml")), ids=lambda path: path.name)
def test_every_profile_that_ships_is_valid(path):
    assert load_config(path).workspace.startswith("workspaces/")


def test_only_the_workspace_and_the_photographs_have_no_default():
    config = parse_config(SMALLEST)
    assert config.preprocess.size == 256
    assert config.training.schedule == ((550, 1e-3), (350, 2e-4), (495, 5e-5))
    assert config.training.composition == (8, 1, 2, 1, 4)
    assert parse_config(config.tables | {"model": {}}) == config


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_as_windows_writes_it_is_read(tmp_path, encoding):
    path = tmp_path / "windows.toml"
    path.write_bytes('workspace = "w"\r\n[data]\r\nphotos = "D:/Bilder/Größe"\r\n'.encode(encoding))
    assert load_config(path).data.photos == "D:/Bilder/Größe"


def test_a_file_in_another_encoding_is_told(tmp_path):
    path = tmp_path / "windows.toml"
    path.write_bytes('workspace = "Größe"\r\n'.encode("cp1252"))
    with pytest.raises(
        ConfigError, match=r"windows.toml: neither UTF-8 nor UTF-16; save it as UTF-8"
    ):
        load_config(path)


def test_an_unknown_key_is_named_with_the_one_that_was_meant():
    assert problems(SMALLEST | {"preprocess": {"sizes": 3}}) == [
        "configuration: unknown key preprocess.sizes; did you mean preprocess.size?"
    ]
    assert "unknown key foo" in problems(SMALLEST | {"foo": 1})[0]


def test_a_missing_key_says_how_to_give_it():
    assert problems({"workspace": "w"}) == [
        "configuration: data is missing; give it in the file or with --set data=…"
    ]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("preprocess", "size", "256"),  # a string never becomes a number
        ("preprocess", "size", 256.5),
        ("model", "dense", 3),
        ("training", "augment", 1),
        ("attribution", "layers", [1]),
        ("model", "backbone", "resnet"),
    ],
)
def test_a_wrong_type_is_named_with_its_place_and_value(section, key, value):
    line, *_ = problems(SMALLEST | {section: {key: value}})
    assert f"{section}.{key}" in line


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "batch_size", 17),
        ("data", "limit", -1),
        ("attribution", "tolerance", 2.0),
        ("attribution", "quantities", ["stage7"]),
        ("counterfactuals", "target_stage", 5),
        ("storage", "shard_images", 0),
        ("schedule", "cron", "daily"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(section, key, value):
    lines = problems({**SMALLEST, section: {**SMALLEST.get(section, {}), key: value}})
    assert len(lines) == 1
    assert lines[0].startswith(f"configuration: {section}")


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("training", "label_smoothing", 1.0, " must be at least 0 and below 1, not 1.0"),
        ("training", "loss", "hinge", " must be crossentropy or ordinal, not 'hinge'"),
        ("training", "clip_norm", float("inf"), " must be at least 0 (0: no limit), not inf"),
        ("model", "dense", [64, 0], ".1 must be at least 1 (units of a layer), not 0"),
        ("dask", "workers", -1, " must be at least 0 (0: one a core), not -1"),
        ("dask", "gpus", 1.5, ' must be "auto", or a number (0: none), not 1.5'),
        ("model", "backend", "torch", " must be tensorflow or jax, not 'torch'"),
        (
            "attribution",
            "lesion_poses",
            3,
            " must be 0, 1, 2, 4 or 8 (0: no lesion map), not 3",
        ),
        ("preprocess", "size", 8, " must be from 16 to 4096 (pixels), not 8"),
    ],
)
def test_a_value_out_of_its_range_is_told_with_the_key_the_range_and_what_it_is(
    section, key, value, line
):
    assert problems(SMALLEST | {section: {key: value}}) == [f"configuration: {section}.{key}{line}"]


def test_several_mistakes_are_all_told_at_once():
    lines = problems(
        SMALLEST
        | {"preprocess": {"size": "a", "crop": -1}, "training": {"seed": "b", "prefetch": 0}}
    )
    assert [line.split()[1] for line in lines] == [
        "preprocess.size",
        "preprocess.crop",
        "training.seed",
        "training.prefetch",
    ]


def test_what_follows_from_another_setting_cannot_be_set():
    assert "follows preprocess.size" in problems(SMALLEST | {"model": {"input_size": 128}})[0]
    assert parse_config(SMALLEST | {"preprocess": {"size": 96}}).model.input_size == 96


def test_an_unknown_key_hides_no_other_mistake():
    lines = problems(
        SMALLEST | {"preprocess": {"sizes": 3, "crop": -1}, "training": {"last_stair": "flat"}}
    )
    assert lines == [
        "configuration: preprocess.crop must be at least 0 and below 1 (a fraction of the radius), not -1",
        "configuration: unknown key preprocess.sizes; did you mean preprocess.size?",
        "configuration: training.last_stair cannot be set: it is called training.final_decay now",
    ]


def test_a_section_written_as_a_value_is_explained():
    assert "write [data] and its keys under it" in problems({"workspace": "w", "data": 3})[0]


def test_settings_are_toml_or_plain_text():
    tables = apply_settings(
        SMALLEST,
        [
            "data.limit=5",
            "workspace=a b/c",
            "training.schedule=[[2, 1e-3]]",
            "training.augment=false",
        ],
    )
    config = parse_config(tables)
    assert (config.data.limit, config.workspace) == (5, "a b/c")
    assert (config.training.schedule, config.training.augment) == (((2, 1e-3),), False)
    assert "limit" not in SMALLEST["data"], "the tables given are not changed"


@pytest.mark.parametrize(
    "setting", ["data.limit", "=3", ".limit=3", "data..limit=3", "workspace.x=3"]
)
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(ConfigError, match="--set"):
        apply_settings(SMALLEST, [setting])


def test_a_file_that_is_missing_or_not_toml_is_one_line(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("workspace = ")
    for path in (tmp_path / "none.toml", tmp_path, broken):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert len(str(caught.value).splitlines()) == 1


def test_missing_photographs_and_weights_are_found_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"is not there: set data\.photos to the folder or zip"):
        check_inputs(parse_config({"workspace": "w", "data": {"photos": str(tmp_path / "none")}}))
    tables = {
        "workspace": "w",
        "data": {"photos": str(tmp_path)},
        "model": {"backbone_weights": str(tmp_path / "none.h5")},
    }
    with pytest.raises(ConfigError, match=r"model\.backbone_weights"):
        check_inputs(parse_config(tables))
