"""Put a model folder on the Hugging Face hub, with a model card from the run's own files.

python scripts/push_to_hub.py --model runs/quickstart --data PREPARED --repo_id lab/morphoclip
python scripts/push_to_hub.py ... --adapters_only true      # a few MB, without the base

Log in once with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another hub.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from _cli import parse_config, run_main
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from data.errors import InputError
from eval.model_card import write_model_card
from vlm.adapters import ALIGN, DESCRIBE, find_model


@dataclass
class PushConfig:
    """What goes where."""

    model: str = field(metadata={"help": "run folder, or a merged model folder with its card"})
    repo_id: str = field(metadata={"help": "OWNER/NAME on the hub; made where it does not exist"})
    data: str | None = field(
        default=None, metadata={"help": "prepared store: writes the model card anew"}
    )
    adapters_only: bool = field(default=False, metadata={"help": "leave the base out"})
    private: bool = field(default=True, metadata={"help": "whether a new repository is private"})


def main() -> None:
    """Parse, write the card, upload."""
    (config,) = parse_config(PushConfig)
    folder = find_model(config.model)  # refuses pickles
    if config.data is not None:
        write_model_card(folder.parent, Path(config.data))
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no model card: give --data PREPARED, it is written from it")
    wanted = None
    if config.adapters_only:
        wanted = ["README.md", f"{ALIGN}/*", f"{DESCRIBE}/*"]
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(config.repo_id, private=config.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=config.repo_id,
            folder_path=folder,
            allow_patterns=wanted,
            commit_message="Upload MorphoCLIP model",
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{api.endpoint} did not take {config.repo_id}: {reason}") from error
    print(f"uploaded {folder}: {commit.commit_url}")


if __name__ == "__main__":
    run_main(main)
