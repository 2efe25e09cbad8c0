r"""What a model says of real Cell Painting fields, held against what was measured in them.

    python scripts/prepare_data.py fields --input SHARED/data/jump_fields --tile_wells 256 \
        --out runs/jump_tiles
    python benchmarks/real_fields.py --model runs/quickstart --data runs/jump_tiles

Each tile is described beside the median of all tiles, and each claim verified by what was measured
there (`captions.verification`). Controls: a tile of another field in its place (all of them: the
mean over pairs, nothing is drawn), a blank image, and the tower's own reference, the controls that
it was trained with, in place of the median tile. Then, by property, how well what the tower reads
off the tiles goes with what was measured (Spearman), over all tiles and within fields.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from textwrap import fill

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from captions.descriptions import read_claims
from captions.effects import compare_with_controls, measure_effects
from captions.facts import FACT_SLOTS, MAX_FACTS, measure_facts
from captions.questions import DESCRIBE
from captions.verification import (
    CONTRADICTED,
    SUPPORTED,
    UNMEASURED,
    Measurement,
    measurements,
    not_said,
    report_verdicts,
    verify,
)
from data.files import atomic_path
from data.store import load_manifest, load_profiles, load_sites, read_pixels
from eval.claims import WEAK_EFFECT
from eval.montages import described_figure
from vlm.adapters import bare, load_model
from vlm.describe import describe
from vlm.instruct import KEY, well_readouts, well_tokens
from vlm.wells import WellBank, blank_wells, open_wells

SOURCES = ("own image", "another field's image", "blank image", "own, beside the training controls")


def main() -> None:
    """Describe, verify, print; draw with --figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart", help="run or model folder")
    parser.add_argument("--data", default="runs/jump_tiles", help="prepared tiles")
    parser.add_argument("--figure", help="PNG of some tiles, and what is said of them")
    options = parser.parse_args()
    model, processor = load_model(options.model)
    bank = open_wells(options.data, bare(model), processor)
    profiles = load_profiles(options.data, normalized=True)
    compared = compare_with_controls(profiles)
    effects = measure_effects(profiles, compared)
    by_key = measurements(measure_facts(profiles, compared), effects)
    keys = list(bank.wells[KEY].itertuples(index=False, name=None))
    measured = [by_key[key] for key in keys]
    field_of = bank.wells["Metadata_Plate"].to_numpy()

    shown = (bank, blank_wells(bank), replace(bank, control_median=None, controls=None))
    own, blank, simulated = (
        [said.text for said in describe(model, processor, well_tokens(model, wells), DESCRIBE)]
        for wells in shown
    )
    pairs = [(i, j) for i, j in product(range(len(keys)), repeat=2) if field_of[i] != field_of[j]]
    told = {
        SOURCES[0]: list(zip(own, measured, strict=True)),
        SOURCES[1]: [(own[j], measured[i]) for i, j in pairs],
        SOURCES[2]: list(zip(blank, measured, strict=True)),
        SOURCES[3]: list(zip(simulated, measured, strict=True)),
    }
    facts = sum(len(one.facts[:MAX_FACTS]) for one in measured)
    print(
        f"{load_manifest(options.data).reference}: {len(keys)} tiles of {len(set(field_of))} fields"
    )
    print(f"{sum(bool(one.facts) for one in measured)} tiles with {facts} facts to be said\n")
    judged = {source: judge(texts) for source, texts in told.items()}
    print(pd.DataFrame({source: summary(*one) for source, one in judged.items()}).T.to_string())

    claims = judged[SOURCES[0]][0]
    transfer = by_property(
        2 * np.sinh(well_readouts(model, bank)),
        effects.set_index(KEY).loc[keys].to_numpy(),
        field_of,
    )
    groups = claims.groupby("property")
    transfer["claims"] = groups.size()
    transfer["supported"] = groups["verdict"].agg(lambda own: (own == SUPPORTED).sum())
    print("\n" + transfer.fillna(0).to_string(float_format="%.2f"))
    if options.figure:
        draw(options, bank, own, measured)


