"""Panels that the browser draws: their modules, run by node, against the library."""

import json
import math
import re
from html import unescape

import numpy as np
import pytest
import torch

from rar_nb.orders import ANNEAL_SCHEDULES, SCAN_ORDERS, inverse, raster_order, sample_orders
from rar_nb.play.annealing import (
    Annealing,
    are_random,
    batch_orders,
    run_settings,
    tile_orders,
)
from rar_nb.play.inpainting import (
    HOW,
    Inpainting,
    class_probabilities,
    fill_order,
    hole_loss,
    validation_digits,
)
from rar_nb.play.scan_orders import ScanOrders, jumps, known_neighbours, named_order, statistics
from rar_nb.play.target_aware import TargetAware
from rar_nb.play.watch import Watch, cached_model
from rar_nb.play.widgets import JS, LIVE, module_text
from rar_nb.style import COLORS
from rar_nb.support import InvalidValue
from rar_nb.trainer import learning_rate_at, random_ratio_at
from tests.doors import refuses
from tests.node import needs_node, run_js
from tests.tools.static_outputs import WIDGET, strip

MODULES = sorted(path.name[:-3] for path in JS.iterdir())
PANELS = [ScanOrders, Annealing, TargetAware, Watch, Inpainting]
PAPER = ["raster", "spiral_in", "spiral_out", "z_curve", "subsample", "alternate"]


# Modules


@needs_node
@pytest.mark.parametrize("name", MODULES)
def test_one_text_has_all_that_a_module_imports(name, tmp_path):
    """It imports nothing any more, and is a module that exports the same."""
    (tmp_path / "inlined.mjs").write_text(module_text(name))
    assert not re.search(r"^import ", module_text(name), re.MULTILINE)
    code = (
        f"const [a, b] = [await import('./{name}.js'), await import('{tmp_path}/inlined.mjs')];"
        "console.log(JSON.stringify([Object.keys(a), Object.keys(b)]))"
    )
    first, second = run_js(code)
    assert first == second != []


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_narrow_and_fetch_nothing(name):
    text = (JS / f"{name}.js").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_there_is_one_kind_of_field_for_numbers():
    texts = [(JS / f"{name}.js").read_text() for name in MODULES]
    assert [text.count("type: 'number'") for text in texts if "type: 'number'" in text] == [1]


def test_an_unknown_module_is_refused():
    refuses(lambda: module_text("scan_order"), "JavaScript module = 'scan_order'")


@needs_node
def test_a_file_that_cannot_be_read_is_named():
    problems = run_js("""
        import {fetched} from './engines.js';
        const files = ['data:application/json,{half', 'http://127.0.0.1:9/settings.json'];
        const told = files.map(file => fetched(file, 'json').catch(problem => problem.message));
        console.log(JSON.stringify(await Promise.all(told)));
    """)
    assert problems[0].startswith("data:application/json,{half can't be read: ")
    assert problems[1].startswith("http://127.0.0.1:9/settings.json can't be read: ")


@needs_node
def test_two_windows_ask_a_kernel_under_different_numbers():
    """It sends its answers to both."""
    numbers = run_js("""
        const sent = [], model = {on() {}, get: () => ({}), send: request => sent.push(request)};
        for (const window of ['a', 'b']) {
          const {openKernel} = await import(`./engines.js?${window}`);
          openKernel(model).sequence('annealed')({position: [0]});
        }
        console.log(JSON.stringify(sent.flatMap(({number, sequence}) => [number, sequence])));
    """)
    assert numbers[0] != numbers[2] and numbers[1] != numbers[3]
    assert all(0 < number < 2**53 for number in numbers)


# One state, two hosts


@pytest.mark.parametrize("kind", PANELS)
def test_the_page_gets_the_state_of_the_widget(kind):
    panel = kind()
    (found,) = re.findall(
        r"^<div class=.rar-live. data-panel=.(\w+). data-state='([^']*)'>", panel.static_html()
    )
    assert found[0] == panel.panel
    assert json.loads(unescape(found[1])) == panel.live_state()
    names = set(re.findall(r"model\.get\('(\w+)'\)", (JS / f"{panel.panel}.js").read_text()))
    assert names <= set(panel.live_state())


