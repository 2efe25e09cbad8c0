"""Wells compared by what is said of them."""

from hypothesis import given
from hypothesis import strategies as st

from captions.comparison import compare, overlap
from captions.descriptions import NO_CHANGE
from captions.questions import NOTHING_IMAGED

DIM, DIM_AND_BIG, BRIGHT = (
    "Mito: dimmer.",
    "Mito: dimmer. Nuclei: clearly larger.",
    "Mito: brighter.",
)


def test_two_wells():
    assert compare({"A01": DIM, "A02": DIM_AND_BIG}).splitlines() == [
        "All: Mito dimmer.",
        "Only A02: Nuclei clearly larger.",
        "A01 and A02 act alike: 50% of claims are shared.",
    ]
    assert compare({"A01": DIM, "A02": BRIGHT}).splitlines() == [
        "All: nothing in common.",
        "Only A01: Mito dimmer.",
        "Only A02: Mito brighter.",
        "A01 and A02 do not act alike: 0% of claims are shared.",
    ]
    unchanged = compare({"A01": NO_CHANGE, "A02": NO_CHANGE})
    assert unchanged.endswith("A01 and A02 act alike: 100% of claims are shared.")
    assert unchanged.startswith(f"All: {NO_CHANGE}\n")
    assert f"A01: {NO_CHANGE}" in compare({"A01": NO_CHANGE, "A02": DIM})


def test_the_odd_one_out():
    found = compare({"A01": DIM, "A02": DIM, "A03": BRIGHT})
    assert found.endswith("Not like the others: A03 (0% of claims shared, on average).")
    assert compare({"A01": DIM, "A02": DIM, "A03": DIM}).splitlines() == [
        "All: Mito dimmer.",
        "All act alike: any two share 100% of claims or more.",
        "None stands out.",
    ]
    # Two of three show it: it is not the only one's.
    assert found.splitlines()[:4] == [
        "All: nothing in common.",
        "A01 also: Mito dimmer.",
        "A02 also: Mito dimmer.",
        "A03 also: Mito brighter.",
    ]
    assert "Not all act alike: A01 and A03 share 0% of claims." in found


def test_a_well_without_an_image_is_not_called_unchanged():
    assert compare({"A01": DIM, "A02": NOTHING_IMAGED}).splitlines() == [
        "A02: Nothing was imaged.",
        "There are no two wells to compare.",
    ]
    three = compare({"A01": DIM, "A02": NOTHING_IMAGED, "A03": DIM})
    assert three.startswith("A02: Nothing was imaged.\nAll: Mito dimmer.\nA01 and A03 act alike")


@given(
    st.lists(st.sampled_from([DIM, DIM_AND_BIG, BRIGHT, NO_CHANGE, "?"]), min_size=2, max_size=5)
)
def test_overlap_is_symmetric_and_of_oneself_whole(texts):
    for one in texts:
        assert overlap(one, one) == 1.0
        for other in texts:
            assert overlap(one, other) == overlap(other, one)
    assert compare({f"A{i:02d}": text for i, text in enumerate(texts)})
