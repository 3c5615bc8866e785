"""What a public function says to an argument that it can't use, and things that none can use."""

import math

import pytest
import torch

from rar_nb.support import InvalidValue, show


class Odd:
    """Of no use to anybody."""

    def __repr__(self):
        return "Odd()"


GARBAGE = [
    None,
    "",
    "x",
    -1,
    0,
    1.5,
    10**12,
    math.nan,
    True,
    [],
    ["a"],
    {},
    Odd(),
    torch.tensor(3.5),
    torch.zeros(2, 3),
    torch.zeros(0, dtype=torch.int64),
    torch.zeros(1, 16, dtype=torch.int32),
    torch.full((2, 16), 99),
    torch.full((2, 16), -1),
    torch.full((2, 1, 16, 16), math.nan),
]


def refuses(call, words: str):
    """`call()` ends in one short line that has these words."""
    with pytest.raises(InvalidValue) as error:
        call()
    message = str(error.value)
    assert words in message, message
    assert "\n" not in message and len(message) < 500


def endures_garbage(function, **good):
    """One argument at a time is garbage, and gives an answer or `InvalidValue`, nothing else."""
    function(**good)
    for name in good:
        for garbage in GARBAGE:
            try:
                function(**(good | {name: garbage}))
            except InvalidValue as error:
                assert "\n" not in str(error) and len(str(error)) < 500
            except Exception as error:
                where = f"{function.__name__}({name}={show(garbage)})"
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
