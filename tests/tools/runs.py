"""Tokens to train on without images, and the program `rar-train` as the command line calls it."""

from pathlib import Path

import torch
from fastcore.script import anno_parser

from rar_nb.data.tokens import TokenData
from rar_nb.runs.training import main


def save_made_up_tokens(folder: Path, images: int = 400, crops: int = 1) -> Path:
    """Images whose ids depend on the class, four fifths of them for training; `folder`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (images,), generator=generator)
    noise = torch.randint(3, (images, crops, 49), generator=generator)
    ids, cut = (labels[:, None, None] + noise) % 8, images * 4 // 5
    TokenData(ids[:cut], labels[:cut]).save(folder / "train", 8, 10)
    TokenData(ids[cut:], labels[cut:]).save(folder / "val", 8, 10)
    return folder


def rar_train(*words):
    """`main` with the words of a command line; errors are raised, as they are in Python."""
    options = vars(anno_parser(main).parse_args([str(word) for word in words]))
    del options["pdb"], options["xtra"]  # fastcore's own
    return main(**options)
