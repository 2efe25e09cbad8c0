"""Single fields: real ones of three microscopes, a missing stain, and faults by name."""

from pathlib import Path

import numpy as np
import pytest
from helpers import CHANNEL_FILES, draw_site
from PIL import Image

from data.channels import CHANNELS
from data.errors import InputError
from data.fields import cut_wells, field_plate, prepare_field, read_fields
from data.normalize import MEDIAN_TILE, NO_REFERENCE, feature_columns
from data.prepare import PrepareSettings, prepare
from data.site import BRIGHT
from data.store import load_manifest, load_profiles, load_sites, load_wells, read_pixels

STAINS = list(CHANNEL_FILES.values())


def test_a_field_is_scaled_by_itself(tmp_path: Path) -> None:
    pixels = draw_site(np.random.default_rng(0))
    manifest = prepare_field(pixels, STAINS, tmp_path, name="mine", size=48)
    assert manifest.reference == "none (single field)"
    assert manifest.plates["mine"]["channels_present"] == [True] * 5
    (stored,) = read_pixels(load_sites(tmp_path), [0])
    assert (stored.max(axis=(1, 2)) < 1.2 * BRIGHT).all()
    assert (stored.max(axis=(1, 2)) > 0.7 * BRIGHT).all()
    dna = pixels[STAINS.index("DNA")].astype(float).reshape(48, 2, 48, 2).mean(axis=(1, 3))
    assert np.corrcoef(stored[CHANNELS.index("DNA")].ravel(), dna.ravel())[0, 1] > 0.999
    normalized = load_profiles(tmp_path, normalized=True)
    assert (normalized[feature_columns(normalized)] == 0).all(axis=None)
    assert load_wells(tmp_path).loc[0, "Metadata_broad_sample"] == "mine"


def test_missing_and_further_stains(tmp_path: Path) -> None:
    pixels = draw_site(np.random.default_rng(0))[:, 8:-8]  # and not square
    manifest = prepare_field(pixels[[4, 1]], ["DNA", "Actin"], tmp_path, size=40, measure=False)
    assert manifest.channels == [*CHANNELS, "Actin"]
    assert manifest.plates["field"]["channels_present"] == [True, *[False] * 4, True]
    (stored,) = read_pixels(load_sites(tmp_path), [0])
    assert stored.any(axis=(1, 2)).tolist() == [True, *[False] * 4, True]


def test_plates_of_other_stains_are_prepared_apart(tmp_path: Path) -> None:
    pixels = draw_site(np.random.default_rng(0))[:2]
    plates = [
        field_plate(pixels, ["DNA", "ER"], "one"),
        field_plate(pixels, ["DNA", "Actin"], "two"),
    ]
    with pytest.raises(InputError, match=r"plate two has the stains .*Actin, plate one has DNA"):
        prepare(plates, tmp_path, PrepareSettings(size=48), source="fields", reference=NO_REFERENCE)


def test_tiles_lie_around_the_centre_and_each_is_a_well() -> None:
    pixels = np.arange(2 * 70 * 100, dtype=np.uint16).reshape(2, 70, 100)
    tiles = cut_wells(pixels, 32, "mine")
    assert list(tiles) == ["A01", "A02", "A03", "B01", "B02", "B03"]
    names = np.array(list(tiles)).reshape(2, 3)
    whole = np.block([[tiles[name] for name in row] for row in names.tolist()])
    np.testing.assert_array_equal(whole, pixels[:, 3:67, 2:98])
    for tile in (71, 2):
        with pytest.raises(InputError, match=f"field mine of 70 x 100 pixels has .* of {tile}"):
            cut_wells(pixels, tile, "mine")
    plate = field_plate(pixels, ["DNA", "ER"], "mine", tile=32)
    assert plate.wells["Metadata_Well"].tolist() == list(tiles)
    assert set(plate.wells["Metadata_broad_sample"]) == {"mine"}  # replicates of each other
    np.testing.assert_array_equal(plate.read(plate.sites[4])[:2], tiles["B02"])


