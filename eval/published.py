"""CellProfiler's published fractions retrieved in CPJUMP1, to set beside one's own.

Chandrasekaran et al. 2024, doi 10.1038/s41592-024-02241-6; the tables printed by
benchmark/1.0.calculate-map-cp.ipynb at commit 4fc61dba of its repository (CC0).
"""

import io

import pandas as pd

_TABLE = """task,modality,cell,time,published
activity,compound,A549,24,0.761
activity,compound,A549,48,0.954
activity,compound,U2OS,24,0.775
activity,compound,U2OS,48,0.660
activity,crispr,A549,96,0.682
activity,crispr,A549,144,0.679
activity,crispr,U2OS,96,0.669
activity,crispr,U2OS,144,0.475
activity,orf,A549,48,0.056
activity,orf,A549,96,0.044
activity,orf,U2OS,48,0.369
activity,orf,U2OS,96,0.200
matching,compound,A549,24,0.142
matching,compound,A549,48,0.169
matching,compound,U2OS,24,0.043
matching,compound,U2OS,48,0.251
matching,crispr,A549,96,0.110
matching,crispr,A549,144,0.123
matching,crispr,U2OS,96,0.068
matching,crispr,U2OS,144,0.171
gene_compound,compound+crispr,A549,24+144,0.008
gene_compound,compound+crispr,A549,24+96,0.015
gene_compound,compound+orf,A549,24+96,0.000
gene_compound,compound+orf,A549,24+48,0.000
gene_compound,compound+crispr,A549,48+144,0.007
gene_compound,compound+crispr,A549,48+96,0.007
gene_compound,compound+orf,A549,48+96,0.000
gene_compound,compound+orf,A549,48+48,0.000
gene_compound,compound+crispr,U2OS,24+144,0.000
gene_compound,compound+crispr,U2OS,24+96,0.016
gene_compound,compound+orf,U2OS,24+48,0.000
gene_compound,compound+orf,U2OS,24+96,0.000
gene_compound,compound+crispr,U2OS,48+144,0.033
gene_compound,compound+crispr,U2OS,48+96,0.009
gene_compound,compound+orf,U2OS,48+48,0.075
gene_compound,compound+orf,U2OS,48+96,0.000
"""


def published_fractions() -> pd.DataFrame:
    """Return task, modality, cell, time (str, as in metrics.json) and published."""
    return pd.read_csv(io.StringIO(_TABLE), dtype={"time": str})
