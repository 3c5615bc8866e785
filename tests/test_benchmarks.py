"""The benchmarks measure what they say: counts against the model itself, order and statistics
against closed forms, and every piece of `make gpu` and `make speed` at tiny sizes."""

import ctypes
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import rar_nb.sampler
from rar_nb.fast_sampling import FastStep, Plan
from rar_nb.kernels import Kernels
from rar_nb.pretrained.presets import get_preset
from rar_nb.sampler import GrowingCache, SampleConfig, sample_tokens
from rar_nb.transformer import RAR, Conditioning
from tests.benchmarks import (
    ablation,
    breakdown,
    cuda_tests,
    gpu,
    images,
    machine,
    pairs,
    pieces,
    sampling,
    speed,
    training,
)
from tests.benchmarks import precision as precisions

CPU = torch.device("cpu")
TINY = get_preset("tiny").model
with torch.device("meta"):
    RAR_B = RAR(get_preset("rar_b").model)


# Pairs


def test_in_turn_reverses_every_other_round():
    called = []

    def way(name):
        called.append(name)
        return len(called)

    found = pairs.in_turn({name: partial(way, name) for name in "abc"}, 3)
    assert "".join(called) == "abccbaabc"
    assert found == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_spread_and_ratio():
    assert pairs.spread([5, 1, 2, 4, 3]) == {"median": 3, "q1": 2, "q3": 4}
    # Both got three times slower in the second round: no change of the ratio.
    assert pairs.ratio([2, 6, 2], [1, 3, 1]) == {"median": 2, "q1": 2, "q3": 2}
    assert pairs.shown({"median": 0.0312, "q1": 0.03, "q3": 1.2}, " ms", 1000) == (
        "31.2 ms (30 to 1,200)"
    )


# The floor, counted by torch


@pytest.mark.parametrize("preset, sequences, keys", [("tiny", 6, 9), ("digits", 2, 30)])
def test_floor_counts_what_a_step_multiplies(preset, sequences, keys):
    """A step with the cache filled up, counted by torch, less the linears of adaLN."""
    config = get_preset(preset).model
    model = sampling.made_up_model(config, CPU)
    caches = [GrowingCache() for _ in model.blocks]
    shape = sequences, config.num_heads, keys - 1, config.hidden_size // config.num_heads
    for cache in caches:
        cache.extend(torch.zeros(shape), torch.zeros(shape))
    x, c = torch.zeros(2, sequences, 1, config.hidden_size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # torch can't count the others
        model.lm_head(model.features(x, Conditioning(c), caches))
    d, layers = config.hidden_size, config.num_layers
    adaln = 2 * sequences * (layers * 6 * d * d + 2 * d * d)
    # One step from 0 has K = 2, so 2·keys - 3 steps have `keys` in the mean.
    found = sampling.floor(config, sequences, 2 * keys - 3, 4, {"read": 1e9, "products": 1e9})
    assert found["mean_keys"] == keys
    assert found["flops"] == counter.get_total_flops() - adaln


def test_floor_reads_every_linear_but_those_of_adaln():
    model = sampling.made_up_model(TINY, CPU)
    read = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "adaLN" not in name
    )
    found = sampling.floor(TINY, 2, 1, 2, {"read": 1e9, "products": 1e30})
    step = FastStep(model, 2, torch.bfloat16, plan=Plan(packed=False))
    assert found["weight_bytes"] == 2 * read
    assert found["cache_bytes"] * (TINY.num_tokens + 2) / 2 == 2 * step.keys.nbytes
    assert found["seconds"] == pytest.approx((2 * read + found["cache_bytes"]) / 1e9)


def test_least_bytes():
    model = sampling.made_up_model(TINY, CPU)
    step, found = FastStep(model, 4, torch.float32), sampling.least_bytes(TINY, 4, 4)
    assert found["cache"] == step.keys.nbytes + step.values.nbytes
    assert found["weights"] == sum(p.nbytes for p in model.parameters())


# Sampling


