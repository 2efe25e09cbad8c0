"""What the simulated perturbations do to cells: targets, reagents and effects in one table.

SIMULATED, but not invented: each row is the textbook effect of inhibiting (or knocking out) that
target, in arbitrary units where 1 is as strong as the effect gets. The names of compounds and
genes are real; their numbers are illustrations and no measurement.
"""

from dataclasses import dataclass

AXES = (
    "nucleus_size",
    "nucleus_irregularity",
    "dna_intensity",
    "dna_condensation",
    "cell_size",
    "cell_rounding",
    "cell_count",
    "er_intensity",
    "er_perinuclear",
    "rna_intensity",
    "nucleoli",
    "agp_intensity",
    "golgi_dispersal",
    "actin_bundles",
    "mito_intensity",
    "mito_fragmentation",
)
"""The ways in which a simulated cell can change; the renderer understands these words."""


@dataclass(frozen=True)
class Target:
    """A gene, what its loss does to cells, and the compounds that inhibit it.

    Attributes
    ----------
    gene : str
    effects : dict
        Axis to effect of inhibition.
    compounds : tuple of str
        Real inhibitors; the simulator makes the first strong, the second medium, the third weak.
    reason : str
        The textbook in one line.
    orf_mimics : bool
        True where the over-expressed gene acts like its loss (dominant negative), False where it
        acts the opposite way.
    """

    gene: str
    effects: dict[str, float]
    compounds: tuple[str, str, str]
    reason: str
    orf_mimics: bool = True


