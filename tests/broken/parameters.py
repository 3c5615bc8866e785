"""Broken parameters: the notebooks' own cells, up to the last check, and fields of runs by name."""

import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from rar_nb.support import PROJECT
from tests.broken import files, made, oracle
from tests.broken.cases import Case, Room, Wrong, find

NBS = PROJECT / "nbs"
WORK = {  # what the first cell with real work in it holds
    "train": ("torch.manual_seed(run.seed)", "new_run_folder(", "make_tokenizer(run.tokenizer)"),
    "evaluate": ("sample_set(",),
    "pretokenize": ("pretokenize_folder(config",),
    "your_images": ("run_notebook('train'",),
}


@cache
def cells(name: str) -> list[tuple[str, object]]:
    """(source, compiled) of a notebook's code cells up to the one that begins to work."""
    notebook = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))
    found = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if any(word in source for word in WORK[name]) and "import " not in source:
            break
        found.append((source, compile(source, f"<{name} {cell['id']}>", "exec")))
    return found


def check(name: str, given: dict) -> dict:
    """The notebook's globals after its checks."""
    namespace: dict = {}
    (_, first), *others = cells(name)
    exec(first, namespace)
    namespace |= given
    for _, code in others:
        exec(code, namespace)
        elsewhere = dict(plot_images=no_picture, RUNS=Path("runs").absolute())
        namespace |= {word: elsewhere[word] for word in elsewhere.keys() & namespace.keys()}
    if name == "your_images":  # which hands over to train
        check("train", namespace["settings"] | dict(run_dir=str(Path.cwd() / "run")))
    return namespace


def import_all(notebook: str):
    """Import what a notebook imports, here and not within the time of a case."""
    for source, code in cells(notebook):
        if source.startswith("given = "):
            exec(code, {})


def no_picture(*arguments, **options):
    """Instead of a figure, which takes its time."""


def base(name: str, room: Room) -> dict:
    """Parameters that are allowed."""
    run = str(made.finished())
    if name == "train":
        return dict(
            preset="tiny",
            data=str(made.images()),
            image_size=16,
            run_dir=str(room.folder / "run"),
            cpu=True,
            batch_size=8,
        )
    if name == "evaluate":
        return dict(run_dir=run, out_dir=str(room.folder / "out"), cpu=True)
    if name == "pretokenize":
        return dict(
            data=str(made.images()), out=str(room.folder / "tokens"), tokenizer=run, cpu=True
        )
    return dict(folder=str(made.images()), preset="tiny", image_size=16, cpu=True)


ANYTHING = [3, 1.5, True, None, [], ["x"], {}, {"a": 1}, b"x", float("nan")]
TEXT = ["", " ", "x", "\0", "none", "null", "NaN", "1e3", "0x10", "١", "true", "-1", "\n"]
PATHS = ["", "\0", "x" * 300, "/".join(["x" * 100] * 60), "/dev/null", "/dev/zero", "/proc/x"]
PATHS += ["~nosuchuser/x", "/dev/null/such/folder", "."]
NUMBERS = [0, -1, 0.5, 1.5, 10**12, 10**30, -(10**30), float("inf"), float("-inf"), float("nan")]
NUMBERS += ["3", "3.0", "1e400", "nan", "many", "1_000", "", True, [1], 2**32, 2**64]
LISTS: list = [[], [[]], ["x"], [True], [None], [-1], [float("nan")], [1e400], "0, 2", "[0, 2]"]
LISTS += [3, {"a": 1}, [0, 0], ["2"], [10**30]]
DICTS: list = [{"x": 1}, {"epochs": None}, {"epochs": -1}, {1: 2}, {"num_layers": "many"}, "x", [1]]
DICTS += [
    {"model": {}},
    {"num_layers": 10**7},
    {"hidden_size": 31},
    {"kind": "x"},
    "{",
    '{"seed": 1}',
]
DICTS += [{"devices": 3}, {"seed": [1]}, {"data": ""}, {"num_tokens": 50}, {"preset": 3}]
IS_PATH = {"run_dir", "out_dir", "out", "tokens", "data", "folder", "tokenizer_from", "tokenizer"}
IS_PATH |= {"model_file", "tokenizer_file", "inception", "reference", "weights", "init_from"}
LOW = {  # the least that each number may be; a tuple: above it
    "image_size": 1,
    "max_minutes": 0,
    "devices": 1,
    "epochs": (0,),
    "batch_size": 1,
    "learning_rate": (0,),
    "guidance_scale": 0,
    "guidance_power": (0,),
    "temperature": (0,),
    "num_samples": 1,
    "sample_batch_size": 1,
    "seed": 0,
    "price": 0,
    "sweep_samples": 1,
    "processes": 1,
    "workers": 0,
    "shard_images": 1,
    "max_failed_share": 0,
    "keep_every": 0,
    "checkpoint_every": 0,
}
HIGH = {  # what fits no machine
    "max_failed_share": 1,
    "seed": 2**64 - 1,
    "image_size": 10**6,
    "num_samples": 10**9,
    "sweep_samples": 10**9,
    "processes": 10**4,
    "workers": 10**4,
}
CHOICES = {
    "preset": None,
    "crops": ("ten", "centre", "one"),
    "part": ("train", "validation", "all"),
    "sample_precision": ("tf32", "no", "bf16", "auto"),
    "trackers": ("", "tensorboard"),
}