def test_made_up_weights_follow_from_the_seed_and_condition_the_model():
    models = [sampling.made_up_model(TINY, CPU, seed) for seed in (0, 0, 1)]
    weights = [model.blocks[1].adaLN_modulation[1].weight for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].std() > 0.01 and not models[0].training
    norms = [m.weight for m in models[0].modules()
             if isinstance(m, torch.nn.LayerNorm) and m.weight is not None]  # fmt: skip
    assert norms and all((weight == 1).all() for weight in norms)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
@pytest.mark.parametrize("steps", [1, 5, 49])
def test_a_sampler_takes_as_many_steps_as_asked_for(name, steps, monkeypatch):
    run = get_preset("tiny", sample_precision="no")
    way = sampling.samplers(run, 3, steps, CPU)[name]
    ends = {"heads": 0}
    handle = way.args[0].lm_head.register_forward_hook(
        lambda *_: ends.update(heads=ends["heads"] + 1)
    )
    tokens = way()
    handle.remove()
    if name == "textbook":
        assert ends["heads"] == steps
    if steps < 49:
        assert tokens is None
    else:
        plain = sample_tokens(*way.args[:4])
        assert torch.equal(tokens, plain)


@pytest.mark.parametrize("batch, steps, filled", [
    (1, 48, [25, 24]),  # positions, for which the buffer below has to be filled twice
    (2, 7, [8]),
    (2, 49, [17, 17, 16]),
])  # fmt: skip
def test_adaln_is_computed_for_the_steps_that_are_sampled(batch, steps, filled, monkeypatch):
    """As often as with the usual buffer, but no further ahead."""
    run = get_preset("tiny", sample_precision="no")
    row_bytes = 4 * (6 * TINY.num_layers + 2) * TINY.hidden_size
    conditions = batch + 1
    usual = Plan(table_bytes=row_bytes * conditions * (24 if batch == 2 else 40))
    monkeypatch.setattr(sampling, "DEFAULT_PLAN", usual)
    seen, fill = [], FastStep.fill_table

    def fill_table(self):
        fill(self)
        seen.append(min(self.steps, self.capacity - 1 - self.done))

    monkeypatch.setattr(FastStep, "fill_table", fill_table)
    sampling.samplers(run, batch, steps, CPU)["fast"]()
    assert len(seen) == len(filled)
    assert sum(filled) == steps + 1 and max(filled) <= max(seen) <= max(filled) + 1


def test_the_fast_sampler_is_stopped_after_the_step(monkeypatch):
    seen = []

    def until(steps, done, total):
        seen.append((done, total))
        sampling_stop(steps, done, total)

    sampling_stop = sampling.stop_at
    monkeypatch.setattr(sampling, "stop_at", until)
    sampling.samplers(get_preset("tiny", sample_precision="no"), 2, 3, CPU)["fast"]()
    assert seen == [(1, 49), (2, 49), (3, 49)]


@pytest.fixture
def quick(monkeypatch):
    """Rates of the machine that are not measured."""
    for module in (sampling, training, machine, ablation):
        monkeypatch.setattr(module, "rates", lambda *_: {"read": 1e10, "products": 1e11})


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_steps_in_the_middle_read_as_many_keys_as_they_say(precision, monkeypatch):
    """Both samplers, from step 20 on: the positions they read, and the table's rows they use."""
    run = get_preset("tiny", dict(sample_precision=precision))
    device, lengths, positions = torch.device("cpu"), [], []
    ways = sampling.samplers(run, 3, 7, device, start=20, different=2)
    append, forward = GrowingCache.extend, FastStep.forward

    def extended(self, k, v):
        keys, values = append(self, k, v)
        lengths.append(keys.shape[2])
        return keys, values

    def stepped(self, span):
        offset = int(self.position - self.first)
        assert 0 <= offset < self.steps and len(self.head_table) >= (offset + 1) * 3
        positions.append(int(self.position))
        return forward(self, span)

    monkeypatch.setattr(GrowingCache, "extend", extended)
    monkeypatch.setattr(FastStep, "forward", stepped)
    for way in ways.values():
        way()
    layers = run.model.num_layers
    assert lengths[::layers] == list(range(22, 29)) and len(lengths) == 7 * layers
    assert positions == [0, *range(21, 28)]  # position p has p + 1 keys


