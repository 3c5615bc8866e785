"""Broken arguments: what happens when a public function is given something else.

`DOORS` names the functions that notebooks, pages and people call, with arguments that are right.
Each argument in turn is replaced by values that are not what it takes. Those have to be refused. A
few are only another way to say the same, such as a list for a tensor or NumPy's 3 for 3; these may
be refused, too, or else the answer must be the same.

Functions that only their own module calls (a layer, a part of a figure) are no doors.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from tests.broken import made
from tests.broken.cases import Case, Room, Wrong, find

Value = tuple[str, Any, Any]  # name, value, what else it stands for (NOTHING: it is wrong)
NOTHING = object()
V, L, C = made.CODES, 16, made.CLASSES


class Thing:
    """An object of no use."""

    def __repr__(self):
        return "Thing()"


WRONG: dict[str, Any] = {
    "None": None,
    "text": "x",
    "empty-text": "",
    "list": [],
    "dict": {},
    "thing": Thing(),
    "bytes": b"x",
    "nan": math.nan,
    "type": int,
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an argument may be."""

    optional: bool = False
    skip: tuple[str, ...] = ()  # names of values that are left out, as they are allowed

    def special(self, value) -> Iterator[Value]:
        """Values beside those in `WRONG`."""
        yield from ()

    def values(self, value) -> Iterator[Value]:
        wrong = ((name, v, NOTHING) for name, v in WRONG.items())
        special = () if value is None else self.special(value)
        for name, v, same in [*wrong, *special]:
            if name in self.skip or (v is None and self.optional):
                continue
            yield name, v, same


@dataclasses.dataclass(frozen=True)
class Int(Kind):
    low: int | None = 0
    high: int | None = None

    def special(self, value):
        yield "numpy", np.int64(value), value
        yield "float", float(value), value
        yield "tensor", torch.tensor(value), value
        yield "half", value + 0.5, NOTHING
        yield "inf", math.inf, NOTHING
        yield "array", np.array([value, value]), NOTHING
        if self.low is not None:
            yield "low", self.low - 1, NOTHING
            yield "very-low", -(10**30), NOTHING
        if self.high is not None:
            yield "high", self.high + 1, NOTHING
        yield "huge", 10**30, NOTHING


@dataclasses.dataclass(frozen=True)
class Number(Kind):
    low: float | None = 0.0
    high: float | None = None
    above: bool = False

    def special(self, value):
        yield "numpy", np.float64(value), value
        yield "tensor", torch.tensor(float(value), dtype=torch.float64), value
        yield "inf", math.inf, NOTHING
        yield "complex", complex(value, 1), NOTHING
        yield "array", np.array([value, value]), NOTHING
        if self.low is not None:
            yield "low", self.low - 0.5, NOTHING
            if self.above:
                yield "limit", self.low, NOTHING
        if self.high is not None:
            yield "high", self.high + 0.5, NOTHING


@dataclasses.dataclass(frozen=True)
class Truth(Kind):
    def special(self, value):
        yield "false-text", "false", NOTHING
        yield "two", 2, NOTHING


@dataclasses.dataclass(frozen=True)
class Word(Kind):
    """A key of a registry."""

    def special(self, value):
        yield "number", 3, NOTHING
        yield "upper", str(value).upper(), NOTHING
        yield "space", f"{value} ", NOTHING
        yield "bytes-of-it", str(value).encode(), NOTHING


@dataclasses.dataclass(frozen=True)
class Text(Kind):
    """Any text."""

    skip: tuple[str, ...] = ("text", "empty-text")

    def special(self, value):
        yield "number", 3, NOTHING


@dataclasses.dataclass(frozen=True)
class Tensor(Kind):
    low: float | None = None
    high: float | None = None

    def special(self, value):
        yield "number", 3, NOTHING
        yield "array", value.numpy(), value
        yield "nested", value.tolist(), value
        yield "more-axes", value[..., None], NOTHING
        yield "fewer-axes", value[0], NOTHING
        yield "scalar", value.flatten()[0], NOTHING
        yield "empty", value[:0], NOTHING
        yield "complex", value.to(torch.complex64), NOTHING
        yield "ragged", [[1], [1, 2]], NOTHING
        if value.is_floating_point():
            for name, number in (("nan-inside", math.nan), ("inf-inside", math.inf)):
                broken = value.clone()
                broken.view(-1)[-1] = number
                yield name, broken, NOTHING
            yield "int", value.long(), NOTHING
        else:
            yield "float", value.float() + 0.5, NOTHING
            yield "bool", value > 0, NOTHING
        if self.low is not None:
            broken = value.clone() if value.dtype != torch.uint8 else value.to(torch.int16)
            broken.view(-1)[-1] = self.low - 1
            yield "low-inside", broken, NOTHING
        if self.high is not None:
            broken = value.clone() if value.dtype != torch.uint8 else value.to(torch.int16)
            broken.view(-1)[0] = self.high + 1
            yield "high-inside", broken, NOTHING


@dataclasses.dataclass(frozen=True)
class Object(Kind):
    """An object of a class, such as a configuration or a model."""

    def special(self, value):
        yield "number", 3, NOTHING
        yield "class", type(value), NOTHING
        if dataclasses.is_dataclass(value):
            yield "as-dict", dataclasses.asdict(value), NOTHING


@dataclasses.dataclass(frozen=True)
class Function(Kind):
    skip: tuple[str, ...] = ("type",)

    def special(self, value):
        yield "number", 3, NOTHING


@dataclasses.dataclass(frozen=True)
class Place(Kind):
    """A file or folder."""

    skip: tuple[str, ...] = ("text",)

    def special(self, value):
        yield "number", 3, NOTHING
        yield "missing", str(made.place() / "nothing" / "here"), NOTHING
        yield "nul", "a\0b", NOTHING
        yield "long", "/tmp/" + "x" * 300, NOTHING
        yield "pipe", pipe, NOTHING
        yield "in-a-file", str(made.finished() / "config.json" / "x"), NOTHING
        yield "nobody", "~nosuchuser/x", NOTHING
        yield "url", "https://example.com/x", NOTHING


def pipe(room: Room) -> Path:
    """A named pipe. (No device: a function that writes as root would put a file in its place.)"""
    os.mkfifo(room.folder / "pipe")
    return room.folder / "pipe"