def values_of(name: str, kind) -> list:
    if kind is bool:
        return [
            "no",
            "yes",
            "",
            "0",
            "1",
            0,
            1,
            2.5,
            [],
            None,
            "false",
            "TRUE",
            "None",
            float("nan"),
        ]
    if kind in (int, float):
        return NUMBERS
    if kind is dict:
        return DICTS
    if kind is str and name in IS_PATH:
        written = name in ("run_dir", "out_dir", "out")
        paths = [p for p in PATHS if not (written and p.startswith(("/dev/", "/proc/")))]
        return [*paths, *ANYTHING]
    if kind is str:
        return [*TEXT, *ANYTHING]
    return LISTS


def in_range(name: str, value) -> bool:
    """Whether a number is one that its parameter may have; sizes that fit no machine are not."""
    low = LOW.get(name, 0)
    above = isinstance(low, tuple)
    low = low[0] if above else low
    return low <= value <= HIGH.get(name, math.inf) and not (above and value == low)


def fits(name: str, kind, default, value) -> bool:
    """Whether a value may pass: written down once more, to check the notebooks."""
    if isinstance(value, str) and kind is not str:
        word = value.lower()
        if word in ("none", "null"):
            return default is None
        try:
            value = json.loads(word if word in ("true", "false") else value)
        except ValueError:
            return False
    if value is None:
        return default is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return oracle.is_int(value) and in_range(name, value)
    if kind is float:
        return oracle.is_number(value) and in_range(name, value)
    if kind is str:
        if not isinstance(value, str):
            return False
        if default is None and value.lower() in ("none", "null"):
            return True
        if name == "trackers":
            value = value.strip()
        if name in CHOICES:
            known = CHOICES[name]
            return value in (known or find("pretrained.presets.PRESETS"))
        return True
    if kind is dict:
        return isinstance(value, dict)
    numbers = isinstance(value, list) and all(oracle.is_number(x) for x in value)
    positive = name in ("sweep_powers", "sweep_temperatures")
    return numbers and all(0 <= x and not (positive and x == 0) for x in value)


def case(notebook: str, name: str, kind, default, value) -> Case:
    def act(room: Room):
        found = check(notebook, base(notebook, room) | {name: value})
        if not fits(name, kind, default, value):
            raise Wrong(f"{name} = {value!r} passed the checks as {found[name]!r}"[:200])
        is_text = isinstance(value, (str, bytes)) and kind in (bool, int, float)
        if is_text and type(found[name]) not in (kind, int, type(None)):
            raise Wrong(f"{name} = {value!r} became {found[name]!r}")
        return "right"

    text = repr(value)
    short = text if len(text) < 40 else f"{text[:40]}…{len(text)}"
    return Case(
        f"parameters/{notebook}-{name}={short}",
        notebook,
        f"papermill nbs/{notebook}.ipynb with {name} = {text[:60]}",
        act,
        str,
    )


@cache
def declared(notebook: str) -> dict:
    namespace: dict = {}
    exec(cells(notebook)[0][1], namespace)
    return namespace


def parameters() -> Iterator[Case]:
    for notebook in WORK:
        import_all(notebook)
        found = declared(notebook)
        for name, kind in found["__annotations__"].items():
            for value in values_of(name, kind):
                if name == "data" and value == ".":
                    continue  # the folder of the case, which is empty
                yield case(notebook, name, kind, found[name], value)
        for given in (
            {"epoch": 3},
            {"ovewrite": True},
            {"Preset": "tiny"},
            {"data ": "x"},
            {"get_ipython": 3},
            {"Path": 3},
        ):
            yield Case(
                f"parameters/{notebook}-unknown-{list(given)[0]}",
                notebook,
                f"papermill nbs/{notebook}.ipynb with {given}",
                lambda room, notebook=notebook, given=given: check(
                    notebook, base(notebook, room) | given
                ),
                lambda found: (
                    "right"
                    if "get_ipython" in found and found.get("Path", Path) is Path
                    else "silent"
                ),
            )


# Fields of a run by name

VALUES: list = [
    None,
    True,
    False,
    -1,
    0,
    1,
    0.5,
    1.5,
    float("nan"),
    float("inf"),
    "x",
    "",
    "3",
    "nan",
]
VALUES += ["true", [], [1], {}, b"x", 10**30, 3 + 4j, object]


def fields() -> Iterator[Case]:
    flat_config: Callable = find("runs.run_folders.flat_config")
    flat = flat_config(made.run())
    for path in flat:
        name = path.split(".")[-1]
        if path == "preset":
            continue
        for k, value in enumerate(VALUES):
            if (k + len(path)) % 3:
                continue

            def act(room, path=path, name=name, value=value):
                changed = find("pretrained.presets.override")(made.run(), {name: value})
                found = flat_config(changed)[path]
                if not oracle.allowed(path, oracle.as_value(path, value)):
                    raise Wrong(f"{name} = {value!r} was accepted as {found!r}")
                if oracle.too_large(path, found):
                    files.build(changed)
                    raise Wrong(f"{name} = {value!r} was built")
                return "right" if files.same(found, oracle.as_value(path, value)) else "silent"

            yield Case(
                f"fields/{path}={value!r}"[:70],
                "presets",
                f"override(run, {{{name!r}: {value!r}}})",
                act,
                str,
            )


ALL = [parameters, fields]


def every() -> Iterator[Case]:
    for make in ALL:
        yield from make()
