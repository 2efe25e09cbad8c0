"""The model card (README.md of a model folder): what it learnt from, what it can do, for whom.

Written from the run's own files: training.json, metrics.json, and the prepared store's manifest,
wells and captions. What they do not say, the card says is not known.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment

from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest, load_wells
from eval.leaks import find_leaks, load_described, load_training_text

_CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: {{ licence_tag }}
tags: [cell-painting, morphoclip, lora]
---
# {{ name }}

MorphoCLIP on Cell Painting wells: an embedding a well, to find which compound acts like which
gene, and descriptions of what changed in the cells, each claim checkable against a measurement.
{% if simulated %}
**Trained on simulated plates**: the numbers say what the method does, not what it finds in real
cells.
{% endif %}
## Use

```python
import vlm  # pip install morphoclip
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER)  # the base
processor = AutoProcessor.from_pretrained(FOLDER)
# vlm.adapters.load_model(FOLDER) gives both with the adapters
```

`scripts/describe_well.py`, `scripts/embed_wells.py` and `scripts/find_matches.py` take this folder
as `--model`. Weights are safetensors only.

**Intended**: research on morphological profiles, as hypotheses to be tested: which perturbations
look alike, and what to look at in an image. The words are about measured changes against controls
of the same plate. **Not intended**: diagnosis or any decision about patients; stains, microscopes
or cell lines far from the training data; claims about a target without an experiment.

## Data

| | |
|---|---|
| store | {{ data.source }}, {{ data.plates }} plates, {{ data.wells }} wells |
| channels | {{ data.channels }} |
| wells by modality | {{ data.modalities }} |
| reference of every change | {{ data.reference }} |
| trained on | {{ data.trained }} wells (`{{ data.query }}`) |
| split | {{ data.split }} |
| held-out targets | {{ data.held_out }} |

**Leak audit**: {{ leak }}

## Results
{% if rows %}
| task | representation | value | 95 % interval | chance |
|---|---|---|---|---|
{% for row in rows %}| {{ row | join(" | ") }} |
{% endfor %}

Command: `{{ command }}`
{% else %}
Not measured yet: `python scripts/report_run.py` adds them.
{% endif %}
## Licences

| part | name | licence |
|---|---|---|
{% for part in parts %}| {{ part | join(" | ") }} |
{% endfor %}

What "unknown" stands for has to be looked up before this model is passed on.

## Training

Both phases: `{{ training.command }}`, {{ training.settings.processes }} process(es); LoRA rank \
{{ training.settings.lora_rank }}, alpha {{ training.settings.lora_alpha }}, base held in \
{{ training.settings.base_precision }}. {{ versions }}.
{% if seconds %}Seconds: {{ seconds }}.{% endif %}

All settings:

```json
{{ settings }}
```
"""


def write_model_card(run: Path, data: Path) -> Path:
    """Write RUN/model/README.md.

    Parameters
    ----------
    run : Path
        Run folder with a model.
    data : Path
        The prepared store that it was trained on.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    InputError
        When the run has no model or no training.json, or the store is not one.
    """
    if not (run / "model" / "config.json").is_file():
        raise InputError(f"{run} holds no trained model: run scripts/train_lora.py --out {run}")
    training = _read(run / "training.json")
    if not training:
        raise InputError(f"{run}/training.json is missing: it says how the model was made")
    metrics = _read(run / "metrics.json")
    manifest, wells = load_manifest(data), load_wells(data)
    query = training["settings"]["train_query"]
    trained = wells.query(query)
    modalities = wells["Metadata_modality"].value_counts().to_dict()
    parts = [(part, base["name"], base["licence"]) for part, base in training["base"].items()]
    words = {
        "name": f"MorphoCLIP: {run.resolve().name}",
        "licence_tag": _licence_tag([licence for _, _, licence in parts]),
        "simulated": manifest.simulated,
        "data": {
            "source": manifest.source,
            "plates": len(manifest.plates),
            "wells": len(wells),
            "channels": ", ".join(manifest.channels),
            "modalities": ", ".join(f"{name} {count}" for name, count in modalities.items()),
            "reference": manifest.reference,
            "trained": len(trained),
            "query": query,
            "split": "whole targets: training saw no reagent of a held-out one"
            if manifest.held_out_targets
            else "no targets were held out",
            "held_out": ", ".join(manifest.held_out_targets) or "none",
        },
        "leak": leak_audit(run, data, manifest.held_out_targets),
        "rows": result_rows(metrics),
        "command": metrics.get("command", ""),
        "parts": [*parts, *knowledge_licences(data)],
        "training": training,
        "versions": ", ".join(f"{k} {v}" for k, v in training["versions"].items()),
        "seconds": ", ".join(f"{k} {v}" for k, v in _read(run / "train_seconds.json").items()),
        "settings": json.dumps(training["settings"], indent=1),
    }
    path = run / "model" / "README.md"
    with atomic_path(path) as temporary:
        temporary.write_text(Environment(trim_blocks=True).from_string(_CARD).render(words))
    return path


def leak_audit(run: Path, data: Path, held_out: list[str]) -> str:
    """Say in one sentence whether what the run was trained on gives a held-out target away."""
    training = load_training_text(run)
    if not held_out:
        return f"nothing to audit, no target was held out ({len(training)} training texts)."
    reagents, genes = load_described(data)
    leaks = find_leaks(training, held_out, reagents, genes)
    if leaks.empty:
        return f"none of the {len(held_out)} held-out targets is known from {len(training)} texts."
    named = ", ".join(sorted(set(leaks["target"])))
    return f"LEAK: training knew {named}; results on these targets do not count."


def result_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Lay out metrics.json as rows: task, representation, value, interval, chance."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = []
    for task, by_name in metrics.get("matching", {}).items():
        if task == "chance":
            continue
        for name, score in by_name.items():
            interval = "-"
            if "map_low" in score:
                interval = f"{number(score['map_low'])} to {number(score['map_high'])}"
            value = score.get("map", score.get("mean_average_precision"))
            label = f"{task.replace('_', ' ')} mAP"
            rows.append((label, name, number(value), interval, number(score.get("chance"))))
    for source, scores in metrics.get("claims", {}).items():
        intervals = scores.get("intervals", {})
        for name in ("precision", "recall"):
            if name not in scores:
                continue
            low, high = intervals.get(name, (None, None))
            interval = "-" if low is None else f"{number(low)} to {number(high)}"
            label = source.replace("_", " ")
            rows.append((f"claims: {name}", label, number(scores[name]), interval, "-"))
    return rows


def knowledge_licences(data: Path) -> list[tuple[str, str, str]]:
    """Name the sources of the prompts' knowledge, as `build_captions.py` wrote them down."""
    sources = _read(data / "captions" / "report.json").get("sources", {})
    return [
        ("knowledge in prompts", f"{name} {source['version']}", source["licence"])
        for name, source in sources.items()
    ] or [("knowledge in prompts", "not recorded in the store", "unknown")]


def _licence_tag(licences: list[str]) -> str:
    """The hub's tag: one licence when all parts have it, "other" when they differ."""
    found = {licence.lower() for licence in licences}
    return found.pop() if len(found) == 1 and "unknown" not in found else "other"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