def test_tiles_are_compared_with_the_median_tile_each_field_on_its_own_scale(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    fields = [draw_site(rng, size=192, cells=36) for _ in range(2)]
    three = [STAINS.index(stain) for stain in ("DNA", "RNA", "AGP")]
    plates = [
        field_plate(fields[0], STAINS, "five", tile=64),
        field_plate(fields[1][three] // 8, [STAINS[i] for i in three], "three", tile=64),
    ]
    settings = PrepareSettings(size=48, processes=1)
    manifest = prepare(plates, tmp_path, settings, source="fields", reference=MEDIAN_TILE)
    assert manifest.reference.startswith("data set's median tile")
    assert [record["wells"] for record in manifest.plates.values()] == [9, 9]
    stored = read_pixels(load_sites(tmp_path), range(18)).reshape(2, 9, 5, 48, 48)
    ends = np.percentile(stored[:, :, CHANNELS.index("DNA")], 99, axis=(1, 2, 3))
    assert 0.8 < ends[0] / ends[1] < 1.25  # the second camera counted an eighth
    normalized = load_profiles(tmp_path, normalized=True)
    lacks = normalized["Metadata_Plate"] == "three"
    mito = normalized["Cells_Intensity_MeanIntensity_Mito"]
    assert mito[lacks].isna().all() and mito[~lacks].notna().all()
    features = normalized[feature_columns(normalized)]
    np.testing.assert_allclose(features.median(), 0, atol=1e-9)
    assert (features["Cells_AreaShape_Area"].abs() > 0.1).any()


def test_faults_are_named(tmp_path: Path) -> None:
    pixels = draw_site(np.random.default_rng(0))
    for bad, stains, complaint in (
        (pixels, ["DNA"], r"expected unsigned pixels \(1, H, W\), found uint16 of shape \(5,"),
        (pixels / 2, STAINS, "found float64"),
        (pixels, [*STAINS[:4], "Nile"], "unknown stain 'Nile'"),
        (pixels, [*STAINS[:4], "Mito"], "a stain is given twice"),
    ):
        with pytest.raises(InputError, match=complaint):
            prepare_field(bad, stains, tmp_path / "out")
    with pytest.raises(InputError, match="no folders with one TIFF a stain"):
        read_fields(tmp_path)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "a/dna.tiff")
    Image.fromarray(pixels[0, :50]).save(tmp_path / "a/er.tif")
    with pytest.raises(InputError, match=r"er\.tif: size is \(50, 96\), expected \(96, 96\)"):
        read_fields(tmp_path)


def test_real_fields(shared: Path, tmp_path: Path) -> None:
    plates = {plate.barcode: plate for plate in read_fields(shared / "jump_fields")}
    assert set(plates) == {
        "BR00117006_A01_three_channels", "BR00117035_A01", "cdrp_bio_field",
        "rab30_orf_crispr_1", "rab30_orf_crispr_2", "source9_A03",
    }  # fmt: skip
    for name, plate in plates.items():
        expected = (True, False, True, True, False) if "three" in name else (True,) * 5
        assert plate.channels_present == expected
    # The origin's printed order is AGP, DNA, ER, Mito, RNA; DNA is the plane with the most contrast
    # between nuclei and the rest.
    stack = np.load(shared / "jump_fields/rab30_orf_crispr/images.npy")
    plate = plates["rab30_orf_crispr_2"]
    pixels = plate.read(plate.sites[0])
    np.testing.assert_array_equal(pixels[CHANNELS.index("DNA")], stack[1, 1])
    np.testing.assert_array_equal(pixels[CHANNELS.index("Mito")], stack[1, 3])
    tiled = read_fields(shared / "jump_fields", tile=256)
    assert [len(plate.wells) for plate in tiled] == [16, 16, 4, 1, 1, 16]
    assert not any(site.nuclei for plate in tiled for site in plate.sites)
    cdrp = plates["cdrp_bio_field"]
    old = cdrp.read(cdrp.sites[0])  # an ImageXpress of 2011: another shape, 12 bits
    assert old.shape == (5, 520, 696) and old.min() > 0 and old.max() == 4095
    prepare_field(old, CHANNELS, tmp_path / "cdrp", size=128)
    stored = read_pixels(load_sites(tmp_path / "cdrp"), [0])[0]
    assert stored.shape == (5, 128, 128)
    assert (np.percentile(stored, 99, axis=(1, 2)) > 4095).all()  # the whole scale is used
    prepare_field(pixels, CHANNELS, tmp_path / "rab30", size=128)
    assert load_manifest(tmp_path / "rab30").features["kept"] > 100
    assert load_profiles(tmp_path / "rab30", normalized=False).loc[0, "Image_Count_Nuclei"] >= 2


def test_tiles_are_for_fields_and_not_too_small(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    from prepare_data import PrepareConfig, read_source

    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((96, 64), np.uint16)).save(tmp_path / "a/dna.tiff")
    chosen = {"input": str(tmp_path), "tile_wells": 32}
    (plate,), reference = read_source(PrepareConfig("fields", **chosen))  # type: ignore[arg-type]
    assert len(plate.wells) == 6 and reference == MEDIAN_TILE
    for source, tile in (("bbbc021", 32), ("fields", 31)):
        with pytest.raises(InputError, match=f"--tile_wells is {tile}, expected 32 or more"):
            read_source(PrepareConfig(source, input=str(tmp_path), tile_wells=tile))