# Neighbours share axes on purpose: a target that was held out is a new combination of effects that
# other targets show, and some (AURKA and AURKB, MTOR and PIK3CA, TOP1 and TOP2A) are hard to tell
# apart.
TARGETS = (
    Target(
        "TUBB",
        dict(
            cell_rounding=0.7,
            nucleus_irregularity=0.9,
            dna_condensation=0.5,
            cell_count=-0.5,
            mito_fragmentation=0.5,
            golgi_dispersal=0.6,
        ),
        ("nocodazole", "vinblastine", "colchicine"),
        "without microtubules the spindle fails, nuclei fragment, Golgi and mitochondria scatter",
    ),
    Target(
        "KIF11",
        dict(cell_rounding=0.9, dna_condensation=1.0, cell_count=-0.7, dna_intensity=0.4),
        ("ispinesib", "filanesib", "monastrol"),
        "the Eg5 motor separates spindle poles: cells arrest round in mitosis (monopolar spindles)",
    ),
    Target(
        "AURKB",
        dict(
            nucleus_size=1.0,
            dna_intensity=0.8,
            nucleus_irregularity=0.6,
            cell_size=0.7,
            cell_count=-0.6,
        ),
        ("barasertib", "hesperadin", "ZM-447439"),
        "cytokinesis fails: large, lobed, polyploid nuclei in large cells",
    ),
    Target(
        "AURKA",
        dict(
            nucleus_size=0.6,
            dna_intensity=0.8,
            dna_condensation=0.5,
            cell_rounding=0.3,
            cell_count=-0.5,
        ),
        ("alisertib", "tozasertib", "MLN8054"),
        "delayed mitosis, then polyploidy; much like AURKB with more mitotic cells",
    ),
    Target(
        "CDK1",
        dict(
            nucleus_size=0.6,
            dna_intensity=0.6,
            dna_condensation=-0.5,
            cell_count=-0.7,
            nucleoli=-0.4,
        ),
        ("dinaciclib", "alvocidib", "Ro-3306"),
        "arrest at G2: doubled DNA, no mitoses, fewer cells",
    ),
    Target(
        "TOP2A",
        dict(
            nucleus_size=0.9,
            nucleus_irregularity=0.5,
            dna_condensation=-0.6,
            cell_size=0.6,
            cell_count=-0.7,
        ),
        ("doxorubicin", "etoposide", "teniposide"),
        "double strand breaks, arrest at G2: large uneven nuclei in large flat cells",
    ),
    Target(
        "TOP1",
        dict(nucleus_size=0.7, nucleoli=-0.8, cell_size=0.5, cell_count=-0.6, rna_intensity=-0.3),
        ("camptothecin", "topotecan", "irinotecan"),
        "breaks during replication and transcription: large nuclei, nucleoli fall apart",
    ),
    Target(
        "POLR1A",
        dict(nucleoli=-1.0, rna_intensity=-0.6, nucleus_size=-0.4, dna_condensation=0.3),
        ("dactinomycin", "CX-5461", "BMH-21"),
        "no ribosomal RNA: nucleoli shrink and the RNA stain fades",
    ),
    Target(
        "BRD4",
        dict(
            nucleoli=-0.5, rna_intensity=-0.5, nucleus_size=-0.5, cell_size=0.4, agp_intensity=0.4
        ),
        ("OTX015", "JQ1-(+)", "I-BET-762"),
        "transcription of growth genes falls: smaller nuclei, less RNA, flatter cells",
    ),
    Target(
        "RPL3",
        dict(
            rna_intensity=-0.7, er_intensity=-0.5, cell_size=-0.4, nucleoli=0.6, agp_intensity=-0.4
        ),
        ("homoharringtonine", "cycloheximide", "anisomycin"),
        "no translation: less protein in the ER, smaller cells, rounded bright nucleoli",
    ),
    Target(
        "XPO1",
        dict(nucleoli=0.9, cell_size=-0.4, nucleus_size=0.4, cell_rounding=0.4, cell_count=-0.4),
        ("selinexor", "verdinexor", "leptomycin-b"),
        "nuclear export stops: RNA and ribosomal particles pile up in the nucleus",
    ),
    Target(
        "HDAC1",
        dict(
            dna_condensation=-0.8,
            nucleus_size=0.5,
            cell_size=0.6,
            actin_bundles=0.7,
            cell_count=-0.3,
        ),
        ("romidepsin", "vorinostat", "entinostat"),
        "open chromatin: smooth large nuclei, flat cells with stress fibres",
    ),
    Target(
        "MTOR",
        dict(cell_size=-0.9, nucleus_size=-0.5, rna_intensity=-0.5, nucleoli=-0.5),
        ("torin-1", "AZD8055", "sirolimus"),
        "growth stops: small cells with few ribosomes",
        orf_mimics=False,
    ),
    Target(
        "PIK3CA",
        dict(cell_size=-0.7, rna_intensity=-0.4, actin_bundles=-0.6, mito_intensity=-0.3),
        ("alpelisib", "buparlisib", "pictilisib"),
        "upstream of MTOR: small cells, and fewer actin ruffles",
        orf_mimics=False,
    ),
    Target(
        "NDUFS1",
        dict(mito_intensity=-0.9, mito_fragmentation=0.7, cell_size=-0.3),
        ("rotenone", "piericidin-a", "deguelin"),
        "no complex I: the potential that draws the mitochondrial dye falls, mitochondria fragment",
    ),
    Target(
        "DPAGT1",
        dict(er_intensity=0.9, er_perinuclear=0.7, agp_intensity=-0.5, cell_rounding=0.3),
        ("tunicamycin", "streptovirudin", "amphomycin"),
        "no N-glycans: ER stress widens the ER, and lectin (the P in AGP) finds less to bind",
    ),
    Target(
        "PSMB5",
        dict(
            er_perinuclear=0.8,
            cell_rounding=0.6,
            nucleoli=0.5,
            cell_count=-0.7,
            mito_fragmentation=0.3,
        ),
        ("bortezomib", "carfilzomib", "MG-132"),
        "proteins pile up beside the nucleus (aggresome), ER stress, cells round up and die",
    ),
    Target(
        "HSP90AA1",
        dict(
            er_perinuclear=0.5,
            mito_fragmentation=0.6,
            actin_bundles=-0.5,
            cell_count=-0.5,
            cell_rounding=-0.5,
        ),
        ("ganetespib", "tanespimycin", "luminespib"),
        "clients unfold: thin spindly cells, mitochondria gather at the nucleus",
    ),
    Target(
        "HMGCR",
        dict(actin_bundles=-0.8, cell_rounding=-0.8, er_intensity=0.7),
        ("simvastatin", "fluvastatin", "lovastatin"),
        "Rho loses its lipid anchor: thin elongated cells; the enzyme's ER (crystalloid) grows",
        orf_mimics=False,
    ),
    Target(
        "ACTB",
        dict(actin_bundles=-1.0, cell_size=-0.5, cell_rounding=0.4, agp_intensity=0.5),
        ("cytochalasin-d", "latrunculin-B", "latrunculin-a"),
        "no filaments: fibres vanish, the cell contracts and actin clumps",
    ),
    Target(
        "ROCK1",
        dict(actin_bundles=-0.7, cell_size=0.5, cell_rounding=-0.6, nucleus_irregularity=0.3),
        ("Y-27632", "fasudil", "ripasudil"),
        "no contraction: stress fibres dissolve and cells spread with long tails",
        orf_mimics=False,
    ),
    Target(
        "GBF1",
        dict(golgi_dispersal=1.0, agp_intensity=-0.4, er_intensity=0.6, er_perinuclear=0.3),
        ("brefeldin-A", "golgicide-A", "exo-2"),
        "no ARF1 activation: the Golgi falls back into the ER",
    ),
    Target(
        "ATP6V1A",
        dict(golgi_dispersal=0.6, agp_intensity=0.8, mito_intensity=-0.4, er_intensity=-0.3),
        ("bafilomycin-a1", "concanamycin-a", "archazolid-a"),
        "organelles lose their acid: swollen bright vesicles through the cytoplasm",
    ),
    Target(
        "FASN",
        dict(agp_intensity=-0.7, er_intensity=-0.6, mito_intensity=0.6, cell_count=-0.3),
        ("GSK2194069", "cerulenin", "orlistat"),
        "fewer lipids for membranes, and mitochondria burn what is left",
    ),
)

