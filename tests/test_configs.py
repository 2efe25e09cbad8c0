"""Every YAML in configs/ says how it is launched, and the script that it names takes it."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT

from contrastive.configuration import AlignConfig
from vlm.lora import LoraSettings

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
ACCELERATE = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
LAUNCH = re.compile(
    r"# (?:accelerate launch|python) scripts/(\w+)\.py --config (configs/\S+\.yaml)"
)


@pytest.fixture
def parse(monkeypatch) -> Callable[[str, Path], list[dict]]:
    """Read a YAML as a script does: the values of each of its config objects."""
    monkeypatch.syspath_prepend(ROOT / "scripts")

    def parse_with(script: str, config: Path) -> list[dict]:
        needed = {  # what the script asks for beside its config
            "train_lora": ["--use_cpu", "true"],  # else bf16 is refused where there is no GPU
            "simulate_plates": ["--out", "RAW"],
            "run_benchmark": ["--profiles", "a.parquet", "--out", "RUN"],
        }
        arguments = ["--config", str(config), *needed[script]]
        if script == "run_benchmark":
            from run_benchmark import parse

            return [vars(parse(arguments))]
        from trl import TrlParser

        if script == "simulate_plates":
            from simulate_plates import Output, SimulationConfig

            parser = TrlParser((SimulationConfig, Output))
        else:
            from _train_config import RunningConfig, TrainConfig

            parser = TrlParser((TrainConfig, LoraSettings, AlignConfig, RunningConfig))
        return [vars(found) for found in parser.parse_args_and_config(arguments)]

    yield parse_with
    for name in ("_train_config", "simulate_plates", "run_benchmark", "_cli"):
        sys.modules.pop(name, None)


def named_script(config: Path) -> str:
    first = config.read_text().splitlines()[0]
    found = LAUNCH.match(first)
    assert found, f"{config.name}, line 1: expected the launch command as a comment, found {first}"
    script, named = found.groups()
    assert named == f"configs/{config.name}"
    assert (ROOT / "scripts" / f"{script}.py").is_file()
    return script


def test_there_is_a_default():
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_taken_by_the_script_that_it_names(config, parse):
    parts = parse(named_script(config), config)
    for key, value in yaml.safe_load(config.read_text()).items():
        values = [part[key] for part in parts if key in part]
        assert len(values) == 1, f"{config.name}: {key} is a field of {len(values)} of the parts"
        found = values[0].value if hasattr(values[0], "value") else values[0]
        if isinstance(value, bool):
            assert found in (value, str(value).lower()), key
        elif isinstance(value, int | float):
            assert float(found) == value, key
        else:
            assert found == value or isinstance(found, list), key  # "none" becomes []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_misspelt_key_is_refused(config, parse, tmp_path):
    wrong = tmp_path / config.name
    wrong.write_text(config.read_text() + "\nno_such_key: 1\n")
    with pytest.raises((ValueError, SystemExit), match=r"no_such_key|2"):
        parse(named_script(config), wrong)


@pytest.mark.parametrize("config", ACCELERATE, ids=lambda path: path.stem)
def test_a_config_of_accelerate_is_read_and_says_how_it_is_launched(config):
    first = config.read_text().splitlines()[0]
    start = f"# accelerate launch --config_file configs/accelerate/{config.name} "
    assert first.startswith(start)
    assert "scripts/train_lora.py --config " in first
    read = load_config_from_file(str(config))
    assert read.num_processes == yaml.safe_load(config.read_text())["num_processes"]
    assert (read.use_cpu, read.mixed_precision) in ((False, "bf16"), (True, "no"))