@dataclasses.dataclass(frozen=True)
class Values(Kind):
    """Whatever is listed."""

    wrong: tuple[tuple[str, Any], ...] = ()

    def special(self, value):
        for name, v in self.wrong:
            yield name, v, NOTHING


def equal(a, b) -> bool:
    """Whether two answers are the same; figures are taken to be."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, Image.Image):
        return a.tobytes() == b.tobytes()
    if hasattr(a, "live_state"):
        return a.live_state() == b.live_state()
    if isinstance(a, float) and isinstance(b, (float, int)):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(equal(getattr(a, n), getattr(b, n)) for n in names)
    if type(a).__eq__ is object.__eq__:
        return type(a) is type(b)
    return bool(a == b)


@dataclasses.dataclass(frozen=True)
class Door:
    path: str  # below rar_nb
    right: Callable[[Room], dict]  # arguments that are right
    takes: dict[str, Kind]
    method: str | None = None  # of the object that `right` gives as 'self'

    def call(self, given: dict):
        if self.method is None:
            return find(self.path)(**given)
        given = dict(given)
        owner = given.pop("self")
        return getattr(owner, self.method)(**given)

    @property
    def name(self) -> str:
        return self.path.split(".", self.path.count(".") - (self.path.split(".")[-2][0].isupper()))[
            -1
        ]


def module_of(path: str) -> str:
    parts = [part for part in path.split(".")[:-1] if part[0].islower()]
    return parts[-1]


def door_cases(door: Door) -> Iterator[Case]:
    short = door.path.removeprefix("play.").split(".", 1)
    label = ".".join(short) if len(short) > 1 else short[0]

    def right(room):
        door.call(door.right(room))
        plt.close("all")
        return "right"

    yield Case(f"doors/{label}", module_of(door.path), f"{label} with right arguments", right, str)
    sample = Room(made.place(), np.random.default_rng(0))
    base = door.right(sample)
    for parameter, kind in door.takes.items():
        for what, value, same in kind.values(base[parameter]):

            def act(room, parameter=parameter, value=value, same=same):
                given = door.right(room)
                value = value(room) if value is pipe else value
                try:
                    torch.manual_seed(0)
                    answer = door.call(given | {parameter: value})
                finally:
                    plt.close("all")
                if same is NOTHING:
                    raise Wrong(f"{parameter} = {value!r} was accepted"[:200])
                torch.manual_seed(0)
                wanted = door.call(door.right(room) | {parameter: same})
                if not equal(wanted, answer):
                    raise Wrong(f"{parameter} = {value!r} gives another answer"[:200])
                return "right"

            shown = "named pipe" if value is pipe else repr(value).replace("\n", " ")
            yield Case(
                f"doors/{label}-{parameter}-{what}",
                module_of(door.path),
                f"{label}({parameter}={shown[:60]})",
                act,
                str,
            )


# What is given: right arguments, made anew for each case where a call may change them.


@cache
def model():
    return made.model_of()


@cache
def tokenizer():
    return find("runs.run_folders.open_tokenizer")(made.finished())[1]


@cache
def image_data():
    return find("data.images.open_data")(str(made.images()), made.SIDE)


@cache
def token_data():
    return find("data.tokens.TokenData").open(made.tokens() / "train")


@cache
def classifier():
    return find("evaluation.SmallCNN")(3, C).eval()


@cache
def trace():
    return find("play.watch.make_trace")(
        digits_model(), digits_tokenizer(), 3, 0, digits_run().sample
    )


@cache
def digits():
    return find("runs.run_folders.open_run")(Path(find("support.PROJECT")) / "data" / "digits_run")


def digits_run():
    return digits()[0]


def digits_tokenizer():
    return digits()[1]


def digits_model():
    return digits()[2]


def ids(count: int = 3) -> torch.Tensor:
    return torch.randint(V, (count, L), generator=torch.Generator().manual_seed(1))


def orders(count: int = 3) -> torch.Tensor:
    return torch.rand(count, L, generator=torch.Generator().manual_seed(2)).argsort(1)


def uint8(count: int = 12, channels: int = 3, side: int = made.SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator).to(torch.uint8)


def floats(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4))


def labels(count: int = 3) -> torch.Tensor:
    return torch.arange(count) % C


def rows() -> list[dict]:
    return find("runs.run_folders.read_metrics")(made.finished() / "metrics.jsonl")


def statistics(seed: int = 0) -> dict[str, np.ndarray]:
    points = np.random.default_rng(seed).normal(size=(40, 4))
    return dict(mu=points.mean(0), sigma=np.cov(points, rowvar=False))


IDS, ORDERS = Tensor(low=0, high=V - 1), Tensor(low=0, high=L - 1)
CLASSES = Tensor(low=0, high=C - 1)
CONDITION = Tensor(low=0, high=V + C + 1)
PIXELS = Tensor()
RUN_OBJECT, BATCH = Object(), Int(low=1, skip=("huge",))
STATISTICS = Values(
    wrong=(
        ("no-sigma", {"mu": np.zeros(4)}),
        ("other-size", {"mu": np.zeros(3), "sigma": np.eye(3)}),
        ("nan-inside", {"mu": np.full(4, np.nan), "sigma": np.eye(4)}),
        ("inf-inside", {"mu": np.zeros(4), "sigma": np.full((4, 4), np.inf)}),
        ("flat", {"mu": np.zeros(4), "sigma": np.zeros(4)}),
        ("texts", {"mu": "a", "sigma": "b"}),
    )
)
METRIC_ROWS = Values(
    wrong=(
        ("numbers", [1, 2]),
        ("no-step", [{"loss": 1.0}]),
        ("text-inside", [{"step": 1, "loss": "x"}]),
        ("None-inside", [{"step": 1, "loss": None}]),
    ),
    skip=("list",),
)


def given(**values) -> Callable[[Room], dict]:
    """The same arguments for every case; functions are called to make them."""
    return lambda room: {
        name: value() if isinstance(value, partial) else value for name, value in values.items()
    }


def sample_config():
    return made.run().sample


def core() -> Iterator[Door]:
    """Chapters 01 to 07."""
    run, config = made.run(), made.run().model
    yield Door("tokenizer.psnr", given(a=uint8(), b=uint8() // 2), dict(a=PIXELS, b=PIXELS))
    yield Door(
        "tokenizer.stack_images",
        given(data=image_data()[0], indices=[0, 5]),
        dict(
            data=Object(),
            indices=Values(
                optional=True,
                wrong=(("high", [0, 10**6]), ("nan-inside", [math.nan]), ("text-inside", ["x"])),
            ),
        ),
    )
    yield Door("tokenizer.make_tokenizer", given(config=run.tokenizer), dict(config=Object()))
    yield Door("tokenizer.GreyTokenizer", given(config=None), dict(config=Object(optional=True)))
    yield Door(
        "tokenizer.to_float",
        given(images=uint8(), value_range=(0.0, 1.0)),
        dict(
            images=Tensor(skip=("empty", "fewer-axes", "more-axes", "scalar")),
            value_range=Values(
                wrong=(("one", (1.0,)), ("texts", ("a", "b")), ("nan-inside", (0.0, math.nan)))
            ),
        ),
    )
    yield Door(
        "tokenizer.to_uint8",
        given(images=floats(2, 3, 4, 4), value_range=(0.0, 1.0)),
        dict(
            images=Tensor(skip=("empty", "fewer-axes", "more-axes", "scalar", "int", "inf-inside")),
            value_range=Values(
                wrong=(("one", (1.0,)), ("texts", ("a", "b")), ("equal", (1.0, 1.0)))
            ),
        ),
    )
    yield Door(
        "tokenizer.grid_side", given(num_tokens=49), dict(num_tokens=Int(low=0, skip=("huge",)))
    )
    for made_of in (grey(), tokenizer()):
        channels = made_of.channels
        images, tokens = floats(2, channels, 16, 16), ids(2)
        yield Door(
            f"tokenizer.{type(made_of).__name__}.encode",
            given(self=made_of, images=images),
            dict(images=Tensor(skip=("empty",))),
            method="encode",
        )
        yield Door(
            f"tokenizer.{type(made_of).__name__}.decode",
            given(self=made_of, tokens=tokens),
            dict(tokens=Tensor(low=0, high=V - 1, skip=("empty",))),
            method="decode",
        )
    yield Door(
        "tokenizer.reconstruct",
        given(tokenizer=tokenizer(), images=uint8(), batch_size=250),
        dict(tokenizer=Object(), images=Tensor(skip=("low-inside", "empty")), batch_size=BATCH),
    )
    yield Door(
        "tokenizer.train_tokenizer",
        lambda room: dict(
            tokenizer=find("tokenizer.make_tokenizer")(
                dataclasses.replace(run.tokenizer, vq_steps=2, vq_batch_size=2)
            ),
            data=image_data()[0],
            seed=1,
            device="cpu",
            progress=False,
            workers=0,
        ),
        dict(
            tokenizer=Object(),
            data=Object(),
            seed=Int(low=0),
            device=Word(skip=("bytes-of-it",)),
            progress=Truth(),
            workers=Int(low=0, skip=("huge",)),
        ),
    )
    # Orders
    x = floats(3, L)
    for name in ("permute", "unpermute"):
        yield Door(
            f"orders.{name}",
            given(x=x, orders=orders()),
            dict(
                x=Tensor(skip=("int", "nan-inside", "inf-inside", "complex", "more-axes")),
                orders=ORDERS,
            ),
        )
    yield Door(
        "orders.inverse",
        given(orders=orders()),
        dict(orders=Tensor(low=0, high=L - 1, skip=("empty",))),
    )
    yield Door("orders.raster_order", given(num_tokens=L), dict(num_tokens=Int(low=1)))
    yield Door(
        "orders.sample_orders",
        lambda room: dict(
            batch_size=3, num_tokens=L, r=0.5, generator=torch.Generator().manual_seed(0)
        ),
        dict(
            batch_size=Int(low=0),
            num_tokens=Int(low=0),
            r=Number(low=0, high=1),
            generator=Object(optional=True),
        ),
    )
    yield Door(
        "orders.random_ratio",
        given(step=3, start=2, end=6, schedule="linear"),
        dict(step=Number(low=None), start=Number(low=None), end=Number(low=None), schedule=Word()),
    )
    yield Door(
        "orders.scan_order",
        given(name="spiral_in", grid_size=4),
        dict(name=Word(), grid_size=Int(low=1)),
    )
    # Embeddings
    tables = floats(1, L + 10, 8)
    yield Door(
        "embeddings.position_embedding",
        given(orders=orders(), pos_embed=tables, target_aware_pos_embed=tables + 1),
        dict(
            orders=Tensor(low=0, high=L - 1, skip=("empty",)),
            pos_embed=Tensor(skip=("int", "nan-inside", "inf-inside", "complex")),
            target_aware_pos_embed=Tensor(skip=("int", "nan-inside", "inf-inside", "complex")),
        ),
    )
    yield Door(
        "embeddings.drop_classes",
        lambda room: dict(
            condition=labels(5),
            null_id=9,
            probability=0.5,
            generator=torch.Generator().manual_seed(0),
        ),
        dict(
            condition=Tensor(skip=("empty", "bool")),
            null_id=Int(low=0, skip=("huge",)),
            probability=Number(low=0, high=1),
            generator=Object(optional=True),
        ),
    )
    # Transformer
    condition = config.condition_id(labels())
    yield Door(
        "transformer.ModelConfig.orders",
        lambda room: dict(
            self=dataclasses.replace(config, final_order="spiral_in"),
            batch_size=3,
            r=0.5,
            generator=torch.Generator().manual_seed(0),
        ),
        dict(batch_size=Int(low=0), r=Number(low=0, high=1), generator=Object(optional=True)),
        method="orders",
    )
    yield Door("transformer.RAR", given(config=config), dict(config=Object()))
    yield Door(
        "transformer.RAR.forward",
        given(self=model(), tokens=ids(), condition=condition, orders=orders()),
        dict(tokens=IDS, condition=CONDITION, orders=ORDERS),
        method="__call__",
    )
    yield Door(
        "transformer.rar_loss",
        given(logits=floats(3, L + 1, V), tokens=ids(), orders=orders()),
        dict(logits=Tensor(skip=("int", "nan-inside", "inf-inside")), tokens=IDS, orders=ORDERS),
    )
    # Training
    train = run.train
    yield Door(
        "trainer.learning_rate",
        given(step=3.0, warmup=2.0, total=10.0, peak=1e-3, minimum=1e-5),
        {name: Number(low=None) for name in ("step", "warmup", "total", "peak", "minimum")},
    )
    for name in ("learning_rate_at", "random_ratio_at"):
        yield Door(
            f"trainer.{name}",
            given(step=3, train=train),
            dict(step=Int(low=0, skip=("huge", "half", "float")), train=Object()),
        )
    yield Door(
        "trainer.make_optimizer",
        given(model=model(), train=train, fused=False),
        dict(model=Object(), train=Object(), fused=Truth()),
    )
    yield Door(
        "trainer.step_generator",
        given(seed=42, step=3),
        dict(seed=Int(high=2**32 - 1), step=Int(high=2**32 - 1)),
    )
    yield Door(
        "trainer.make_batch",
        given(data=token_data(), model=config, train=train, seed=42, step=3, rank=0, processes=1),
        dict(
            data=Object(),
            model=Object(),
            train=Object(),
            seed=Int(high=2**32 - 1),
            step=Int(high=2**32 - 1),
            rank=Int(high=0),
            processes=Int(low=1),
        ),
    )
    yield Door(
        "trainer.train",
        lambda room: dict(
            model=made.model_of(),
            data=token_data(),
            config=dataclasses.replace(
                train, epochs=1, anneal_start=0, anneal_end=1, steps_per_epoch=2
            ),
            seed=42,
            on_step=None,
        ),
        dict(
            model=Object(),
            data=Object(),
            config=Object(),
            seed=Int(high=2**32 - 1),
            on_step=Function(optional=True),
        ),
    )
    yield Door(
        "trainer.validation_loss",
        given(model=model(), data=token_data(), r=0.5, batch_size=250),
        dict(model=Object(), data=Object(), r=Number(low=0, high=1), batch_size=BATCH),
    )
    yield from sampling()
    yield from evaluating()


@cache
def grey():
    return find("tokenizer.GreyTokenizer")()


def plan():
    return find("fast_sampling.Plan")()


def wrong_plans() -> tuple[tuple[str, Any], ...]:
    usual = plan()
    changes: dict[str, list] = dict(
        kernels=["yes", 1], packed=[None], one_call=[3], graphs=[2],
        table_bytes=[-1, 0.5], span=[-1, "all"],
    )  # fmt: skip
    return tuple(
        (f"{name}-{value}", usual._replace(**{name: value}))
        for name, values in changes.items()
        for value in values
    )


def sampling() -> Iterator[Door]:
    noise = floats(3, L)
    in_unit = Tensor(low=0, high=1, skip=("int",))
    yield Door(
        "sampler.image_noise",
        given(seed=0, indices=[0, 3], num_tokens=L),
        dict(
            seed=Int(low=0, high=2**64 - 1),
            indices=Values(
                wrong=(
                    ("low", [-1]),
                    ("huge", [2**64]),
                    ("half", [0.5]),
                    ("text-inside", ["x"]),
                    ("None-inside", [None]),
                    ("number", 3),
                )
            ),
            num_tokens=Int(low=1),
        ),
    )
    yield Door(
        "sampler.final_orders",
        lambda room: dict(
            config=dataclasses.replace(made.run().model, final_order="random"),
            seed=0,
            indices=[0, 3],
        ),
        dict(
            config=Object(),
            seed=Int(low=0, high=2**64 - 1),  # also not None, as the orders are random
            indices=Values(wrong=(("low", [-1]), ("half", [0.5]), ("text-inside", ["x"]))),
        ),
    )
    yield Door(
        "sampler.SamplingState",
        given(model=model(), classes=labels(), sample=sample_config(), orders=orders()),
        dict(
            model=Object(),
            classes=CLASSES,
            sample=Object(),
            orders=Tensor(low=0, high=L - 1, optional=True),
        ),
    )
    for name in ("sampler.textbook_tokens", "sampler.fast_state"):
        yield Door(
            name,
            given(
                model=model(),
                classes=labels(),
                sample=sample_config(),
                noise=noise,
                orders=orders(),
            ),
            dict(
                model=Object(),
                classes=CLASSES,
                sample=Object(),
                noise=dataclasses.replace(in_unit, optional=name.endswith("fast_state")),
                orders=Tensor(low=0, high=L - 1, optional=True),
            ),
        )
    yield Door(
        "sampler.fast_state",
        given(model=model(), classes=labels(), sample=sample_config(), known=ids(), plan=plan()),
        dict(known=Tensor(low=-1, high=V - 1, optional=True), plan=Values(wrong_plans())),
    )
    yield Door(
        "sampler.sample_tokens",
        given(
            model=model(),
            classes=labels(),
            sample=sample_config(),
            noise=noise,
            orders=orders(),
            known=None,
            on_step=None,
            plan=plan(),
        ),
        dict(
            model=Object(),
            classes=CLASSES,
            sample=Object(),
            noise=in_unit,
            orders=Tensor(low=0, high=L - 1, optional=True),
            on_step=Function(optional=True),
            plan=Values(wrong_plans()),
        ),
    )
    yield Door(
        "sampler.sample_tokens",
        given(
            model=model(),
            classes=labels(),
            sample=sample_config(),
            noise=noise,
            orders=None,
            known=ids(),
        ),
        dict(known=Tensor(low=-1, high=V - 1, optional=True)),
    )
    yield Door(
        "sampler.sample_batch",
        given(
            model=model(),
            tokenizer=tokenizer(),
            classes=labels(6),
            numbers=torch.arange(2),
            sample=sample_config(),
            seed=0,
            on_step=None,
        ),
        dict(
            model=Object(),
            tokenizer=Object(),
            classes=Tensor(low=0, high=C - 1),
            numbers=Tensor(low=0, high=5),
            sample=Object(),
            seed=Int(high=2**64 - 1),
            on_step=Function(optional=True),
        ),
    )
    yield Door(
        "sampler.sample_images",
        given(
            model=model(),
            tokenizer=tokenizer(),
            classes=labels(),
            sample=sample_config(),
            seed=0,
            progress=False,
        ),
        dict(
            model=Object(),
            tokenizer=Object(),
            classes=CLASSES,
            sample=Object(),
            seed=Int(high=2**64 - 1),
            progress=Truth(),
        ),
    )
    yield Door("fast_sampling.forget", given(model=model()), dict(model=Object()))
    yield Door(
        "sampler.balanced_classes",
        given(num_samples=6, num_classes=3),
        dict(num_samples=Int(low=1), num_classes=Int(low=1)),
    )


def evaluating() -> Iterator[Door]:
    train, validation = image_data()
    yield Door(
        "evaluation.train_classifier",
        given(
            images=uint8(),
            labels=labels(12),
            num_classes=C,
            epochs=1,
            batch_size=8,
            seed=0,
            shift=2,
        ),
        dict(
            images=PIXELS,
            labels=Tensor(low=0, high=C - 1),
            num_classes=Int(low=1, skip=("huge",)),
            epochs=Int(low=1, skip=("huge",)),
            batch_size=BATCH,
            seed=Int(low=0),
            shift=Int(low=0, skip=("huge",)),
        ),
    )
    yield Door(
        "reports.report.classifier_for",
        given(images=uint8(), labels=labels(12), num_classes=C),
        dict(
            images=PIXELS,
            labels=Tensor(low=0, high=C - 1),
            num_classes=Int(low=1, skip=("huge",)),
        ),
    )
    for name in ("evaluation.frechet_distance", "reports.fidelity.fid"):
        yield Door(
            name,
            given(one=statistics(0), other=statistics(1)),
            dict(one=STATISTICS, other=STATISTICS),
        )
    yield Door(
        "evaluation.proxy_fid",
        given(images=uint8(), reference=uint8() // 2, classifier=classifier()),
        dict(images=PIXELS, reference=PIXELS, classifier=Object()),
    )
    yield Door(
        "evaluation.nearest",
        given(images=uint8(), reference=uint8() // 2, batch_size=250),
        dict(images=PIXELS, reference=PIXELS, batch_size=BATCH),
    )
    yield Door(
        "evaluation.evaluate_samples",
        given(
            samples=uint8(),
            classes=labels(12),
            tokenizer=tokenizer(),
            train_images=train,
            validation_images=validation,
            classifier=classifier(),
            most=20,
        ),
        dict(
            samples=PIXELS,
            classes=CLASSES,
            tokenizer=Object(),
            train_images=Object(),
            validation_images=Object(),
            classifier=Object(optional=True),
            most=Int(low=1, skip=("huge",)),
        ),
    )
    yield Door(
        "reports.fidelity.compare_features",
        given(features=floats(30, 8), reference=floats(40, 8) + 0.1, statistics=None),
        dict(features=Tensor(skip=("int",)), reference=Tensor(skip=("int",))),
    )
    yield Door(
        "reports.fidelity.inception_score",
        given(logits=floats(30, 12)),
        dict(logits=Tensor(skip=("int",))),
    )
    yield Door(
        "reports.fidelity.RGBImages",
        given(source=uint8(), size=None),
        dict(
            source=Tensor(skip=("nested",)),
            size=Values(optional=True, wrong=(("zero", 0), ("half", 1.5), ("low", -1)), skip=()),
        ),
    )


def data() -> Iterator[Door]:
    train, _ = image_data()
    picture = made.picture(3)
    yield Door(
        "data.images.Digits", lambda room: dict(path=find("data.images.DIGITS")), dict(path=Place())
    )
    yield Door("data.images.to_rgb", given(image=picture), dict(image=Object()))
    yield Door(
        "data.images.center_crop",
        given(image=picture, size=8),
        dict(image=Object(), size=Int(low=1)),
    )
    yield Door(
        "data.images.ten_crop",
        given(images=uint8(), size=8),
        dict(
            images=Tensor(skip=("empty", "more-axes", "fewer-axes", "complex", "bool", "float")),
            size=Int(low=1, high=16),
        ),
    )
    yield Door(
        "data.images.ImageData",
        given(
            source=train.data.source if hasattr(train, "data") else train.source,
            size=16,
            channels=3,
        ),
        dict(
            source=Object(),
            size=Int(low=1, optional=True),
            channels=Values(
                optional=True, wrong=(("zero", 0), ("two", 2), ("low", -1), ("half", 1.5))
            ),
        ),
    )
    yield Door(
        "data.images.split_validation",
        given(data=train.data if hasattr(train, "data") else train, per_class=2),
        dict(data=Object(), per_class=Int(low=1, optional=True)),
    )
    yield Door(
        "data.images.open_folder",
        given(folder=made.images(), image_size=16),
        dict(folder=Place(), image_size=Int(low=1, optional=True)),
    )
    yield Door(
        "data.images.open_data",
        given(data=str(made.images()), image_size=16, root=made.place(), download=False),
        dict(data=Place(), image_size=Int(low=1, optional=True), download=Truth()),
    )
    small = dict(tokens=ids(6).view(6, 1, L), labels=labels(6))
    words = Tensor(low=0, high=2**16 - 1)
    yield Door("data.tokens.TokenData", given(**small), dict(tokens=words, labels=words))
    yield Door(
        "data.tokens.TokenData.rows",
        given(self=token_data(), indices=[0, 20], crops=[0, 1]),
        dict(
            indices=Values(wrong=INDICES),
            crops=Values(wrong=INDICES, optional=True),
        ),
        method="rows",
    )
    yield Door(
        "data.tokens.TokenData.save",
        lambda room: dict(
            self=find("data.tokens.TokenData")(**small),
            folder=room.folder / "out",
            codebook_size=V,
            num_classes=C,
            tokenizer="",
            tokenizer_sha256="",
        ),
        dict(
            folder=Place(skip=("text", "missing", "url", "nobody")),
            codebook_size=Int(low=1, skip=("huge",)),
            num_classes=Int(low=1, skip=("huge",)),
            tokenizer=Text(),
            tokenizer_sha256=Text(),
        ),
        method="save",
    )
    yield Door(
        "data.tokens.write_shard",
        lambda room: dict(folder=room.folder, number=0, **small),
        dict(
            folder=Place(skip=("text", "missing", "url", "nobody")),
            number=Int(low=0),
            tokens=words,
            labels=words,
        ),
    )
    yield Door(
        "data.tokens.pretokenize",
        given(tokenizer=tokenizer(), data=train, shifts=0, batch_size=100, progress=False),
        dict(
            tokenizer=Object(), data=Object(), shifts=Int(low=0), batch_size=BATCH, progress=Truth()
        ),
    )


INDICES = (
    ("number", 3),
    ("high", [0, 10**6]),
    ("low", [-1, 0]),
    ("half", [0.5, 1.0]),
    ("nan-inside", [0, math.nan]),
    ("text-inside", ["a", "b"]),
    ("huge", [2**70, 0]),
    ("nested", [[0], [1]]),
    ("None-inside", [None, 0]),
)


def pretrained() -> Iterator[Door]:
    run, run_dir = made.run(), made.finished()
    yield Door(
        "pretrained.checkpoints.save_weights",
        lambda room: dict(module=model(), path=room.folder / "m.safetensors"),
        dict(module=Object(), path=Place(skip=("text", "missing", "url", "nobody"))),
    )
    yield Door(
        "pretrained.checkpoints.load_weights",
        lambda room: dict(module=made.model_of(), path=run_dir / "model.safetensors"),
        dict(module=Object(), path=Place()),
    )
    yield Door(
        "pretrained.checkpoints.find_weights",
        given(source=run_dir, filename="model.safetensors"),
        dict(source=Place(), filename=Text(skip=("text",))),
    )
    yield Door(
        "pretrained.checkpoints.load_pretrained",
        given(make=made.model_of, source=run_dir, filename="model.safetensors"),
        dict(make=Function(skip=()), source=Place(), filename=Text(skip=("text",))),
    )
    for name in ("MaskGITVQ", "LlamaGenVQ"):
        right = given(source=run_dir / "model.safetensors")
        yield Door(f"pretrained.vq_models.{name}.from_pretrained", right, dict(source=Place()))
    vqgan = dataclasses.replace(run.tokenizer, kind="vqgan")
    yield Door("pretrained.vq_models.VQGAN", given(config=vqgan), dict(config=Object()))
    yield Door(
        "pretrained.presets.override",
        given(run=run, changes={"seed": 3}),
        dict(
            run=Object(),
            changes=Values(
                optional=True,
                skip=("dict",),
                wrong=(("unknown", {"x": 1}), ("number", {3: 1}), ("part", {"model": {}})),
            ),
        ),
    )
    yield Door(
        "pretrained.presets.resolve",
        given(run=run, num_images=30, num_classes=3, channels=3, image_size=16),
        dict(
            run=Object(),
            num_images=Int(low=8, skip=("huge",)),
            num_classes=Int(low=1),
            channels=Int(low=1, skip=("huge",)),
            image_size=Int(low=1),
        ),
    )
    yield Door(
        "pretrained.presets.save_run_config",
        lambda room: dict(run=run, path=room.folder / "c.json"),
        dict(run=Object(), path=Place(skip=("text", "missing", "url", "nobody"))),
    )
    yield Door(
        "pretrained.presets.model_of",
        given(source=run_dir, preset=None, filename=None),
        dict(preset=Word(optional=True)),
    )


def runs() -> Iterator[Door]:
    run, run_dir = made.run(), made.finished()
    new = Place(skip=("text", "missing", "url", "nobody", "empty-text"))
    yield Door(
        "runs.run_folders.Metrics",
        lambda room: dict(path=room.folder / "m.jsonl", keep=0),
        dict(
            path=Place(optional=True, skip=("text", "missing", "url", "nobody")),
            keep=Int(low=0, skip=("huge", "half")),
        ),
    )
    yield Door(
        "runs.run_folders.curve",
        given(rows=rows(), name="loss"),
        dict(rows=METRIC_ROWS, name=Text()),
    )
    yield Door(
        "runs.run_folders.check_trackers",
        given(names=[]),
        dict(names=Values(skip=("list",), wrong=(("unknown", ["mlflow"]), ("numbers", [3])))),
    )
    yield Door(
        "runs.run_folders.new_run_folder",
        lambda room: dict(folder=room.folder / "r", overwrite=False),
        dict(folder=new, overwrite=Truth()),
    )
    yield Door(
        "runs.run_folders.has_run",
        given(folder=run_dir, run=run),
        dict(  # where nothing can be, there is no run
            folder=Place(skip=("text", "missing", "url", "empty-text", "pipe", "in-a-file")),
            run=Object(),
        ),
    )
    for name in ("open_tokenizer", "open_run"):
        yield Door(f"runs.run_folders.{name}", given(folder=run_dir), dict(folder=Place()))
    yield Door(
        "runs.run_folders.load_latest",
        lambda room: dict(model=made.model_of(), folder=run_dir),
        dict(model=Object(), folder=Place()),
    )
    yield Door("runs.run_folders.open_tokens", given(folder=made.tokens()), dict(folder=Place()))
    yield Door(
        "runs.run_folders.check_tokens",
        given(run=run, data=token_data()),
        dict(run=Object(), data=Object()),
    )
    yield Door(
        "runs.run_folders.resolve_tokens",
        given(run=run, data=token_data()),
        dict(run=Object(), data=Object()),
    )
    yield Door(
        "runs.training.train_run",
        lambda room: dict(
            run=run,
            model=made.model_of(),
            data=token_data(),
            validation=None,
            folder=None,
            max_minutes=None,
            progress=False,
            cpu=True,
        ),
        dict(
            run=Object(),
            model=Object(),
            data=Object(),
            validation=Object(optional=True),
            max_minutes=Number(optional=True),
            folder=Place(optional=True, skip=("text", "missing", "url", "nobody", "empty-text")),
        ),
    )
    yield Door(
        "runs.training.main",
        lambda room: dict(
            run_dir=str(room.folder / "r"),
            tokens=str(made.tokens()),
            preset="tiny",
            changes=TINY,
            cpu=True,
        ),
        dict(
            run_dir=Place(
                skip=(
                    "text",
                    "missing",
                    "url",
                    "nobody",
                    "empty-text",
                    "list",
                    "dict",
                    "thing",
                    "bytes",
                    "nan",
                    "type",
                    "number",
                )
            ),
            tokens=Place(skip=("list", "dict", "thing", "bytes", "nan", "type", "number")),
            preset=Word(
                skip=(
                    "None",
                    "list",
                    "dict",
                    "thing",
                    "bytes",
                    "nan",
                    "type",
                    "number",
                    "bytes-of-it",
                )
            ),
            changes=Word(
                skip=(
                    "None",
                    "list",
                    "dict",
                    "thing",
                    "bytes",
                    "nan",
                    "type",
                    "number",
                    "bytes-of-it",
                    "upper",
                    "space",
                )
            ),
        ),
    )
    yield Door(
        "runs.pretokenizer.pretokenize_folder",
        lambda room: dict(
            config=find("runs.pretokenizer.PretokenizeConfig")(
                str(made.images()), str(room.folder / "out"), str(run_dir), crops="one", cpu=True
            ),
            processes=1,
            progress=False,
        ),
        dict(config=Object(), processes=Int(low=1, skip=("huge",)), progress=Truth()),
    )
    yield Door(
        "runs.image_sets.generate",
        lambda room: dict(
            model=model(),
            tokenizer=tokenizer(),
            folder=new_place(room),
            sample=dataclasses.replace(run.sample, num_samples=3, sample_batch_size=3),
            seed=0,
            share=(0, 1),
            progress=False,
        ),
        dict(
            model=Object(),
            tokenizer=Object(),
            folder=new,
            sample=Object(),
            seed=Int(high=2**64 - 1),
            share=Values(
                wrong=(
                    ("zero", (0, 0)),
                    ("high", (1, 1)),
                    ("one", (0,)),
                    ("half", (0.5, 1)),
                    ("low", (-1, 2)),
                )
            ),
        ),
    )
    yield Door("runs.image_sets.remove_set", image_set, dict(folder=Place()))
    yield Door("runs.image_sets.open_model", given(run_dir=run_dir), dict(run_dir=Place()))
    yield Door(
        "runs.image_sets.pack_npz",
        lambda room: image_set(room) | dict(path=room.folder / "x.npz"),
        dict(folder=Place(), path=Place(skip=("text", "missing", "url", "nobody"))),
    )
    cost, device = run.model, known()
    yield Door("runs.cost.parameters", given(config=cost), dict(config=Object()))
    yield Door(
        "runs.cost.train_flops",
        given(config=cost, batch=8),
        dict(config=Object(), batch=Int(low=1, skip=("huge",))),
    )
    yield Door(
        "runs.cost.sample_flops",
        given(config=cost, batch=8),
        dict(config=Object(), batch=Int(low=1, skip=("huge",))),
    )
    yield Door(
        "runs.cost.training_bytes",
        given(config=cost, batch=8, devices=1),
        dict(config=Object(), batch=Int(low=1, skip=("huge",)), devices=Int(low=1, skip=("huge",))),
    )
    yield Door("runs.cost.sampling_bytes", given(run=run), dict(run=Object()))
    for name in ("costs", "cost_report"):
        runs_name = "run" if name == "costs" else "runs"
        yield Door(
            f"runs.cost.{name}",
            given(**{runs_name: run}, device=device, devices=1, utilisation=0.4, price=2.0),
            {
                runs_name: Object(),
                "device": Object(optional=True),
                "devices": Int(low=1, skip=("huge",)),
                "utilisation": Number(low=0, high=1, above=True),
                "price": Number(low=0, optional=True),
            },
        )


TINY = '{"data": "digits", "kind": "conv_vq", "codebook_size": 8, "image_size": 16, "width": 8}'


@cache
def known():
    return find("runs.cost.known_device")("NVIDIA H100")


def new_place(room: Room) -> Path:
    """A folder that is not there yet, another one at each call."""
    return room.folder / f"set-{len(list(room.folder.iterdir()))}"


def image_set(room: Room) -> dict:
    sample = dataclasses.replace(made.run().sample, num_samples=3, sample_batch_size=3)
    find("runs.image_sets.generate")(model(), tokenizer(), room.folder / "a-set", sample)
    return dict(folder=room.folder / "a-set")


def reports() -> Iterator[Door]:
    run = made.run()
    points = [
        dict(guidance_scale=g, guidance_power=1.0, temperature=1.0, proxy_fid=g + 1.0)
        for g in (0.0, 2.0)
    ]
    yield Door("reports.report.plot_training", given(rows=rows(), final_order="spiral_in"),
               dict(rows=METRIC_ROWS, final_order=Text()))  # fmt: skip
    yield Door(
        "reports.report.plot_nearest",
        given(samples=uint8(), validation=uint8() // 2, reference=uint8() // 3),
        dict(samples=PIXELS, validation=PIXELS, reference=PIXELS),
    )
    wrong = (("nan-inside", [math.nan]), ("text-inside", ["x"]), ("low", [-1.0]), ("number", 3))
    yield Door(
        "reports.report.sweep_points",
        given(sample=run.sample, scales=[0.0, 2.0], powers=[1.0], temperatures=[1.0]),
        dict(
            sample=Object(),
            scales=Values(wrong=wrong, optional=True, skip=("list", "empty-text", "dict")),
            powers=Values(wrong=wrong, optional=True, skip=("list", "empty-text", "dict")),
            temperatures=Values(wrong=wrong, optional=True, skip=("list", "empty-text", "dict")),
        ),
    )
    yield Door(
        "reports.report.plot_sweep",
        given(rows=points, metric="proxy_fid", label="", lower=True),
        dict(
            rows=Values(wrong=(("numbers", [1]), ("no-metric", [{"guidance_scale": 1.0}]))),
            metric=Word(skip=("upper",)),
            lower=Truth(),
        ),
    )
    yield Door(
        "reports.report.plot_images",
        given(images=uint8(), columns=4, title="x", column_names=["a"], row_names=["b"]),
        dict(
            images=PIXELS,
            columns=Int(low=1, skip=("huge",)),
            column_names=Values(
                skip=("list", "dict", "text", "empty-text", "bytes"), wrong=(("numbers", [3]),)
            ),
            row_names=Values(
                skip=("list", "dict", "text", "empty-text", "bytes"), wrong=(("numbers", [3]),)
            ),
        ),
    )
    yield Door(
        "reports.report.read_set",
        lambda room: image_set(room) | dict(numbers=[0, 2], channels=3),
        dict(
            folder=Place(),
            numbers=Values(
                wrong=(
                    ("high", [99]),
                    ("low", [-1]),
                    ("text-inside", ["x"]),
                    ("half", [0.5]),
                    ("number", 3),
                )
            ),
            channels=Int(low=1, high=3),
        ),
    )
    yield Door(
        "style.image_grid",
        given(images=uint8(), columns=4, gap=2, scale=1),
        dict(images=PIXELS, columns=Int(low=1, skip=("huge",)), gap=Int(low=0), scale=Int(low=1)),
    )
    yield Door(
        "style.save_png",
        lambda room: dict(image=made.picture(1), path=room.folder / "x.png"),
        dict(image=Object(), path=Place(skip=("text", "missing", "url", "nobody"))),
    )
    yield Door(
        "reports.published.check_measurement",
        lambda room: dict(entry=dict(files_entry()), file="x"),
        dict(entry=Values()),
    )


def files_entry() -> dict:
    from tests.broken.files import ENTRY

    return ENTRY


def play() -> Iterator[Door]:
    order = [*range(16)]
    wrong_orders = (
        ("twice", [0] * 16),
        ("short", [0, 1]),
        ("high", [*range(1, 17)]),
        ("texts", ["a"] * 16),
        ("half", [0.5] * 16),
    )
    grid = Int(low=1)
    yield Door(
        "play.scan_orders.named_order",
        given(name="z_curve", grid_size=4, seed=0),
        dict(name=Word(), grid_size=grid, seed=Int(low=0)),
    )
    yield Door(
        "play.scan_orders.statistics",
        given(order=order, grid_size=4),  # or the beginning of an order, which may be empty
        dict(
            order=Values(skip=("list",), wrong=tuple(w for w in wrong_orders if w[0] != "short")),
            grid_size=grid,
        ),
    )
    yield Door(
        "play.scan_orders.plot_figure_1",
        given(grid_size=4),
        dict(grid_size=Int(low=1, skip=("huge",))),
    )
    yield Door(
        "play.scan_orders.ScanOrders",
        given(order="z_curve", grid_size=4, step=3, seed=0, cells=(0, 1)),
        dict(
            order=Word(),
            grid_size=Int(low=2, high=32),
            step=Int(low=0),
            seed=Int(low=0),
            cells=Values(optional=True, skip=("list",), wrong=wrong_orders[2:]),
        ),
    )
    yield Door(
        "play.annealing.run_of",
        given(anneal_start=1.0, anneal_end=2.0, epochs=4.0, batch_size=8),
        dict(
            anneal_start=Number(),
            anneal_end=Number(),
            epochs=Number(above=True),
            batch_size=Int(low=1, skip=("huge",)),
        ),
    )
    yield Door(
        "play.annealing.Annealing",
        given(
            setting="digits",
            anneal_start=1.0,
            anneal_end=2.0,
            epoch=1.5,
            schedule="linear",
            final_order="spiral_in",
        ),
        dict(
            setting=Word(),
            schedule=Word(),
            final_order=Word(),
            anneal_start=Number(optional=True),
            anneal_end=Number(optional=True),
            epoch=Number(optional=True),
        ),
    )
    yield Door(
        "play.target_aware.TargetAware",
        given(road="raster", known=3, first=4, second=8),
        dict(
            road=Word(),
            known=Int(low=0, high=8),
            first=Int(low=0, high=8),
            second=Int(low=0, high=8),
        ),
    )
    yield Door(
        "play.target_aware.fold_positions",
        lambda room: dict(model=made.model_of(), orders=None),
        dict(model=Object()),
    )
    yield Door(
        "play.target_aware.fold_positions",
        lambda room: dict(model=made.model_of(), orders=orders()[:1]),
        dict(orders=Tensor(low=0, high=L - 1, optional=True)),
    )
    yield Door(
        "play.inpainting.fill_hole",
        given(
            model=digits_model(),
            tokens=torch.zeros(49, dtype=torch.long),
            hole=(47, 48),
            orders=torch.arange(49)[None],
            label=3,
            sample=digits_run().sample,
            seed=0,
            count=1,
        ),
        dict(
            model=Object(),
            orders=Tensor(low=0, high=48, optional=True),
            label=Int(high=9),
            sample=Object(),
            seed=Int(high=2**64 - 1),
            count=Int(low=1, high=2**30),
        ),
    )
    yield Door(
        "play.inpainting.fill_digit",
        given(
            tokens=torch.zeros(49, dtype=torch.long),
            hole=(47, 48),
            how=how(),
            label=3,
            guidance_scale=2.0,
            seed=0,
            model="annealed",
            own=False,
        ),
        dict(
            how=Word(),
            label=Int(high=9),
            guidance_scale=Number(),
            seed=Int(high=2**32 - 1),
            model=Word(),
            own=Truth(),
        ),
    )
    yield Door(
        "play.inpainting.export_digits",
        lambda room: dict(folder=room.folder / "digits"),
        dict(folder=Place(skip=("text", "missing", "url", "nobody"))),
    )
    yield Door(
        "play.inpainting.fill_order",
        given(hole=(1, 2), grid_size=4, how=how(), seed=0),
        dict(
            hole=Values(wrong=(("high", (99,)), ("texts", ("a",)), ("low", (-1,)), ("number", 3))),
            grid_size=grid,
            how=Word(),
            seed=Int(low=0),
        ),
    )
    yield Door(
        "play.watch.make_trace",
        given(
            model=digits_model(),
            tokenizer=digits_tokenizer(),
            label=3,
            seed=0,
            sample=digits_run().sample,
        ),
        dict(
            model=Object(),
            tokenizer=Object(),
            label=Int(high=9),
            seed=Int(high=2**64 - 1),
            sample=Object(),
        ),
    )
    yield Door(
        "play.watch.cached_run",
        given(folder=str(made.finished())),
        dict(
            folder=Place(
                skip=("text", "list", "dict", "thing", "bytes", "nan", "type", "number", "None")
            )
        ),
    )
    yield Door(
        "play.watch.plot_step",
        given(trace=trace(), tokenizer=digits_tokenizer(), step=3, layer=0, head=0),
        dict(trace=Object(), tokenizer=Object(), step=Int(high=49), layer=Int(), head=Int(low=-1)),
    )


def how() -> str:
    return next(iter(find("play.inpainting.HOW")))


ALL = [core, data, pretrained, runs, reports, play]


def every() -> Iterator[Case]:
    seen = set()
    for make in ALL:
        for door in make():
            for case in door_cases(door):
                if case.name not in seen:
                    seen.add(case.name)
                    yield case
