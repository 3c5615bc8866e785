"""Cost before start, against what torch counts and keeps."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from rar_nb.fast_sampling import FastStep, Plan
from rar_nb.orders import sample_orders
from rar_nb.pretrained.presets import MODELS, PRESETS, get_preset, override, resolve
from rar_nb.runs import cost, gpu_blocks
from rar_nb.runs.cost import (
    DEVICES,
    OVERHEAD,
    Device,
    activation_bytes,
    amount,
    block_bytes,
    cost_report,
    costs,
    duration,
    find_device,
    known_device,
    largest_batch,
    matrices,
    measure_device,
    parameters,
    product_rate,
    sample_flops,
    sampling_bytes,
    sampling_seconds,
    tokenizer_flops,
    tokenizer_seconds,
    train_flops,
    trained_images_per_second,
    training_bytes,
    training_seconds,
    uses_gpu_blocks,
)
from rar_nb.runs.devices import accumulation
from rar_nb.sampler import SampleConfig, image_noise, sample_tokens
from rar_nb.support import InvalidValue
from rar_nb.tokenizer import TokenizerConfig, make_tokenizer
from rar_nb.transformer import RAR, ModelConfig, rar_loss
from tests.benchmarks.machine import ROOT
from tests.doors import refuses

H100 = known_device("NVIDIA H100 80GB HBM3")
RAR_B = PRESETS["rar_b"]
sizes = st.builds(
    lambda v, side, c, heads, width, layers, mlp, target_aware, adaln: ModelConfig(
        v, side**2, c, heads * width, layers, heads, mlp, 0.0, "raster", target_aware, adaln
    ),
    st.integers(2, 40),
    st.integers(2, 4),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(4, 9),
    st.integers(1, 3),
    st.integers(3, 50),
    st.booleans(),
    st.booleans(),
)


def counted(f):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


def loss(model, batch):
    config = model.config
    tokens, orders = (
        torch.randint(0, config.codebook_size, (batch, config.num_tokens)),
        sample_orders(batch, config.num_tokens, 1.0),
    )
    condition = config.condition_id(0) + torch.arange(batch) % (config.num_classes + 1)
    return rar_loss(model(tokens, condition, orders), tokens, orders)


@pytest.mark.parametrize(
    "name, millions",
    [
        ("rar_b", 260.92),
        ("rar_l", 461.67),
        ("rar_xl", 955.43),
        ("rar_xxl", 1498.52),
        ("rar_l_llamagen", 493.14),
        ("rar_l_512", 464.03),
    ],
)
def test_parameters_of_the_released_models(name, millions):
    assert parameters(PRESETS[name].model) / 1e6 == pytest.approx(millions, abs=0.005)


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_parameters_and_matrices_of_any_model(config):
    with torch.device("meta"):
        model = RAR(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    assert matrices(config) == sum(
        m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)
    )


@settings(max_examples=15, deadline=None)
@given(sizes, st.integers(1, 9))
def test_training_flops_are_what_torch_counts(config, batch):
    assert counted(lambda: loss(RAR(config), batch).backward()) == train_flops(config, batch)


@settings(max_examples=8, deadline=None)
@given(sizes, st.integers(1, 9), st.booleans())
def test_sampling_flops_are_what_torch_counts(config, batch, guided):
    model, classes = RAR(config).eval(), torch.arange(batch) % config.num_classes
    sample = lambda: sample_tokens(
        model,
        classes,
        SampleConfig(2.0 if guided else 0.0),
        image_noise(0, range(batch), config.num_tokens),
        plan=Plan(kernels=False, packed=False),  # torch counts neither of the two
    )
    assert counted(sample) == sample_flops(config, batch, guided)


@pytest.mark.parametrize("batch", [2, 7])
def test_checkpointing_computes_the_blocks_once_more(batch):
    config = ModelConfig(16, 16, 4, 32, 3, 2, 64, dropout=0.0)
    model = RAR(config)
    for block in model.blocks:
        block.forward = lambda *args, f=block.forward: checkpoint(f, *args, use_reentrant=False)
    assert counted(lambda: loss(model, batch).backward()) == train_flops(
        config, batch, checkpointing=True
    )


@pytest.mark.parametrize("kind", ["maskgit_vq", "llamagen_vq", "conv_vq", "vqgan"])
def test_tokenizer_flops_are_those_of_a_real_one(kind):
    published = kind in ("maskgit_vq", "llamagen_vq")
    config = (
        PRESETS["rar_l_llamagen" if kind == "llamagen_vq" else "rar_l"].tokenizer
        if published
        else TokenizerConfig(kind, 32, 3, 4, 16, 4, width=8)
    )
    small = replace(config, image_size=32)
    tokenizer = make_tokenizer(small).eval()
    with torch.no_grad():
        found = (
            counted(lambda: tokenizer.encode(torch.rand(1, 3, 32, 32))),
            counted(lambda: tokenizer.decode(torch.zeros(1, small.num_tokens, dtype=torch.int64))),
        )
    assert tokenizer_flops(small) == found and min(found) > 0


def test_grey_tokenizer_has_no_products():
    assert tokenizer_flops(TokenizerConfig("grey", codebook_size=8)) == (0, 0)


def kept(config, batch, bf16, prepare=None):
    """Bytes that autograd keeps, but for the model's own."""
    model, found = RAR(config).train(), {}
    if prepare is not None:
        prepare(model, bf16)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(t):
        if t.untyped_storage().data_ptr() not in own:
            found[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        graph = loss(model, batch)
    assert graph.requires_grad
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("batch", [3, 12])
@pytest.mark.parametrize("heads, mlp", [(2, 192), (8, 96)])
@pytest.mark.parametrize("adaln", [True, False])
def test_block_bytes_are_what_torch_keeps(bf16, batch, heads, mlp, adaln):
    """The difference that one more block makes, exactly (bf16 matrices are counted as copies)."""
    one, two = (ModelConfig(16, 16, 4, 64, n, heads, mlp, dropout=0.0, adaln=adaln) for n in (1, 2))
    copies = 2 * (matrices(two) - matrices(one)) if bf16 else 0
    assert (
        kept(two, batch, bf16) - kept(one, batch, bf16)
        == block_bytes(one, batch, bf16, dropout=False) + copies
    )


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("adaln", [True, False])
def test_activations_of_the_whole(bf16, adaln):
    config = ModelConfig(256, 16, 4, 64, 2, 4, 256, dropout=0.0, adaln=adaln)
    assert activation_bytes(config, 4, bf16) + (
        2 * matrices(config) if bf16 else 0
    ) == pytest.approx(kept(config, 4, bf16), rel=0.005)


@pytest.fixture
def idle_kernels(monkeypatch):
    """The blocks for a GPU, on a CPU, with kernels that compute nothing: only the memory counts."""

    class Idle:
        def __getitem__(self, grid):
            return lambda *arguments, **options: None

    for name in ("norm_row", "residual_row", "gelu_row", "head_rows", "silu_numbers"):
        monkeypatch.setattr(gpu_blocks, name, Idle())
    monkeypatch.setattr(gpu_blocks, "load_gpu_blocks", lambda bf16: (True, ""))
    sizes = dict(next_power_of_2=lambda n: 1 << (n - 1).bit_length(), cdiv=lambda a, b: -(-a // b))
    monkeypatch.setattr(gpu_blocks, "triton", SimpleNamespace(**sizes))


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("batch", [3, 12])
@pytest.mark.parametrize("heads, mlp", [(2, 192), (8, 96)])
def test_block_bytes_are_what_the_kernels_keep(bf16, batch, heads, mlp, idle_kernels):
    """The difference of one more block, exactly, but for weights: copies, and stacked norms."""
    one, two = (ModelConfig(16, 16, 4, 64, n, heads, mlp, dropout=0.0) for n in (1, 2))
    weights = 2 * (matrices(two) - matrices(one)) * bf16 + 4 * 4 * 64 // heads
    found = [kept(config, batch, bf16, gpu_blocks.use_gpu_blocks) for config in (one, two)]
    estimate = block_bytes(one, batch, bf16, dropout=True, quick=True)
    assert found[1] - found[0] - weights == estimate < block_bytes(one, batch, bf16, False)


@pytest.mark.parametrize("bf16", [True, False])
def test_activations_of_the_whole_with_kernels(bf16, idle_kernels):
    config = ModelConfig(256, 16, 4, 64, 2, 4, 256, dropout=0.0)
    copies = 2 * matrices(config) * bf16
    assert activation_bytes(config, 4, bf16, quick=True) + copies == pytest.approx(
        kept(config, 4, bf16, gpu_blocks.use_gpu_blocks), rel=0.005)  # fmt: skip


def test_memory_as_measured_on_a_gpu():
    """Peaks that torch reported: RAR-B, RAR-L and RAR-XXL on an H200."""
    checked = []
    for path in (ROOT / "results" / "gpu" / "nvidia-h200").glob("training_*_bf16.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert not found["compiled"]
        for way, peak in found["peak_bytes"].items():
            needed = training_bytes(MODELS[found["preset"]], found["batch"], quick=way == "fast")
            assert sum(needed.values()) == pytest.approx(peak, rel=0.1), (path.name, way)
            checked.append((found["preset"], way))
    assert {("rar_b", "textbook"), *((name, "fast") for name in ("rar_b", "rar_l", "rar_xxl"))} <= {
        *checked
    }


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("batch", [4, 256, 2000])
def test_checkpointing_and_kernels(bf16, batch):
    """One block's inside and the inputs of the other 23; the kernels change nothing else."""
    config, rows = RAR_B.model, batch * 258
    quick, saved = (training_bytes(config, batch, bf16, c, quick=True) for c in (False, True))
    one = block_bytes(config, batch, bf16, dropout=True, quick=True)
    assert quick["activations"] - saved["activations"] == 23 * (one - 4 * rows * 768)
    plain = training_bytes(config, batch, bf16)
    assert {k for k in plain if plain[k] != quick[k]} == {"activations"}


def test_who_uses_the_kernels():
    """As `working_blocks` decides on a GPU: see tests/test_gpu_blocks.py."""
    assert uses_gpu_blocks(RAR_B, H100, sharded=False)
    assert not uses_gpu_blocks(RAR_B, H100, sharded=True)
    for changes in (dict(compile=True), dict(quick_blocks=False), dict(adaln=False)):
        assert not uses_gpu_blocks(override(RAR_B, **changes), H100, sharded=False)
    for device in (known_device("AMD Instinct MI300X"), Device("CPU", 1e12, 1e12, 1e10, 1e10)):
        assert not uses_gpu_blocks(RAR_B, device, sharded=False)
    for sharded in (False, True):
        needed = training_bytes(RAR_B.model, 32, devices=2, sharded=sharded, quick=not sharded)
        found = costs(RAR_B, H100, 2, per_device_batch=32, sharded=sharded)
        assert found["training_bytes"] == sum(needed.values())


def test_memory_properties():
    config = RAR_B.model
    plain, saved = (training_bytes(config, 64, checkpointing=c) for c in (False, True))
    assert saved["activations"] < plain["activations"] / 5 and {
        k: v for k, v in saved.items() if k != "activations"
    } == {k: v for k, v in plain.items() if k != "activations"}
    assert (
        plain["weights"] + plain["gradients"] + plain["moments"] == 16 * parameters(config)
        and plain["overhead"] == OVERHEAD
    )
    assert training_bytes(config, 128)["activations"] == pytest.approx(
        2 * plain["activations"], rel=1e-6
    )
    assert (
        training_bytes(config, 1, devices=8)["buckets"] == 4 * parameters(config)
        and plain["buckets"] == 0
    )
    sharded = training_bytes(config, 1, devices=8, sharded=True)
    assert (
        sharded["weights"] + sharded["gradients"] + sharded["moments"]
        == pytest.approx(2 * parameters(config), abs=8)
        and sharded["buckets"] == 0
    )
    assert activation_bytes(config, 8) - activation_bytes(
        config, 8, dropout=False
    ) == config.num_layers * 8 * 258 * (2 * 768 + 3072)


@pytest.mark.parametrize("g", [0.0, 4.0])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("changes", [dict(), dict(num_classes=3), dict(num_tokens=4)])
def test_sampler_takes_as_much_memory_as_estimated(g, bf16, changes):
    run = get_preset("rar_b", guidance_scale=g, sample_batch_size=10)
    run = replace(run, model=replace(run.model, **changes))
    with torch.device("meta"):
        model = RAR(run.model)
    step = FastStep(model, 20 if g else 10, torch.bfloat16 if bf16 else torch.float32)
    estimate = sampling_bytes(run, bf16)
    assert estimate["cache"] == step.keys.nbytes + step.values.nbytes
    assert estimate["table"] == step.table.nbytes + step.head_table.nbytes
    weights = [step.weights.adaln.weight]
    for block in step.weights.blocks:
        linears = block.adaln, block.qkv, block.proj, block.fc1, block.fc2
        weights += [linear.weight for linear in linears]
    assert estimate["copies"] == (sum(w.nbytes for w in weights) if bf16 else 0)
    assert step.weights.head.weight.dtype == torch.float32


def test_a_table_holds_one_step_at_least():
    """The table's own memory is exceeded only if one step of all conditions needs more."""
    for batch in (1, 100, 500, 5000):
        table = sampling_bytes(get_preset("rar_b", sample_batch_size=batch))["table"]
        one_step = 4 * 146 * 768 * min(2 * batch, 1001)
        assert table == max(one_step, 2**26 // (4 * 146 * 768) * (4 * 146 * 768))


@pytest.mark.parametrize("name", [name for name, run in PRESETS.items() if run.data == "imagenet"])
def test_every_published_preset_samples_on_a_card_of_80_gb(name):
    """By the estimate, with room: it is not measured."""
    run = PRESETS[name]
    assert costs(run, H100)["sampling_bytes"] == sum(sampling_bytes(run).values()) < 0.7 * 80e9
    assert run.sample.sample_batch_size * run.model.num_tokens <= 125 * 256


def test_training_time():
    seconds = training_seconds(RAR_B, H100, devices=8, per_device_batch=64)
    assert seconds == pytest.approx(
        250_000 * 2048 * train_flops(RAR_B.model, 1) / (8 * 0.4 * 989e12)
    )
    assert training_seconds(RAR_B, H100, 1, 64) == pytest.approx(8 * seconds) and training_seconds(
        RAR_B, H100, 8, 64, utilisation=0.8
    ) == pytest.approx(seconds / 2)
    assert trained_images_per_second(RAR_B, H100) == pytest.approx(250_000 * 2048 / (8 * seconds))
    assert training_seconds(get_preset("rar_b", precision="no"), H100, 8, 64) == pytest.approx(
        seconds * 989 / 67
    )


def test_sampling_time_is_bound_by_what_is_slower():
    run = get_preset("rar_b", sample_batch_size=4, guidance_scale=0.0)
    ideal = Device("ideal", 1e12, 1e12, 1e30, 1e12)  # without TF32
    assert sampling_seconds(run, ideal, utilisation=1.0) == pytest.approx(
        (sample_flops(run.model, 4, False) + 4 * tokenizer_flops(run.tokenizer)[1]) / 1e12
    )
    reader = Device("reader", 1e30, 1e30, 1e9, 1e12)
    head, adaln = 768 * 1024, (6 * 24 + 2) * 768**2
    fillings = 7  # 64 MiB hold 149 rows of 4 · 146 · 768 bytes: 37 steps of 4 conditions
    cached = sum(range(1, 258)) * 2 * 24 * 4 * 768
    read = 257 * (matrices(run.model) - adaln - head) + fillings * adaln + cached
    assert sampling_seconds(run, reader, utilisation=1.0) == pytest.approx(
        (4 * read + 257 * 4 * head) / 1e9
    )
    bf16 = replace(run, sample=replace(run.sample, sample_precision="bf16"))
    assert sampling_seconds(bf16, reader, utilisation=1.0) == pytest.approx(
        (2 * read + 257 * 4 * head) / 1e9
    )


def test_sampling_time_in_each_precision():
    """Reading takes no time here: only products count, and the decoder is never in bf16."""
    device = Device("made up", 8e12, 1e12, 1e30, 1e12, tf32=4e12)
    generator, decoder = sample_flops(RAR_B.model, 125), 125 * tokenizer_flops(RAR_B.tokenizer)[1]
    for precision, (one, other) in dict(
        no=(1e12, 1e12), tf32=(4e12, 4e12), bf16=(8e12, 4e12), auto=(8e12, 4e12)
    ).items():
        assert sampling_seconds(
            get_preset("rar_b", sample_precision=precision), device, 1.0
        ) == pytest.approx(generator / one + decoder / other)


def test_printed_speeds_lie_below_the_limits():
    """The paper's images a second on an A100 in float32, 128 at a time."""
    a100 = known_device("NVIDIA A100-SXM4-80GB")
    for name, printed in dict(rar_b=17.0, rar_l=15.0, rar_xl=8.3, rar_xxl=6.4).items():
        shares = [
            printed
            * sampling_seconds(
                get_preset(name, sample_batch_size=128, sample_precision=p), a100, utilisation=1.0
            )
            / 128
            for p in ("no", "tf32")
        ]
        assert 0.1 < shares[1] < shares[0] < 0.8


def test_largest_batch():
    for changes in (dict(), dict(compile=True)):
        batch = largest_batch(override(RAR_B, **changes), H100)
        assert (
            sum(training_bytes(RAR_B.model, batch, quick=not changes).values())
            <= 0.9 * H100.memory
            < sum(training_bytes(RAR_B.model, 2 * batch, quick=not changes).values())
        )
    assert largest_batch(RAR_B, H100, checkpointing=True) > batch
    assert largest_batch(PRESETS["rar_xxl"], known_device("NVIDIA L4")) == 1
    assert largest_batch(get_preset("rar_b", batch_size=48), H100, devices=8) == 6
    assert largest_batch(get_preset("rar_b", batch_size=3 * 2**12), H100) == 3 * 2**6
    assert largest_batch(get_preset("rar_b", batch_size=2047), H100) == 1  # it has no half


@pytest.mark.parametrize("batch, devices", [(2048, 8), (48, 8), (96, 2), (7, 1), (3000, 4)])
def test_the_split_is_one_that_a_run_can_have(batch, devices):
    run = get_preset("rar_b", batch_size=batch)
    cost = costs(run, H100, devices)
    size = cost["per_device_batch"]
    assert cost["accumulation"] == accumulation(batch, devices, size)
    assert cost["accumulation"] * size * devices == batch


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(devices=8, per_device_batch=2048), "per_device_batch = 2048 .* divisor of 256, each"),
        (dict(per_device_batch=4096), "per_device_batch = 4096 .* a divisor of 2048"),
        (dict(per_device_batch=3), "per_device_batch = 3 .* a divisor of 2048"),
        (dict(devices=3), "batch_size = 2048 .* a multiple of the number of devices, 3"),
        (dict(devices=4096), "batch_size = 2048 .* a multiple of the number of devices, 4096"),
    ],
    ids=str,
)
def test_a_split_that_no_run_can_have_is_refused(arguments, message):
    for price in (costs, cost_report, training_seconds):
        with pytest.raises(InvalidValue, match=message):
            price(RAR_B, H100, **arguments)
    if "per_device_batch" not in arguments:
        with pytest.raises(InvalidValue, match=message):
            largest_batch(RAR_B, H100, **arguments)


def test_a_rate_for_the_token_data():
    """What results/token_data.json is compared with: one H100 at its full peak."""
    assert 2000 < trained_images_per_second(RAR_B, H100, utilisation=1.0) < 3000


@pytest.mark.parametrize(
    "name, expected",
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80 GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GB200", None),
        ("Tesla T4", None),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("A100-SXM4-40GB", "A100 40 GB"),  # by older drivers
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 144G HBM3e", None),
        ("NVIDIA H100 96GB HBM3", None),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA A100X", None),
        ("NVIDIA A40-48Q", None),  # a share
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("AMD Instinct MI300X VF", None),
    ],
)
def test_known_devices(name, expected):
    """A variant may have other rates, so it is unknown unless it has a row of its own."""
    found = known_device(name)
    assert (found and found.name) == expected


def test_data_sheets_are_in_the_right_units():
    for device in DEVICES.values():
        assert (
            5e13 < device.bf16 < 5e15
            and 1e13 < device.float32 < 2e14
            and device.float32 < device.bf16
        )
        assert 2e11 < device.bandwidth < 1e13 and 2e10 < device.memory < 3e11


def test_products_are_measured_with_numbers_that_differ(monkeypatch):
    """The same at each time. A card needs less power for equal ones, and is faster then."""
    seen = []

    def first(work, amount, device, seconds=0.2):
        seen.append(work.args[0])
        return 1e12

    monkeypatch.setattr(cost, "best_rate", first)
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(2):
            product_rate(dtype, torch.device("cpu"))
            assert len(seen[0].unique()) > 1000 and abs(seen[0].float().std() - 1) < 0.1
        assert seen[0].equal(seen[len(seen) // 2])
        seen.clear()


def test_processor_is_measured():
    here = measure_device("cpu")
    assert (
        here.source == "measured"
        and here.name.startswith("CPU")
        and min(here.bf16, here.float32, here.bandwidth, here.memory) > 1e6
    )
    assert find_device("cpu").name == here.name


def cells_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_report():
    text = cost_report([RAR_B, PRESETS["rar_xxl"]], H100, devices=8, price=2.0, utilisation=0.5)
    table = cells_of(text)
    assert {len(row) for row in table} == {4} and len(table) == 2 + 12
    rows = {row[0]: row[2:] for row in table}
    assert rows["parameters"] == ["260.9 M", "1,498.5 M"]
    assert "8 × H100 SXM (data sheet), assumed to reach 50% of 989 TFLOPS" in text
    c = costs(RAR_B, H100, 8, utilisation=0.5, price=2.0)
    assert rows["**training**"][0] == f"**{duration(c['training_seconds'])}**"
    assert c["training_dollars"] == pytest.approx(8 * 2.0 * c["training_seconds"] / 3600)
    assert c["per_device_batch"] * c["accumulation"] * 8 >= 2048
    assert "too much" in cost_report(PRESETS["rar_xxl"], known_device("NVIDIA L4"))


def test_the_tokenizer_has_its_row_if_it_is_trained():
    """Its operations are those that torch counts in a step, both ways."""
    run = resolve(get_preset("digits"), 4500, 10, 1, 28)
    config = run.tokenizer
    tokenizer, images = make_tokenizer(config), torch.rand(config.vq_batch_size, 1, 28, 28)
    with FlopCounterMode(display=False) as counted:
        decoded, commitment = tokenizer(images)
        (decoded.mean() + commitment).backward()
    flops = tokenizer_seconds(run, H100, 1.0) * cost.peak(H100, config.vq_precision)
    # The first layer needs no gradient of the images, nor the search among the codes any.
    assert 0.9 < counted.get_total_flops() * config.vq_steps / flops <= 1
    rows = {row[0]: row[1:] for row in cells_of(cost_report(run, H100, trains_tokenizer=True))}
    seconds = tokenizer_seconds(run, H100)
    assert rows["**training the tokenizer**"] == ["estimate", f"**{duration(seconds)}**"]
    assert "the tokenizer" not in cost_report(run, H100)
    found = costs(run, H100, 2, price=3.0, trains_tokenizer=True)
    assert found["tokenizer_dollars"] == pytest.approx(2 * 3.0 * seconds / 3600)
    with pytest.raises(InvalidValue, match="kind = 'maskgit_vq' .* a tokenizer that is trained"):
        cost_report(RAR_B, H100, trains_tokenizer=True)


def test_prices_stand_in_their_own_rows():
    """Markdown would take what stands between two dollar signs for LaTeX and lose the cells."""
    text = cost_report([RAR_B, PRESETS["rar_xxl"]], H100, devices=8, price=2.0)
    found = [costs(PRESETS[name], H100, 8, price=2.0) for name in ("rar_b", "rar_xxl")]
    rows = {row[0]: row[1:] for row in cells_of(text)}
    for name in ("training", "sampling"):
        printed = [f"{cost[f'{name}_dollars']:,.2f}" for cost in found]
        assert rows[f"price of {name} in dollars"] == ["estimate", *printed]
    assert "$" not in text and "at 2 dollars an hour each" in text
    assert "price" not in cost_report(RAR_B, H100)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(utilisation=0), "utilisation = 0 is not allowed"),
        (dict(devices=0), "devices = 0"),
        (dict(price=-1), "price = -1"),
        (dict(per_device_batch=1.5), "per_device_batch = 1.5"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        costs(RAR_B, H100, **wrong)


def test_a_run_must_know_its_steps():
    with pytest.raises(ValueError, match="resolve"):
        cost_report(get_preset("digits"), H100)
    assert costs(resolve(get_preset("digits"), 4500, 10, 1, 28), H100)["steps"] == 490


def test_how_numbers_are_written():
    assert [duration(x) for x in (3.21, 119, 1000, 7200, 5 * 86400)] == [
        "3.21 s",
        "119 s",
        "16.7 min",
        "2 h",
        "5 days",
    ]
    assert [amount(x) for x in (0, 999, 999.9, 412e9, 1.5e12, 2e21)] == [
        "0",
        "999",
        "1 k",
        "412 G",
        "1.5 T",
        "2e+03 E",
    ]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: costs(RAR_B, H100, price=float("inf")), "price = inf"),
        (lambda: costs(RAR_B, H100, price="2 $"), "price = '2 $'"),
        (
            lambda: training_bytes(RAR_B.model, 8, sharded=True, devices=2, quick=True),
            "quick = True is not allowed: it must be False without adaLN and with FSDP",
        ),
        (
            lambda: training_bytes(replace(RAR_B.model, adaln=False), 8, quick=True),
            "quick = True is not allowed",
        ),
        (lambda: costs("rar_b", H100), "run = 'rar_b' is not allowed: it must be a RunConfig"),
        (lambda: cost_report([], H100), "at least one run"),
        (lambda: cost_report(RAR_B, "H100"), "device = 'H100'"),
        (lambda: cost_report(RAR_B, H100, devices=0), "devices = 0"),
        (lambda: replace(H100, bf16=0.0), "bf16 = 0.0 is not allowed: it must be a number above 0"),
        (lambda: replace(H100, memory=float("nan")), "memory = nan"),
        (lambda: find_device("tpu9"), "one that this machine has"),
        (lambda: known_device(None), "name = None"),
        (lambda: train_flops(RAR_B.model, 0), "batch = 0"),
        (lambda: duration(-1), "seconds = -1"),
        (lambda: amount(float("nan")), "x = nan"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


def test_names_do_not_break_the_table():
    """Whatever a preset or a device is called: one more column, and neither HTML nor formulas."""
    odd = "a|b $x_{$ <script>alert(1)</script> `c` [d](e)\nf"
    run, device = replace(RAR_B, preset=odd), replace(H100, name=odd)
    report = cost_report(run, device, price=2.5)
    table, sentence = report.split("\n\n")
    head, *rows = table.splitlines()
    assert {line.replace("\\|", "").count("|") for line in (head, *rows)} == {4}
    for text in (head, sentence):
        assert "<script>" not in text and "&lt;script&gt;" in text
        assert r"a\|b \$x_{\$" in text and r"\`c\` \[d\](e) f" in text
