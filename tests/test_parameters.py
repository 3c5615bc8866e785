"""Text is not truth: parameters and fields of configurations have their declared type."""

import dataclasses
import json
from types import NoneType
from typing import Annotated, Literal

import pytest
from hypothesis import given, strategies
from papermill.inspection import inspect_notebook

from rar_nb.pretrained.presets import PARTS, PRESETS, get_preset, override
from rar_nb.runs.pretokenizer import PretokenizeConfig
from rar_nb.support import InvalidValue, as_declared, check_parameters, config, kinds_of
from tests.kernels import NBS
from tests.test_commands import WITH_PARAMETERS, parameters_of

CONFIGS = [
    PretokenizeConfig("digits", "out"),
    PRESETS["digits"],
    *(getattr(PRESETS["digits"], part) for part in PARTS),
]
FIELDS = [
    (config, f) for config in CONFIGS for f in dataclasses.fields(config) if f.name not in PARTS
]
PARAMETERS = [
    (name, parameter)
    for name in WITH_PARAMETERS
    for parameter in parameters_of(name)["__annotations__"]
]
WRONG = {  # what no value of a type is, such as the numbers that Python takes for truth
    bool: ["no", "yes", "on", "", "0", "1", 0, 1, 1.0, [], None],
    int: ["many", "", "1.5", "true", True, False, 1.5, 64.0, [1]],
    float: ["much", "", "false", True, False, [1.0]],
    str: [3, 1.5, True, ["x"]],
    dict: ["x", 3, [1], True],
    list[float]: ["0, 2", 3, True, ["x"], [True], {"a": 1}],
}
NO_TEXT = {bool, int, float, dict, list[float]}


def read(notebook, parameter, value):
    """The parameter as the notebook has it after its check."""
    namespace = parameters_of(notebook) | {parameter: value}
    check_parameters(namespace, set(namespace) - {"known"})
    return namespace[parameter]


@pytest.mark.parametrize(
    "config, field", FIELDS, ids=lambda x: getattr(x, "name", type(x).__name__)
)
def test_fields(config, field):
    value, allowed = getattr(config, field.name), set(kinds_of(field.type))
    again = dataclasses.replace(config, **{field.name: value})
    assert again == config and type(getattr(again, field.name)) in (type(value), *allowed)
    if allowed & NO_TEXT and value is not None:
        for text in {str(value), str(value).lower(), str(value).upper()} - {"inf"}:
            assert getattr(dataclasses.replace(config, **{field.name: text}), field.name) == value
    if NoneType in allowed:
        for text in ("none", "None", "NULL", None):
            assert getattr(dataclasses.replace(config, **{field.name: text}), field.name) is None
    for wrong in WRONG[(allowed - {NoneType}).pop()] + [None] * (NoneType not in allowed):
        if wrong is None and NoneType in allowed:
            continue
        with pytest.raises(ValueError) as error:
            dataclasses.replace(config, **{field.name: wrong})
        assert str(error.value).startswith(f"{field.name} = {wrong!r} is not allowed: it must be ")


@pytest.mark.parametrize("notebook, parameter", PARAMETERS)
def test_parameters(notebook, parameter):
    cell = parameters_of(notebook)
    kind, default = cell["__annotations__"][parameter], cell[parameter]
    assert read(notebook, parameter, default) == default
    if default is None:
        assert read(notebook, parameter, "none") is read(notebook, parameter, "NULL") is None
    if kind is bool:
        assert [read(notebook, parameter, word) for word in ("false", "False", "FALSE", False)] == [
            False
        ] * 4
        assert [read(notebook, parameter, word) for word in ("true", "True", "TRUE", True)] == [
            True
        ] * 4
    if kind in (int, float):
        assert read(notebook, parameter, "3") == read(notebook, parameter, 3) == 3
    for wrong in WRONG[kind]:
        if wrong is None and default is None:
            continue
        with pytest.raises(ValueError) as error:
            read(notebook, parameter, wrong)
        assert str(error.value).startswith(f"{parameter} = {wrong!r} is not allowed: it must be ")


