"""Prompts as the language model reads them: not too long, with fields dropped at random."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from transformers import BatchEncoding, PreTrainedTokenizerBase

from captions.prompts import PROMPT_FIELDS, drop_fields, fit_fields, join_fields
from data.errors import InputError
from vlm.processing import prompt_ids


def fit_prompts(
    prompts: pd.DataFrame, reagents: Iterable[str], tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[pd.DataFrame, list[str]]:
    """Leave whole fields out of the prompts that the language model would find too long.

    `captions.prompts` estimates lengths; here they are counted.

    Parameters
    ----------
    prompts : DataFrame
        From `captions.prompts.build_prompts`.
    reagents : iterable of str
        Those whose prompts are read.
    tokenizer
        What reads prompts: `CellPaintingProcessor.prompt_tokenizer`.
    limit : int
        Tokens, the end token among them.

    Returns
    -------
    prompts : DataFrame
        Of these reagents, indexed by Metadata_broad_sample.
    left_out : list of str
        "reagent: fields" of each prompt that was shortened.

    Raises
    ------
    InputError
        When a reagent has no prompt, or context and identity alone are too long.
    """
    wanted = sorted(set(reagents))
    table = prompts.set_index("Metadata_broad_sample")
    missing = [reagent for reagent in wanted if reagent not in table.index]
    if missing:
        raise InputError(f"prompts: no prompt for the reagent {missing[0]}: build captions again")
    table, left_out = table.loc[wanted].copy(), []

    def count(text: str) -> int:
        return len(prompt_ids(tokenizer, text))

    for reagent, row in table.iterrows():
        if count(row["prompt"]) <= limit:
            continue
        listed = row["Metadata_prompt_fields"].split("|")
        fields = {name: row[name] if name in listed else "" for name in PROMPT_FIELDS}
        kept = fit_fields(fields, limit, count, row["Metadata_preset"])
        prompt = join_fields(fields, kept, row["Metadata_preset"])
        if (length := count(prompt)) > limit:
            raise InputError(
                f"prompts: context and identity of {reagent} are {length} tokens, more than "
                f"align_max_prompt_tokens = {limit}: raise it"
            )
        table.loc[reagent, ["Metadata_prompt_fields", "prompt"]] = ["|".join(kept), prompt]
        left_out.append(f"{reagent}: {', '.join(name for name in listed if name not in kept)}")
    return table, left_out


def read_prompts(
    prompts: pd.DataFrame,
    reagents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    dropout: float,
    generator: np.random.Generator,
) -> BatchEncoding:
    """Token ids of some reagents' prompts, with the end token that is read out.

    Parameters
    ----------
    prompts : DataFrame
        From `fit_prompts`.
    reagents : sequence of str
    tokenizer
        What reads prompts: `CellPaintingProcessor.prompt_tokenizer`.
    dropout : float
        Chance of each field to be left out; see `captions.prompts.drop_fields`.
    generator : numpy Generator
        Not used at dropout 0.

    Returns
    -------
    BatchEncoding
        `input_ids` and `attention_mask`, (R, L), padded on the right.
    """
    texts = []
    for row in prompts.loc[list(reagents)].to_dict("records"):
        if dropout:
            listed = row["Metadata_prompt_fields"].split("|")
            kept = drop_fields(listed, dropout, generator)
            fields = {name: str(row[name]) for name in PROMPT_FIELDS}
            texts.append(join_fields(fields, kept, row["Metadata_preset"]))
        else:
            texts.append(row["prompt"])
    tokens = [prompt_ids(tokenizer, text) for text in texts]
    padded = tokenizer.pad({"input_ids": tokens}, padding_side="right", return_tensors="pt")
    return BatchEncoding({name: padded[name] for name in ("input_ids", "attention_mask")})
