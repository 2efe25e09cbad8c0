"""Wells of a prepared store as the tower takes them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from helpers import CHANNEL_FILES, COMPOUNDS, draw_site, write_tiff_plate, write_tiny_store
from tiny import tiny_feature_size, tiny_model

import vlm.wells
from data.errors import InputError
from data.fields import field_plate
from data.normalize import MEDIAN_TILE, MEDIAN_WELL
from data.prepare import PrepareSettings, prepare
from data.store import load_sites, read_pixels, site_table
from vlm.instruct import hold_readouts, well_readouts, well_tokens
from vlm.pixels import with_pixels
from vlm.readouts import hold_against_replicates
from vlm.wells import (
    WellBank,
    blank_wells,
    encode_sites,
    fill_blanks,
    fit_reference,
    open_wells,
    wrong_controls,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Two plates: eight wells with compounds, five with guides; two sites each."""
    folder = tmp_path_factory.mktemp("wells")
    raw = write_tiff_plate(folder / "raw", "P1", "compound")
    write_tiff_plate(raw, "K1", "crispr", seed=1)
    write_tiny_store(raw, folder / "prepared", measure=False)
    return folder / "prepared"


@pytest.fixture(scope="module")
def model_and_processor():
    return tiny_model()


@pytest.fixture
def bank(store, model_and_processor) -> WellBank:
    return open_wells(store, *model_and_processor)


def test_every_well_has_the_features_of_its_own_sites(store, bank, model_and_processor):
    model, processor = model_and_processor
    assert len(bank) == 13
    assert bank.site_features.shape == (26, 5, tiny_feature_size())
    assert bank.site_features.dtype == np.float32
    sites = load_sites(store)
    table = site_table(sites)
    for row in (0, 5, 12):
        well = bank.wells.iloc[row]
        of_well = (table["Metadata_Plate"] == well["Metadata_Plate"]) & (
            table["Metadata_Well"] == well["Metadata_Well"]
        )
        pixels = read_pixels(sites, np.flatnonzero(of_well))
        pixel_values = processor(images=[pixels])["pixel_values"]
        with torch.no_grad():
            direct = model.model.vision_tower.encode_channels(pixel_values)[0].numpy()
        np.testing.assert_allclose(bank.site_features[bank.sites_of[row]], direct, atol=1e-5)


def test_a_batch_is_what_the_tower_takes(bank, model_and_processor):
    batch = bank.batch([3, 0, 12])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "channel_features": (3, 2, 5, tiny_feature_size()),
        "channel_mask": (3, 5),
        "control_features": (3, 1, 5, tiny_feature_size()),
    }
    features = batch["channel_features"].numpy()
    np.testing.assert_array_equal(features[1], bank.site_features[bank.sites_of[0]])
    model, processor = model_and_processor
    tokens = model.model.vision_tower(**batch).last_hidden_state
    assert tokens.shape == (3, processor.image_seq_length, 32)


def test_controls_are_the_median_over_the_plates_control_sites(bank):
    for row in (0, 12):
        plate = bank.wells["Metadata_Plate"][row]
        controls = bank.wells.index[
            (bank.wells["Metadata_Plate"] == plate)
            & (bank.wells["Metadata_control_type"] == "negcon")
        ]
        assert len(controls) >= 3
        sites = np.concatenate([bank.site_features[bank.sites_of[i]] for i in controls])
        found = bank.batch([row])["control_features"][0, 0].numpy()
        np.testing.assert_allclose(found, np.median(sites, axis=0), rtol=1e-6)
    assert not np.allclose(bank.control_median[0], bank.control_median[1])


