"""One fold of BBBC021, real images, short: both phases, matching by mechanism, claims."""

import json
import sys

from conftest import ROOT
from tiny import save_tiny_language_model

SHORT = (
    "--language_model {language} --num_text_layers 2 --image_size 64 "
    "--align_steps 40 --align_prompt_every 20 "
    "--align_max_prompt_tokens 400 --max_steps 3 --max_length 1000"
)


def test_one_fold_on_real_images(shared, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    save_tiny_language_model(tmp_path / "language")
    words = ["run_bbbc021.py", "--input", shared / "bbbc021", "--out", tmp_path / "run"]
    words += ["--size", 64, "--folds", 1]
    words += ["--train_options", SHORT.format(language=tmp_path / "language")]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    import run_bbbc021

    run_bbbc021.main()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    scores = metrics["matching"]["mechanism"]
    assert set(scores) == {"embedding", "classical", "imagenet", "untrained"}
    for score in scores.values():
        assert {"nsc_accuracy", "nsc_week_accuracy", "map"} <= set(score)
    # Small images and few steps: better than chance (a sixth) by far, and it learnt something.
    assert scores["embedding"]["nsc_accuracy"] > 0.5
    assert scores["embedding"]["map"] > scores["untrained"]["map"]
    assert set(metrics["claims"]) == {"model", "blank_image", "shuffled_image", "majority"}
    assert "median well" in metrics["reference"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