def test_the_version_of_triton_is_written_where_there_is_one(monkeypatch):
    monkeypatch.setattr(machine, "triton", None)
    assert "triton" not in machine.machine(CPU)
    monkeypatch.setattr(machine, "triton", SimpleNamespace(__version__="3.7.1"))
    assert machine.machine(CPU)["triton"] == "3.7.1"


def test_sampling_writes_everything(quick, tmp_path, capsys):
    path = tmp_path / "deep" / "found.json"
    options = "--preset tiny --batch 2 --precision no --repeats 3 --no-memory --device cpu"
    sampling.main([*options.split(), "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["steps"] == found["num_tokens"] == 49 and found["equal_tokens"] == 1
    assert len(found["fast"]["seconds"]) == len(found["textbook"]["seconds"]) == 3
    middle = found["fast"]["step_seconds"]["median"]
    assert found["fast"]["share_of_floor"] == pytest.approx(found["floor"]["seconds"] / middle)
    assert found["fast"]["tokens_per_second"]["median"] == pytest.approx(2 / middle)
    facts = found["machine"]
    assert facts["threads"] == torch.get_num_threads() and facts["torch"] == torch.__version__
    assert len(facts["commit"]) >= 7 and facts["processor"] and facts["date"][:2] == "20"
    assert "49 of 49 steps from 0 on" in capsys.readouterr().out


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_the_peak_of_memory_holds_what_was_taken(name, monkeypatch):
    """64 MB more in a step are seen, although they are given back."""
    run = get_preset("tiny", sample_precision="no")
    # Unlike the benchmark's own process, this one may hold free memory from the tests before.
    give_back = partial(ctypes.CDLL(None).malloc_trim, 0)
    sampling.peak_alone(run, name, 2, 49, CPU)  # what a first call takes for good
    give_back()
    plain = sampling.peak_alone(run, name, 2, 49, CPU)[name]
    inner = rar_nb.sampler.image_noise
    noise = inner(0, range(2), 49)

    def greedy(model, classes, sample, noise, steps):
        torch.ones(2**24)
        return getattr(sampling, name)(model, classes, sample, noise, steps)

    give_back()
    monkeypatch.setattr(sampling, "samplers", lambda run, batch, steps, device, fitting: {
        name: partial(greedy, sampling.made_up_model(run.model, device), torch.arange(2),
                      run.sample, noise, steps)})  # fmt: skip
    assert sampling.peak_alone(run, name, 2, 49, CPU)[name] > plain + 5e7


@pytest.mark.parametrize("program, wrong", [
    (sampling, "--preset tiny --batch 0"),
    (sampling, "--preset tiny --steps 50"),
    (training, "--preset tiny --repeats 0"),
    (training, "--precision int8"),
])  # fmt: skip
def test_command_lines_refuse(program, wrong, capsys):
    with pytest.raises(SystemExit):
        program.main(wrong.split())
    assert "--" in capsys.readouterr().err.splitlines()[-1]


# Training


def test_both_trainers_take_the_steps_asked_for(quick, tmp_path, monkeypatch):
    """The first call and two rounds, of two steps and one that is not timed. The losses are equal,
    as both begin with the same weights and see the same batches."""
    taken = {"textbook": [], "fast": []}
    textbook, fast = training.textbook_step, training.train_step

    def count_textbook(*arguments):
        taken["textbook"].append(textbook(*arguments))

    def count_fast(*arguments):
        taken["fast"].append(fast(*arguments)[0].item())

    monkeypatch.setattr(training, "textbook_step", count_textbook)
    monkeypatch.setattr(training, "train_step", count_fast)
    path = tmp_path / "found.json"
    options = "--preset tiny --batch 4 --steps 2 --repeats 2 --no-memory --device cpu --no-compile"
    training.main([*options.split(), "--json", str(path)])
    found = json.loads(path.read_text())
    assert len(taken["textbook"]) == len(taken["fast"]) == 3 * 3
    assert taken["textbook"] == pytest.approx(taken["fast"], rel=1e-4)
    for name in training.TRAINERS:
        own = found[name]
        assert len(own["seconds"]) == 2
        middle = own["step_seconds"]["median"]
        assert own["mfu"] == pytest.approx(found["floor"]["flops"] / middle / 1e11)


def test_the_batch_that_fits_is_searched_for(monkeypatch):
    monkeypatch.setattr(training, "find_device_batch_size", lambda model, _, most: most // 4)
    assert training.largest_batch("tiny", "no", 64, CPU) == 16


def test_a_batch_that_does_not_fit_after_all_is_halved(monkeypatch, capsys):
    tried = []

    def measure(args, run, device, facts):
        tried.append((args.batch, run.train.batch_size, run.devices.device_batch_size))
        if args.batch > 4:
            raise torch.OutOfMemoryError
        return {"peak_bytes": None, "floor": {"seconds": 1.0}}

    monkeypatch.setattr(training, "measure", measure)
    monkeypatch.setattr(training, "largest_batch", lambda *_, **changes: 16)
    monkeypatch.setattr(training, "report", lambda found: str(found["batch"]))
    training.main("--preset tiny --batch 0 --no-memory --device cpu".split())
    assert tried == [(size,) * 3 for size in (16, 8, 4)] and capsys.readouterr().out == "4\n"
    with pytest.raises(torch.OutOfMemoryError):  # who asks for a batch gets no other
        training.main("--preset tiny --batch 8 --no-memory --device cpu".split())


# Precision


def test_distances_in_closed_form():
    """Probabilities 1/2, 1/2 against 3/4, 1/4: a quarter of the samples changes."""
    exact = torch.zeros(1, 3, 2)
    rounded = exact.clone()
    rounded[0, 1, 0] = torch.tensor(3.0).log()
    found = precisions.distances(exact, rounded)
    assert found["samples_that_change_at_most"] == pytest.approx(0.25)
    assert found["samples_that_change"] == pytest.approx(0.25 / 3)
    assert found["tokens_an_image"] == pytest.approx(0.25)
    assert found["largest_difference"] == pytest.approx(1.0986, abs=1e-4)


def test_forced_predictions_are_those_of_the_model():
    """Without guidance the logits of single steps are the model's own."""
    model = sampling.made_up_model(TINY, CPU)
    tokens = torch.arange(2 * 49).view(2, 49) % TINY.codebook_size
    sample = SampleConfig(0.0, 1.0, sample_precision="no")
    found = precisions.predictions(model, torch.tensor([3, 4]), sample, tokens, 7)
    with torch.no_grad():
        whole = model(tokens, TINY.condition_id(torch.tensor([3, 4])), torch.arange(49)[None])
    torch.testing.assert_close(found, whole[:, :7], atol=1e-5, rtol=1e-4)


# Where the time goes


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_a_breakdown_covers_the_step(name):
    way = sampling.samplers(get_preset("digits", sample_precision="no"), 2, 3, CPU)[name]
    found = breakdown.breakdown(way, get_preset("digits").model, 3)
    assert sum(found["seconds"].values()) == pytest.approx(found["step_seconds"], rel=0.5)
    parts = found["seconds"]
    assert min(parts[kind] for kind in ("linears", "adaLN", "attention")) > 0
    assert parts["norms and other small operators"] > 0 and found["calls"] > 20
    assert "attend_step" in vars(Kernels) and Kernels.attend_step.__name__ == "attend_step"


def test_kinds_of_operators():
    config = get_preset("rar_b").model
    kinds = {
        ("aten::addmm", ((4608,), (4, 768), (768, 4608))): "adaLN",
        ("aten::addmm", ((3072,), (4, 768), (768, 3072))): "linears",
        ("mkldnn::_linear_pointwise", ((4, 768), (3072, 768))): "linears",
        ("times", ()): "linears",
        ("aten::_scaled_dot_product_flash_attention_for_cpu", ()): "attention",
        ("attend_step", ()): "attention",
        ("aten::cat", ()): "copies",
        ("modulated_norm", ()): "norms and other small operators",
    }
    for (name, shapes), kind in kinds.items():
        assert breakdown.kind_of(name, [list(shape) for shape in shapes], config) == kind


def test_predictions_are_amdahls_law():
    """Half of the time becomes five times as fast: 1 / (1/2 + 1/10)."""
    below = {"seconds": {"linears": 5.0, "adaLN": 3.0, "copies": 2.0}}
    assert ablation.predicted(below, {"linears": 1.0}) == pytest.approx(1 / (1 / 2 + 1 / 10))
    assert ablation.predicted(below, {"adaLN": 0.0, "copies": 0.0}) == 2.0
    assert ablation.predicted(below, {"linears": 9.0}) == 1.0  # at best it costs nothing more


def test_adaln_of_many_steps_on_paper():
    """Its weights are read once in 50 steps, until the products take longer."""
    config = get_preset("rar_b").model
    adaln = sum(
        module.weight.numel()
        for name, module in RAR_B.named_modules()
        if isinstance(module, torch.nn.Linear) and "adaLN" in name
    )
    rate = {"read": 1e9, "products": 1e30}
    assert ablation.adaln_seconds(config, 3, 50, 2, rate) == 2 * adaln / 50 / 1e9
    rate = {"read": 1e30, "products": 1e9}
    assert ablation.adaln_seconds(config, 3, 50, 2, rate) == 2 * 3 * adaln / 1e9


class WorkerHere:
    """Like `ablation.Worker`, in this process."""

    def __init__(self, options, huge_pages):
        self.run = get_preset("tiny", sample_precision="no")
        self.ways = ablation.ways_of(self.run, 2, 3)

    def ask(self, what, name=""):
        return ablation.answer(self.ways, self.run, 3, what, name)

    def close(self):
        pass


def test_every_rung_is_measured(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ablation, "Worker", WorkerHere)
    path = tmp_path / "found.json"
    ablation.main(["--preset", "tiny", "--steps", "3", "--repeats", "2", "--json", str(path)])
    entries = json.loads(path.read_text())["entries"]
    assert [entry["name"] for entry in entries] == [rung.name for rung in ablation.RUNGS]
    assert entries[0]["measured"] is None and entries[0]["predicted"] is None
    for entry in entries[1:]:
        assert entry["measured"]["q1"] <= entry["measured"]["median"] and entry["predicted"] >= 1
    assert capsys.readouterr().out.count("predicted") == len(entries) - 1


def test_rungs_do_not_share_what_is_kept():
    """Each has a model of its own, with the same weights in the same memory."""
    ways = ablation.ways_of(get_preset("tiny", sample_precision="no"), 2, 49)
    models = [way.args[0] for way in ways.values()]
    assert len({id(model) for model in models}) == len(models)
    assert len({model.lm_head.weight.data_ptr() for model in models}) == 1
    tokens = [way() for way in ways.values()]
    assert all(torch.equal(tokens[0], others) for others in tokens[1:])


# Whole images


def test_images_by_both_samplers_are_the_same(tmp_path):
    path = tmp_path / "found.json"
    options = "--preset tiny --batch 3 --precision no --repeats 1 --device cpu"
    images.main([*options.split(), "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["equal_images"] == 1 and found["published_on_an_a100"] is None
    assert [images.published_rate(name) for name in ("rar_b", "rar_xxl")] == [17.0, 6.4]


# Pieces


def test_the_lists_of_pieces():
    """Half an hour of a GPU is enough, no piece may take over ten minutes, and none is twice."""
    assert sum(piece.budget for piece in gpu.PIECES) <= 30 * 60
    for chosen in (gpu.PIECES, speed.PIECES):
        assert max(piece.budget for piece in chosen) <= pieces.LONGEST == 600
        assert len({piece.name for piece in chosen}) == len(chosen)
    assert gpu.folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    names = [piece.name for piece in gpu.PIECES]
    for preset in ("rar_b", "rar_xxl"):
        assert all(f"sampling_{preset}_{batch}_bf16" in names for batch in (1, 8, 64, 256))


@pytest.mark.parametrize("program", [gpu, speed])
def test_a_dry_run_runs_every_piece(program, quick, tmp_path, monkeypatch, capsys):
    """At tiny sizes on the CPU; the tests themselves are another test's business."""
    monkeypatch.setattr(
        cuda_tests, "main",
        lambda arguments: machine.output(pieces.Path(arguments[-1]), {
            "what": "tests", "tests": {"a": {"outcome": "passed", "seconds": 1.0}}}),
    )  # fmt: skip
    kept = [p for p in program.PIECES if "_64_" not in p.name and p.module != "ablation"]
    monkeypatch.setattr(program, "PIECES", kept)
    arguments = ["--dry-run", "--out", str(tmp_path)]
    assert program.main(arguments) == 0
    names = {path.stem for path in tmp_path.glob("*.json")}
    assert names == {piece.name for piece in program.PIECES} | {"seconds"}
    summary = (tmp_path / "summary.md").read_text()
    assert "## Sampling, milliseconds a step" in summary and "## Training" in summary
    assert ("1 passed" in summary) == (program is gpu)
    capsys.readouterr()

    def never(*_):
        raise AssertionError("a piece that was done")

    monkeypatch.setattr(pieces, "run_here", never)
    assert program.main(arguments) == 0
    assert capsys.readouterr().out.count("done before") == len(program.PIECES)


def made_up_piece(name, budget=1):
    return pieces.Piece(name, budget, "machine", "", "")


def test_the_summary_is_of_all_pieces(tmp_path):
    """Also when only one of them was asked for."""
    everything = [made_up_piece("a"), made_up_piece("b")]
    row = '{"what": "tests", "tests": {"%s": {"outcome": "passed"}}}'

    def run(piece, path):
        path.write_text(row % piece.name)
        return True, 2.0

    for piece in everything:
        pieces.go(tmp_path, [piece], None, run, everything)
    assert "2 passed" in (tmp_path / "summary.md").read_text()


def test_pieces_stop_in_time(tmp_path, capsys):
    chosen = [made_up_piece("a"), made_up_piece("b", 500), made_up_piece("c")]
    done = []

    def run(piece, path):
        done.append(piece.name)
        path.write_text('{"what": "machine"}')
        return True, 2.0

    assert pieces.go(tmp_path, chosen, 1.0, run) == 0
    assert done == ["a"] and "b would need up to 500 seconds" in capsys.readouterr().out
    assert pieces.go(tmp_path, chosen, None, run) == 0
    assert done == ["a", "b", "c"]
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"a": 2.0, "b": 2.0, "c": 2.0}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """In place of Python: a program that fails, takes long, or writes the file named last."""
    path = tmp_path / "program"
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in *int8*) echo "invalid choice: \'int8\'"; exit 2;; *slow*) sleep 60;; esac\n'
        "for last; do :; done\n"
        'echo \'{"what": "machine"}\' > "$last"\n'
    )
    path.chmod(0o755)
    monkeypatch.setattr(pieces.sys, "executable", str(path))


def test_a_piece_that_fails_is_tried_again(program, tmp_path):
    """Its words are kept; the pieces after it still run."""
    folder = tmp_path / "results"
    wrong = pieces.Piece("wrong", 1, "machine", "--precision int8", "")
    right = pieces.Piece("right", 1, "machine", "--precision no", "")
    run = partial(pieces.run_apart, device="cpu")
    assert pieces.go(folder, [wrong, right], None, run) == 1
    assert "invalid choice: 'int8'" in (folder / "wrong.log").read_text()
    assert sorted(p.name for p in folder.iterdir()) == [
        "right.json", "seconds.json", "summary.md", "wrong.log"]  # fmt: skip
    assert pieces.go(folder, [wrong._replace(options=""), right], None, run) == 0
    assert (folder / "wrong.json").exists() and not (folder / "wrong.log").exists()


def test_a_piece_that_takes_too_long_is_ended(program, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "LONGEST", 0.3)
    piece = pieces.Piece("slow", 1, "machine", "--precision slow", "")
    succeeded, seconds = pieces.run_apart(piece, tmp_path / "slow.json", "cpu")
    assert not succeeded and seconds < 30
    assert "ended after 0.3 seconds" in (tmp_path / "slow.log").read_text()


def test_no_gpu_is_one_sentence(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="No GPU .*--dry-run"):
        gpu.main([])


def test_outcomes_of_the_tests(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a" time="0.5"/><testcase name="b" time="1">'
        '<failure message="x"/></testcase><testcase name="c" time="0"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    found = cuda_tests.outcomes(report)
    assert {name: values["outcome"] for name, values in found.items()} == {
        "a": "passed", "b": "failed", "c": "skipped"}  # fmt: skip