@pytest.mark.parametrize("kind", PANELS)
def test_a_saved_output_has_a_picture_and_a_state(kind):
    panel = kind()
    data, metadata = panel._repr_mimebundle_()
    output = dict(output_type="display_data", data=data, metadata=metadata)
    cell = dict(cell_type="code", metadata={}, outputs=[output])
    assert strip(dict(cells=[cell], metadata={}))
    assert cell["metadata"]["rar_live"] == {"panel": panel.panel, "state": panel.live_state()}
    assert set(data) == {"image/png", "text/plain"} and WIDGET not in data and LIVE not in data
    assert data["image/png"].startswith(b"\x89PNG")
    assert not strip(dict(cells=[cell], metadata={}))
    assert "rar_live" in cell["metadata"]


# Orders, as Python has them


@pytest.fixture(scope="module")
def js_orders():
    """Orders, jumps and known neighbours of every size, computed by the panel's own functions."""
    return run_js("""
        import {SCAN_ORDERS, jumps, knownNeighbours, statistics} from './orders.js';
        const found = {};
        for (const name in SCAN_ORDERS) {
          for (let g = 1; g <= 33; g++) {
            const order = SCAN_ORDERS[name](g);
            found[`${name} ${g}`] = [order, jumps(order, g), knownNeighbours(order, g),
                                     statistics(order, g)];
          }
        }
        console.log(JSON.stringify(found));
    """)


@needs_node
@pytest.mark.parametrize("name", PAPER)
def test_orders_and_their_numbers_are_those_of_python(js_orders, name):
    for g in range(1, 34):
        order, far, near, numbers = js_orders[f"{name} {g}"]
        assert order == list(named_order(name, g))
        assert far == pytest.approx(jumps(order, g)) and near == list(known_neighbours(order, g))
        expected = statistics(order, g)
        if g == 1:
            assert numbers is None and np.isnan(expected).all()
        else:
            found = [numbers[k] for k in ("mean", "longest", "touching")]
            assert found == pytest.approx(expected)


@needs_node
def test_random_orders_are_those_of_torch():
    found = run_js("""
        import {randomOrder} from './orders.js';
        const seeds = [0, 1, 9999, 4294967295], sizes = [1, 2, 7, 16, 32];
        console.log(JSON.stringify(seeds.map(seed => sizes.map(g => randomOrder(g, seed)))));
    """)
    for seed, orders in zip((0, 1, 9999, 2**32 - 1), found):
        for g, order in zip((1, 2, 7, 16, 32), orders):
            assert order == list(named_order("random", g, seed))


@needs_node
def test_numbers_of_the_beginning_of_an_order():
    found = run_js("""
        import {statistics} from './orders.js';
        const orders = [[], [3], [0, 1, 7], [5, 4, 3, 2]];
        console.log(JSON.stringify(orders.map(order => statistics(order, 4))));
    """)
    assert found[:2] == [None, None]
    for order, numbers in zip([[0, 1, 7], [5, 4, 3, 2]], found[2:]):
        assert list(numbers.values()) == pytest.approx(statistics(order, 4))


def test_registered_orders_reach_the_browser_as_lists(monkeypatch):
    assert ScanOrders().registered == {}
    monkeypatch.setitem(SCAN_ORDERS, "back", lambda g: [*range(g * g)][::-1])
    monkeypatch.setitem(SCAN_ORDERS, "raster", SCAN_ORDERS["alternate"])  # under another name
    monkeypatch.setitem(SCAN_ORDERS, "even", lambda g: [*range(g * g)] if g % 2 == 0 else 1 / 0)
    panel = ScanOrders()
    assert panel.names[-2:] == ["back", "even"]
    assert set(panel.registered) == {"back", "raster", "even"}
    assert panel.registered["back"]["3"] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert panel.registered["raster"]["2"] == [0, 1, 3, 2]
    assert panel.registered["even"]["7"] == "ZeroDivisionError: division by zero"
    assert panel.registered["even"]["8"] == [*range(64)]