def test_a_well_with_fewer_sites_repeats_its_own(bank):
    bank.sites_of[0] = np.array([4])
    bank.sites_of[1] = np.array([6, 7, 8])
    features = bank.batch([0, 1])["channel_features"].numpy()
    np.testing.assert_array_equal(features[0], bank.site_features[[4, 4, 4]])
    np.testing.assert_array_equal(features[1], bank.site_features[[6, 7, 8]])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal, also where both are NaN."""
    return torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)


def test_batches_go_through_all_wells_in_order(bank):
    parts = list(bank.batches(size=4))
    assert [len(part["channel_mask"]) for part in parts] == [4, 4, 4, 1]
    whole = bank.batch(np.arange(13))
    for name, value in whole.items():
        assert same(torch.cat([part[name] for part in parts]), value)


@pytest.mark.parametrize("as_mask", [True, False])
def test_selected_wells_keep_what_is_theirs(bank, as_mask):
    rows = np.array([2, 9, 11])
    chosen = bank.select(np.isin(np.arange(13), rows) if as_mask else rows)
    assert len(chosen) == 3
    assert chosen.wells["Metadata_Well"].tolist() == bank.wells["Metadata_Well"][rows].tolist()
    for name, value in chosen.batch([0, 1, 2]).items():
        assert same(value, bank.batch(rows)[name])


def test_wells_are_asked_for_in_words(bank):
    guides = bank.query("Metadata_Plate == 'K1' and Metadata_control_type != 'negcon'")
    assert set(guides.wells["Metadata_broad_sample"]) >= {"G-1", "G-2"}
    with pytest.raises(InputError, match="no well fits it"):
        bank.query("Metadata_Plate == 'K9'")
    for wrong in ("Metadata_Plat == 'K1'", "Metadata_Plate ==", "Metadata_Plate > 3"):
        with pytest.raises(InputError, match="query") as error:
            bank.query(wrong)
        assert "Metadata_Plate, Metadata_Well" in str(error.value)


def test_features_are_computed_once_for_what_made_them(store, monkeypatch):
    calls = []

    def counted(model, processor, sites):
        calls.append(len(sites))
        return encode_sites(model, processor, sites)

    monkeypatch.setattr(vlm.wells, "encode_sites", counted)
    model, processor = tiny_model(seed=1)
    first = open_wells(store, model, processor)
    assert calls == [16, 10]
    again = open_wells(store, model, processor)
    assert calls == [16, 10]
    np.testing.assert_array_equal(first.site_features, again.site_features)

    with torch.no_grad():  # the tower above the backbone does not matter
        model.model.vision_tower.latents += 1
    open_wells(store, model, processor)
    assert len(calls) == 2
    with torch.no_grad():
        next(model.model.vision_tower.backbone.parameters()).mul_(1.1)
    other_weights = open_wells(store, model, processor)
    assert len(calls) == 4
    assert not np.allclose(first.site_features, other_weights.site_features)
    processor.image_processor.gamma = 1.0
    open_wells(store, model, processor)
    assert len(calls) == 6


def test_a_plate_that_was_prepared_anew_is_computed_anew(tmp_path):
    model, processor = tiny_model()
    banks = []
    for seed in (0, 1):
        raw = write_tiff_plate(tmp_path / f"raw{seed}", seed=seed)
        write_tiny_store(raw, tmp_path / "prepared", measure=False)
        banks.append(open_wells(tmp_path / "prepared", model, processor))
    assert not np.allclose(banks[0].site_features, banks[1].site_features)


def test_a_black_image_is_no_image(bank):
    model, processor = tiny_model()
    fit_reference(model, bank)
    torch.nn.init.normal_(model.model.vision_tower.readout_residual.bias)
    blank = blank_wells(bank)
    assert blank.wells is bank.wells
    seen, unseen = well_readouts(model, bank), well_readouts(model, blank)
    assert (unseen == 0).all()
    assert not np.allclose(seen, unseen)
    # What a black image through the whole model gives is the same.
    pixels = [np.zeros((2, 5, 32, 32), np.uint16)]
    said = model.model.vision_tower(**processor(images=pixels))
    black = blank.batch([0]) | {"control_features": None}
    expected = model.model.vision_tower(**black).last_hidden_state
    torch.testing.assert_close(said.last_hidden_state, expected)


def test_one_black_site_is_left_out_and_a_black_channel_is_not_imaged():
    features = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    features[1, 0] = features[2:, 1] = np.nan
    wells = [np.array([0, 1]), np.array([2, 3])]
    filled = features.copy()
    assert fill_blanks(filled, wells, 2).tolist() == [[True, True], [True, False]]
    np.testing.assert_array_equal(filled[1, 0], features[0, 0])
    assert np.isnan(filled[2:, 1]).all()
    rest = ~np.isnan(features)
    np.testing.assert_array_equal(filled[rest], features[rest])


def test_a_field_without_cells_takes_those_of_the_wells_other_field():
    features = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    features[1, :, 2] = np.nan  # statistics of cells
    filled = features.copy()
    assert fill_blanks(filled, [np.array([0, 1])], 2).all()
    np.testing.assert_array_equal(filled[1, :, 2], features[0, :, 2])
    np.testing.assert_array_equal(filled[..., :2], features[..., :2])


def test_a_well_without_cells_is_as_its_controls_in_what_cells_say(model_and_processor):
    tower = model_and_processor[0].model.vision_tower
    features = torch.randn(1, 2, 5, tiny_feature_size())
    like_controls = features.clone()
    features[..., -tower.cell_statistics :] = torch.nan
    like_controls[..., -tower.cell_statistics :] = 0.5
    controls = torch.full_like(features[:, :1], 0.5)
    told = [
        tower(channel_features=one, control_features=controls).last_hidden_state
        for one in (features, like_controls)
    ]
    assert torch.isfinite(told[0]).all()
    torch.testing.assert_close(*told)


def test_sites_are_drawn_for_the_change_and_all_of_them_are_read(bank, model_and_processor):
    """What is read was measured on all sites: from a part of them it would be learnt wrong."""
    tower = model_and_processor[0].model.vision_tower.eval()
    plain = tower(**bank.batch([3]))
    changes = []
    for seed in range(8):
        batch = bank.batch([3], np.random.default_rng(seed))
        again = bank.batch([3], np.random.default_rng(seed))
        assert torch.equal(batch["site_weights"], again["site_weights"])
        assert batch["site_weights"].sum().item() == pytest.approx(1)
        found = tower(**batch)
        assert torch.equal(found.readout, plain.readout)
        changes.append(found.pooler_output)
        if batch["site_weights"][0, 0] == 1:  # the first of two, twice
            features = batch.pop("channel_features")[:, :1]
            del batch["site_weights"]
            alone = tower(**batch, channel_features=features).pooler_output
            torch.testing.assert_close(found.pooler_output, alone)
    assert any(torch.allclose(one, plain.pooler_output, atol=1e-6) for one in changes)
    assert len({tuple(one.flatten().tolist()) for one in changes}) == 3  # either twice, or each


@pytest.mark.parametrize("value", [0, 65535])
def test_a_plane_that_is_black_or_saturated_all_over_was_not_imaged(
    tmp_path, model_and_processor, value
):
    raw = write_tiff_plate(tmp_path / "raw", "P1", "compound")
    row, column = 1, int(list(COMPOUNDS)[2][1:])
    name = f"r{row:02d}c{column:02d}f*p01-{next(iter(CHANNEL_FILES))}sk1fk1fl1.tiff"
    files = sorted((raw / "images" / "P1").glob(name))
    assert len(files) == 2
    for file in files:
        tifffile.imwrite(file, np.full((96, 96), value, np.uint16))
    write_tiny_store(raw, tmp_path / "prepared", measure=False)
    bank = open_wells(tmp_path / "prepared", *model_and_processor)
    missing = np.argwhere(~bank.channel_mask)
    stain = CHANNEL_FILES[next(iter(CHANNEL_FILES))]
    assert len(missing) == 1
    well, channel = missing[0]
    assert bank.wells["Metadata_Well"][well] == list(COMPOUNDS)[2]
    assert model_and_processor[0].config.vision_config.channels[channel] == stain


def test_tokens_are_those_of_each_well_by_itself(bank, model_and_processor):
    model, processor = model_and_processor
    tokens = well_tokens(model, bank)
    assert tokens.shape == (13, processor.image_seq_length, 32)
    alone = model.model.vision_tower(**bank.batch([6])).last_hidden_state
    assert torch.allclose(tokens[6], alone[0], atol=1e-5)


def test_the_reference_is_fitted_to_the_controls(bank):
    model, _ = tiny_model()
    fit_reference(model, bank)
    controls = bank.wells["Metadata_control_type"] == "negcon"
    sites = np.concatenate([bank.sites_of[row] for row in np.flatnonzero(controls)])
    tower = model.model.vision_tower
    expected = torch.from_numpy(bank.site_features[sites]).nanmedian(dim=0).values
    assert torch.equal(tower.reference_center[tower.stain_ids], expected.nan_to_num())
    assert (tower.reference_scale > 0).all()


def test_without_controls_all_wells_are_the_reference(bank):
    model, _ = tiny_model()
    treated = bank.select((bank.wells["Metadata_control_type"] != "negcon").to_numpy())
    fit_reference(model, treated)
    sites = np.concatenate(treated.sites_of)
    tower = model.model.vision_tower
    expected = torch.from_numpy(treated.site_features[sites]).nanmedian(dim=0).values
    assert torch.equal(tower.reference_center[tower.stain_ids], expected.nan_to_num())


def test_a_channel_that_was_not_imaged_is_masked(tmp_path):
    raw = write_tiff_plate(tmp_path / "raw")
    for file in (raw / "images" / "P1").glob("*-ch1sk1fk1fl1.tiff"):
        file.unlink()
    channels = (raw / "channels.tsv").read_text().splitlines()
    kept = [line for line in channels if not line.startswith("ch1\t")]
    (raw / "channels.tsv").write_text("\n".join(kept) + "\n")
    write_tiny_store(raw, tmp_path / "prepared", measure=False)
    bank = open_wells(tmp_path / "prepared", *tiny_model())
    assert bank.batch([0])["channel_mask"].tolist() == [[True, True, True, True, False]]  # Mito


def test_other_channels_than_the_models_are_named(store):
    three = tiny_model(channels=("DNA", "Tubulin", "Actin"))
    expected = "holds the channels DNA, ER, RNA, AGP, Mito; the model expects DNA, Tubulin, Actin"
    with pytest.raises(InputError, match=expected):
        open_wells(store, *three)


def test_a_folder_that_is_no_store_is_named(tmp_path, model_and_processor):
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        open_wells(tmp_path, *model_and_processor)


def write_tiles(folder: Path, reference: str) -> Path:
    """Two fields of nine tiles, the second one without ER and Mito."""
    rng = np.random.default_rng(0)
    pixels = [draw_site(rng, size=96, cells=16) for _ in range(2)]
    stains = list(CHANNEL_FILES.values())
    plates = [
        field_plate(pixels[0], stains, "five", tile=32),
        field_plate(pixels[1][[4, 2, 1]], ["DNA", "RNA", "AGP"], "three", tile=32),
    ]
    settings = PrepareSettings(size=32, processes=1, measure=False)
    prepare(plates, folder, settings, source="fields", reference=reference)
    return folder


def test_tiles_are_seen_beside_the_median_tile_whatever_the_tower_was_fitted_to(tmp_path):
    model, processor = tiny_model()
    bank = open_wells(write_tiles(tmp_path, MEDIAN_TILE), model, processor)
    expected = np.nanmedian(bank.site_features, axis=0)
    for channel in (1, 4):  # ER and Mito: of the field that has them
        expected[channel] = np.nanmedian(bank.site_features[:9, channel], axis=0)
        assert expected[channel].any()
    alone = bank.query("Metadata_Plate == 'three'")
    found = alone.batch([0, 5])["control_features"].numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 1, *expected.shape)))
    torch.testing.assert_close(well_tokens(model, bank)[9:], well_tokens(model, alone))
    with pytest.raises(InputError, match="there are those of 1"):
        wrong_controls(bank)
    drawn = with_pixels(alone, tmp_path, processor, 1, 4).batch([0, 1])["control_rows"]
    assert drawn.shape == (2, 4)


def test_readouts_of_tiles_are_held_against_their_fields_other_tiles(tmp_path):
    model, processor = tiny_model()
    torch.nn.init.normal_(model.model.vision_tower.linear_maps, std=3.0)
    bank = open_wells(write_tiles(tmp_path, MEDIAN_TILE), model, processor)
    readouts = torch.from_numpy(well_readouts(model, bank))
    field_of = torch.arange(18) // 9
    held = hold_readouts(model, bank, readouts)
    torch.testing.assert_close(held, hold_against_replicates(readouts, readouts, field_of))
    assert not torch.allclose(held, readouts)


def test_a_median_well_is_the_towers_own_reference(tmp_path):
    model, processor = tiny_model()
    bank = open_wells(write_tiles(tmp_path, MEDIAN_WELL), model, processor)
    assert bank.control_median is None and bank.controls is None
    five = bank.query("Metadata_Plate == 'five'")  # an odd number of sites: one is the median
    fit_reference(model, five)
    beside = five.batch(np.arange(9)) | {
        "control_features": torch.from_numpy(five.site_features[None, :9])
        .nanmedian(dim=1, keepdim=True)
        .values
    }
    beside["control_features"] = beside["control_features"].expand(9, -1, -1, -1)
    said = model.model.vision_tower(**beside).last_hidden_state
    torch.testing.assert_close(well_tokens(model, five), said)