@pytest.mark.parametrize("notebook", WITH_PARAMETERS)
def test_every_parameter_has_a_type(notebook):
    cell = parameters_of(notebook)
    assert set(cell["known"]) - {"__builtins__", "__annotations__"} == set(cell["__annotations__"])
    code = "".join(
        "".join(c["source"])
        for c in json.loads((NBS / f"{notebook}.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    )
    assert "check_parameters(globals(), given)" in code
    known = inspect_notebook(str(NBS / f"{notebook}.ipynb"))
    assert set(known) - {"known"} == set(cell["__annotations__"]), (
        "papermill warns of a parameter that it can't read in the cell"
    )


@pytest.mark.parametrize("notebook", WITH_PARAMETERS)
def test_misspelled_parameters(notebook):
    """The right name comes first, if there is one, and then the names of all."""
    known = set(parameters_of(notebook)["__annotations__"])
    hint = "did you mean 'overwrite'[?] It" if "overwrite" in known else "it"
    message = f"parameter = 'ovewrite' is not allowed: {hint} must be one of {sorted(known)[0]}"
    with pytest.raises(ValueError, match=message):
        read(notebook, "ovewrite", True)


@given(
    strategies.one_of(
        strategies.integers(-(2**62), 2**62),
        strategies.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_numbers_come_back_from_their_text(number):
    back = as_declared("x", repr(number), float)
    assert back == number and type(back) is type(number)
    if isinstance(number, int):
        assert as_declared("x", repr(number), int) == number


def test_none_among_changes_is_a_value():
    run = PRESETS["rar_b"]
    assert run.train.steps_per_epoch == 625
    assert override(run, steps_per_epoch=None) == run == override(run, None)
    assert override(run, dict(steps_per_epoch=None)).train.steps_per_epoch is None
    assert get_preset("rar_b", dict(batch_size=256), batch_size=None).train.batch_size == 256
    for field, value in (("epochs", None), ("batch_size", None), ("seed", None)):
        with pytest.raises(ValueError, match=f"{field} = None is not allowed: it must be a"):
            override(run, {field: value})
    with pytest.raises(
        ValueError, match="batch_size = 128 is not allowed: it must be left out, as changes say 256"
    ):
        override(run, dict(batch_size=256), batch_size=128)


def test_a_configuration_reads_text_and_names_what_it_does_not_know():
    @config
    class Settings:
        size: Annotated[int, "in pixels"]
        kind: Literal["a", "b"] = "a"
        sides: Literal[1, 3] = 1
        share: float | None = None

    assert (
        Settings("5", share="none") == Settings(5)
        and Settings(5, share="0.5").share == 0.5
        and Settings(1, sides="3").sides == 3
    )
    assert kinds_of(Annotated[int, "x"] | None) == (int, NoneType) and kinds_of(
        Literal["a", 1]
    ) == (str, int)
    for values, message in [
        (
            dict(size=5, colour=1),
            "parameter = 'colour' is not allowed: it must be one of kind, share, sides, size",
        ),
        (dict(size="5.5"), "size = '5.5' is not allowed: it must be a whole number"),
        (dict(size=5, kind="c"), "kind = 'c' is not allowed: it must be 'a' or 'b'"),
        (dict(size=5, sides=True), "sides = True is not allowed: it must be 1 or 3"),
        (dict(size=5, share="NaN"), "share = 'NaN' is not allowed: it must be a finite number"),
        (dict(), "size is missing"),
    ]:
        with pytest.raises(InvalidValue) as error:
            Settings(**values)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_limits_are_named():
    for value, message in [(0, "a number above 0"), ("-1", "a number above 0")]:
        with pytest.raises(
            InvalidValue, match=f"epochs = {value!r} is not allowed: it must be {message}"
        ):
            get_preset("tiny", epochs=value)
    with pytest.raises(
        InvalidValue, match="dropout = 1 is not allowed: it must be a number below 1"
    ):
        get_preset("tiny", dropout=1)