# Holes


DRAG = """
import {cutHoles} from './holes.js';
class Picture extends EventTarget {
  style = {};
  getAttribute() { return null; }
  setAttribute() {}
  setPointerCapture() {}
  hasPointerCapture() { return true; }
  getBoundingClientRect() { return {left: 0, top: 0, width: 70, height: 70}; }
}
const picture = new Picture();
let hole = HOLE;
cutHoles({picture, cursor: new Picture()}, 7, () => hole, changed => { hole = changed; }, () => {});
POINTS.forEach(([clientX, clientY], i) => picture.dispatchEvent(Object.assign(
  new Event(i ? 'pointermove' : 'pointerdown'), {clientX, clientY, button: 0, buttons: 1})));
console.log(JSON.stringify(hole));
"""


@needs_node
@pytest.mark.parametrize(
    "hole, points, left",
    [
        ([], [(5, 5), (65, 5), (65, 65)], [0, 1, 2, 3, 4, 5, 6, 13, 20, 27, 34, 41, 48]),
        ([], [(5, 65), (65, 5)], [42, 36, 30, 24, 18, 12, 6]),
        ([], [(5, 15), (-90, 15), (-90, 35), (25, 35)], [7, 21, 22, 23]),  # out, and in again
        ([7, 9, 20, 13, 8], [(5, 15), (65, 15)], [20]),
    ],
)
def test_a_fast_drag_skips_no_cell(hole, points, left):
    """A pointer that is seen only at some points has passed all cells between them."""
    code = DRAG.replace("HOLE", json.dumps(hole)).replace("POINTS", json.dumps(points))
    assert run_js(code) == left