OFF_TARGETS = {
    "general stress": dict(rna_intensity=-0.6, er_perinuclear=0.6, cell_count=-0.5),
    "vacuoles": dict(golgi_dispersal=0.7, agp_intensity=0.6, mito_intensity=-0.4),
    "DNA damage": dict(nucleus_size=0.7, nucleoli=-0.5, cell_count=-0.5),
    "cytostasis": dict(cell_size=0.7, cell_count=-0.6, actin_bundles=0.4),
}
"""What reagents do beside their target: each mixes these programmes, turned up or down, in its own
way, so that reagents of unlike targets can look alike."""

INACTIVE_COMPOUNDS = (
    "fexofenadine",
    "famotidine",
    "gabapentin",
    "levetiracetam",
    "sucralose",
    "lactulose",
    "acamprosate",
    "cromoglicic-acid",
    "cetirizine",
    "amoxicillin",
)
"""Drugs and sweeteners that leave the shape of cultured cells alone."""

INACTIVE_GENES = (
    "OR1A1",
    "OR2B6",
    "OR4D6",
    "OR5P3",
    "OR10G4",
    "OR51E1",
    "TAS2R10",
    "TAS2R14",
    "TAS2R38",
    "CRYGD",
    "CRYBB3",
    "KRT76",
    "KRT81",
    "DEFB118",
    "PRM1",
    "AMELX",
)
"""Smell, taste, lens, hair, sperm and enamel: genes that U2OS cells do not express."""

SMILES = {
    "nocodazole": "COC(=O)Nc1nc2cc(ccc2[nH]1)C(=O)c1cccs1",
    "camptothecin": "CCC1(O)C(=O)OCC2=C1C=C1N(CC3=CC4=CC=CC=C4N=C13)C2=O",
    "vorinostat": "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
    "entinostat": "Nc1ccccc1NC(=O)c1ccc(CNC(=O)OCc2cccnc2)cc1",
    "bortezomib": "CC(C)CC(NC(=O)C(Cc1ccccc1)NC(=O)c1cnccn1)B(O)O",
    "MG-132": "CC(C)CC(NC(=O)C(CC(C)C)NC(=O)C(CC(C)C)NC(=O)OCc1ccccc1)C=O",
    "fasudil": "O=S(=O)(N1CCCNCC1)c1cccc2cnccc12",
    "Y-27632": "CC(N)C1CCC(CC1)C(=O)Nc1ccncc1",
    "simvastatin": "CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
    "lovastatin": "CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
    "cycloheximide": "CC1CC(C)C(=O)C(C1)C(O)CC1CC(=O)NC(=O)C1",
    "anisomycin": "COc1ccc(CC2NCC(O)C2OC(C)=O)cc1",
    "brefeldin-A": "CC1CCCC=CC2CC(O)CC2C(O)C=CC(=O)O1",
    "buparlisib": "Nc1cc(c(cn1)-c1cc(nc(n1)N1CCOCC1)N1CCOCC1)C(F)(F)F",
    "monastrol": "CCOC(=O)C1=C(C)NC(=S)NC1c1cccc(O)c1",
    "gabapentin": "NCC1(CC(O)=O)CCCCC1",
    "levetiracetam": "CCC(N1CCCC1=O)C(N)=O",
    "acamprosate": "CC(=O)NCCCS(O)(=O)=O",
}
"""Structures without stereochemistry, where they are beyond doubt; other compounds have none."""

HELD_OUT_TARGETS = ("AURKA", "TOP1", "BRD4", "XPO1", "PIK3CA", "HSP90AA1", "GBF1", "ATP6V1A")
"""Targets that the quickstart keeps for the test. Each of their effects, with its sign, is also an
effect of a training target; the combinations are new."""