def judge(told: Sequence[tuple[str, Measurement]]) -> tuple[pd.DataFrame, float, float]:
    """Verify texts.

    Returns
    -------
    claims : DataFrame
        property, verdict, along: the measured effect in the direction claimed; a row a claim.
    speaking : float
        Share of the texts that claim a change.
    spoken_of : float
        Share of the facts to be said whose subject is spoken of.
    """
    rows, speaking, missed, facts = [], 0, 0, 0
    for text, measured in told:
        said = read_claims(text)
        speaking += bool(said)
        missed += len(not_said(text, measured))
        facts += len(measured.facts[:MAX_FACTS])
        for one, verdict in zip(said, verify(text, measured) if said else (), strict=True):
            sign = 1 if one.claim.direction == "increased" else -1
            effect = np.nan if verdict.effect is None else sign * verdict.effect
            rows.append((one.claim.property, verdict.verdict, effect))
    claims = pd.DataFrame(rows, columns=["property", "verdict", "along"])
    return claims, speaking / len(told), 1 - missed / facts


def summary(claims: pd.DataFrame, speaking: float, spoken_of: float) -> dict[str, str]:
    """One row of the table."""
    row = {"speaking": f"{speaking:.2f}", "claims": str(len(claims))}
    for verdict in (SUPPORTED, CONTRADICTED, UNMEASURED):
        row[verdict] = f"{(claims['verdict'] == verdict).mean():.2f}"
    along = claims["along"].dropna()
    row["same_direction"] = f"{(along > 0).mean():.2f}"
    row["effect_2_or_more"] = f"{(along >= WEAK_EFFECT).mean():.2f}"
    return row | {"facts_spoken_of": f"{spoken_of:.2f}"}


def by_property(readouts: np.ndarray, effects: np.ndarray, field_of: np.ndarray) -> pd.DataFrame:
    """Spearman of readouts with measured effects (tiles, slots): median over a property's slots.

    Over all tiles, and within fields: both less their field's mean.
    """
    rows = []
    for slot, read, true in zip(FACT_SLOTS, readouts.T, effects.T, strict=True):
        known = np.isfinite(true)
        if not known.any():
            continue
        pair = pd.DataFrame({"read": read[known], "true": true[known]})
        within = pair - pair.groupby(field_of[known]).transform("mean")
        over = [spearmanr(one["read"], one["true"]).statistic for one in (pair, within)]
        rows.append((slot.property, *over))
    table = pd.DataFrame(rows, columns=["property", "all_tiles", "within_fields"])
    return table.groupby("property").median()


def draw(
    options: argparse.Namespace,
    bank: WellBank,
    texts: list[str],
    measured: list[Measurement],
) -> None:
    """Draw of each of the larger fields the tile with the most facts, whatever is said of it."""
    counts = pd.Series([len(one.facts) for one in measured])
    rows = counts.groupby(bank.wells["Metadata_Plate"]).idxmax()
    rows = rows[bank.wells["Metadata_Plate"].value_counts()[rows.index].to_numpy() > 1].tolist()
    sites = load_sites(options.data)
    pixels = [read_pixels(sites, bank.sites_of[row])[0] for row in rows]
    lines = []
    for row in rows:
        verdicts = report_verdicts(texts[row], measured[row], verify(texts[row], measured[row]))
        plate, well = bank.wells[KEY].iloc[row]
        lines.append(f"{plate} {well}\n{fill(texts[row], 72)}\n{verdicts}")
    drawing = described_figure(pixels, load_manifest(options.data).channels, lines)
    with atomic_path(options.figure) as path:
        drawing.savefig(path, format="png", dpi=110)
    print(f"drawn: {options.figure}")


if __name__ == "__main__":
    main()