@needs_node
@pytest.mark.parametrize("g", [1, 2, 7, 16])
def test_holes_are_filled_in_the_order_of_python(g):
    rng, size = np.random.default_rng(0), g * g
    counts = {0, 1, size // 2, size - 1, size}
    holes = [rng.choice(size, count, replace=False).tolist() for count in sorted(counts)]
    cases = [(hole, how, seed) for hole in holes for how in HOW for seed in (0, 9, 2**32 - 1)]
    found = run_js(f"""
        import {{HOW, fillOrder}} from './filling.js';
        const orders = {json.dumps(cases)}.map(
          ([hole, how, seed]) => fillOrder(hole, {g}, how, seed));
        console.log(JSON.stringify([HOW, orders]));
    """)
    expected = [fill_order(tuple(hole), g, how, seed)[0].tolist() for hole, how, seed in cases]
    assert found == [list(HOW), expected]


MODEL = """
/** A model whose predictions are known: logits by class, then by position; `seen` what it reads. */
function modelOf(logits, firstClass, seen) {
  const read = async ({entry, condition, position: [s]}) => {
    seen.push(entry);
    const rows = condition.map(id => logits[id - firstClass]?.[s] ?? logits[0][s]);
    return {logits: Float32Array.from(rows.flat())};
  };
  read.fork = () => read;
  return read;
}
"""


@needs_node
@pytest.mark.parametrize("cells", [[24], [0, 8, 40, 48], range(10, 45)], ids=len)
def test_classes_and_losses_are_those_of_python(cells):
    """With the logits of the network, for all classes and the true tokens."""
    hole, model = tuple(cells), cached_model("any order")
    tokens, labels = validation_digits()[1].rows([110])
    order, known = fill_order(hole, 7, "nearest first"), 49 - len(hole)
    condition = model.config.condition_id(torch.arange(10))
    with torch.inference_mode():
        logits = model(tokens.expand(10, -1), condition, order)[:, :-1]
    rows = [[None, *row] for row in logits.tolist()]  # nobody predicts from `cls` alone
    settings = dict(num_classes=10, first_class_id=129, cls_id=140, null_id=139)
    task = dict(
        label=int(labels), order=order[0].tolist(), tokens=tokens[0].tolist(), hole=list(hole)
    )
    found = run_js(f"""
        import {{classProbabilities, holeLoss, readKnown}} from './filling.js';
        {MODEL}
        const settings = {json.dumps(settings)}, task = {json.dumps(task)}, seen = [];
        const logits = {json.dumps(rows)}.map(row => row.map(one => one ?? Array(128).fill(0)));
        const open = () => modelOf(logits, 129, seen);
        const classes = await classProbabilities(open, settings, task, {known});
        const asked = seen.length, begun = await readKnown(open(), settings, task);
        console.log(JSON.stringify([[...classes], await holeLoss(begun, settings, task), asked]));
    """)
    expected = class_probabilities(model, tokens[0], order, known)
    assert found[0] == pytest.approx(expected.tolist(), abs=1e-6)
    assert found[1] == pytest.approx(hole_loss(model, tokens, labels, hole, order).item(), abs=1e-5)
    assert found[2] == 5 * (known + 1)  # two classes at a time


@needs_node
@pytest.mark.parametrize("how", [*HOW, "raster"])
def test_known_tokens_are_read_once_for_all_fillings(how):
    """And the fillings are those of the whole sequence (`sampleSteps`), read for each of them: by a
    model whose predictions depend on all that it has read."""
    hole = [8, 9, 10, 15, 17, 23, 30]
    tokens = np.random.default_rng(0).integers(0, 128, 49).tolist()
    order = [*range(49)] if how == "raster" else fill_order(tuple(hole), 7, how)[0].tolist()
    task = dict(label=4, order=order, tokens=tokens, hole=hole)
    settings = dict(first_class_id=129, cls_id=140, null_id=139, sample={})
    found = run_js(f"""
        import {{fillHole, readKnown}} from './filling.js';
        import {{imageNoise, sampleSteps}} from './sampling.js';
        import {{torchGenerator}} from './orders.js';
        let steps = 0;
        function modelThatHas(read) {{
          const next = async ids => {{
            steps++;
            read = [...read, JSON.stringify(ids)];
            const sum = [...read.join()].reduce((a, b) => (31 * a + b.charCodeAt()) % 65521, 7);
            const {{rand}} = torchGenerator(sum);
            return {{logits: Float32Array.from({{length: 256}}, () => 4 * rand())}};
          }};
          next.fork = () => modelThatHas(read);
          return next;
        }}
        const settings = {json.dumps(settings)}, task = {json.dumps(task)};
        const how = {{scale: 2.5, power: .5, temperature: 1}}, found = [], expected = [];
        const begun = await readKnown(modelThatHas([]), settings, task);
        for (let i = 0; i < 4; i++) {{
          const noise = imageNoise(3, i, 49);
          found.push(await fillHole(begun, settings, task, {{...how, noise}}));
        }}
        const shared = steps;
        for (let i = 0; i < 4; i++) {{
          const known = task.tokens.map((token, cell) => task.hole.includes(cell) ? -1 : token);
          const request = {{...task, ...how, known, noise: imageNoise(3, i, 49)}};
          const image = [];
          for await (const {{cell, token}} of sampleSteps(modelThatHas([]), settings, request)) {{
            image[cell] = token;
          }}
          expected.push(image);
        }}
        console.log(JSON.stringify({{found, expected, shared}}));
    """)
    assert found["found"] == found["expected"]
    assert len({tuple(image) for image in found["found"]}) == 4
    first, last = (f(map(order.index, hole)) for f in (min, max))
    assert found["shared"] == first + 2 + 4 * (last - first)


# Schedules and batches


RUNS = [
    dict(setting="rar_l"),
    dict(setting="rar_l", anneal_start=0.0, anneal_end=0.0),
    dict(setting="rar_l", anneal_start=400.0, anneal_end=400.0),
    dict(setting="digits"),
    dict(setting="digits", anneal_start=0.3, anneal_end=8.9),
]


@needs_node
@pytest.mark.parametrize("state", RUNS)
def test_schedules_are_those_of_python(state):
    run = Annealing(**state).run()
    last = run.train.total_steps
    steps = sorted({0, last - 1, last, *range(0, last, max(1, last // 997))})
    settings = run_settings("", run)
    found = run_js(f"""
        import {{learningRateAt, randomRatioAt}} from './schedules.js';
        const run = {json.dumps(settings)}, steps = {steps};
        const found = steps.map(step => [randomRatioAt(step, run), learningRateAt(step, run)]);
        console.log(JSON.stringify(found));
    """)
    expected = [[random_ratio_at(s, run.train), learning_rate_at(s, run.train)] for s in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)


@needs_node
def test_epochs_are_rounded_to_steps_as_in_python():
    epochs = [0, 0.3, 0.5, 1.5, 2.5, 3.5, 6, 8.9, 9]
    found = run_js(f"""
        import {{roundHalfEven, stepAt, stepsIn}} from './schedules.js';
        const run = {{epochs: 9, steps_per_epoch: 70}}, epochs = {epochs};
        console.log(JSON.stringify([epochs.map(roundHalfEven), epochs.map(e => stepsIn(e, run)),
                                    stepAt(9, run)]));
    """)
    assert found == [[round(e) for e in epochs], [round(70 * e) for e in epochs], 629]


@needs_node
def test_a_registered_schedule_is_followed(monkeypatch):
    monkeypatch.setitem(ANNEAL_SCHEDULES, "cosine", lambda p: (1 + math.cos(math.pi * p)) / 2)
    panel = Annealing(schedule="cosine")
    run, steps = panel.run(), [0, 125_000, 140_123, 156_250, 187_499, 187_500]
    found = run_js(f"""
        import {{randomRatioAt}} from './schedules.js';
        const run = {json.dumps(run_settings("", run))};
        const values = {json.dumps(panel.schedules["cosine"])};
        console.log(JSON.stringify({steps}.map(s => randomRatioAt(s, run, values))));
    """)
    assert found == pytest.approx([random_ratio_at(s, run.train) for s in steps], abs=1e-6)


@needs_node
@pytest.mark.parametrize("setting, epoch", [("rar_l", 240.0), ("rar_l", 0.0), ("digits", 5.4)])
def test_a_batch_has_the_orders_that_python_samples(setting, epoch):
    """The very same ones: of the first images all cells, of all images who is random."""
    run = Annealing(setting, epoch=epoch).run()
    step = run.train.steps(epoch)
    r, expected = random_ratio_at(step, run.train), batch_orders(run, step)
    found = run_js(f"""
        import {{batchNumbers}} from './schedules.js';
        const {{orders, limits}} = batchNumbers({json.dumps(run_settings("", run))}, {step}, 64);
        console.log(JSON.stringify([orders, [...limits]]));
    """)
    kinds = [limit < r for limit in found[1]]
    assert kinds == are_random(expected).tolist()
    assert len(kinds) == run.train.batch_size
    for order, is_random, wanted in zip(found[0], kinds, expected.tolist()):
        assert (order if is_random else [*range(len(order))]) == wanted


@needs_node
def test_tiles_are_those_of_python():
    orders = torch.stack([raster_order(49)[0], *sample_orders(2, 49, 1.0)])
    steps = json.dumps(inverse(orders).tolist())
    found = run_js(f"""
        import {{tilePixels}} from './tiles.js';
        const tiles = {steps}.map((steps, i) => ({{steps, random: i > 0}}));
        const {{width, height, data}} = tilePixels(tiles, 2, 7);
        console.log(JSON.stringify([width, height, [...data]]));
    """)
    pixels = np.array(found[2]).reshape(found[1], found[0], 4)
    expected = 255 * tile_orders(orders, 2, frame=1, gap=1)
    painted = pixels[..., 3] == 255
    assert pixels.shape[:2] == expected.shape[:2] and painted.sum() == 3 * 81
    np.testing.assert_allclose(pixels[painted][:, :3], expected[painted], atol=0.51)


# Colours


@needs_node
def test_colours_mean_the_same_as_in_python():
    found = run_js("""
        import {COLORS} from './common.js';
        console.log(JSON.stringify(COLORS));
    """)
    assert found == COLORS


def luminance(rgb: str) -> float:
    """Relative luminance (WCAG 2) of a colour such as #0072B2."""
    shares = [int(rgb[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@needs_node
@pytest.mark.parametrize("theme, at", [("light", 0), ("dark", 1)])
def test_text_can_be_read_in_both_themes(theme, at):
    """Contrast of 4.5 and more on the page and on cells that are not known yet."""
    styles = run_js("""
        import {STYLES} from './common.js';
        console.log(JSON.stringify(STYLES));
    """)
    blocks = re.findall(r"\{([^{}]*--rar-ink:[^{}]*)\}", styles)
    shades = dict(re.findall(r"--rar-([\w-]+): (#[0-9a-fA-F]{6})", blocks[at]))

    def contrast(name, ground):
        lights = sorted([luminance(shades[name]), luminance(shades[ground])])
        return (lights[1] + 0.05) / (lights[0] + 0.05)

    for name in [name for name in shades if name.endswith("-ink")] + ["ink", "faint"]:
        for ground in ("paper", "soft"):
            assert contrast(name, ground) >= 4.5, (name, ground)
    for name in ("ink", "faint"):
        assert contrast(name, "cell") >= 4.5
    assert contrast("ink", "known-cell") >= 4.5
    assert contrast("control", "paper") >= 3  # edges of controls


# Nonsense


@pytest.mark.parametrize(
    "kind, trait, values",
    [
        (ScanOrders, "grid_size", [0, 1, 33, -1]),
        (ScanOrders, "order", ["", "nope"]),
        (ScanOrders, "step", [-5]),
        (ScanOrders, "seed", [-1, 2**32]),
        (ScanOrders, "cells", [{"7": [1, 1]}, {"7": [49]}, {"7": 3}, {"x": []}, {"33": []}]),
        (Annealing, "epoch", [math.nan, math.inf, -3.0]),
        (Annealing, "anneal_start", [math.nan, -1.0]),
        (Annealing, "anneal_end", [math.inf]),
        (Annealing, "batch_size", [0, -4, 10**12]),
        (Annealing, "setting", ["nope"]),
        (Annealing, "schedule", ["nope"]),
        (Annealing, "final_order", ["random", "nope"]),
        (TargetAware, "road", ["nope"]),
        (TargetAware, "known", [-1, 9]),
        (TargetAware, "first", [-1, 99]),
        (TargetAware, "second", [-2, 9]),
        (Watch, "generator", ["", "nope"]),
        (Watch, "compare", ["nope"]),
        (Watch, "label", [10]),
        (Watch, "layer", [99]),
        (Watch, "head", [99]),
        (Watch, "guidance_scale", [math.nan, math.inf]),
        (Watch, "temperature", [math.nan]),
        (Watch, "hole", [[49], [1, 1], ["x"]]),
        (Watch, "base", [[1, 2], [128] * 49, ["x"] * 49]),
        (Inpainting, "digit", [-1, 500]),
        (Inpainting, "hole", [[49], [1, 1], ["x"]]),
        (Inpainting, "how", ["", "zigzag"]),
        (Inpainting, "seed", [-1, 2**32]),
        (Inpainting, "guidance_scale", [math.nan, math.inf, -1.0]),
    ],
)
def test_a_panel_keeps_its_state_when_it_is_given_nonsense(kind, trait, values):
    panel = kind()
    before = panel.live_state()
    for value in values:
        with pytest.raises(InvalidValue, match="is not allowed: it must be"):
            setattr(panel, trait, value)
        assert panel.live_state() == before


def test_a_state_that_a_panel_does_not_have_is_refused():
    refuses(lambda: Watch(guidence_scale=2.0), "state = 'guidence_scale'")
