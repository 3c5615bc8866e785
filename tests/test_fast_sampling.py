"""The fast sampler against the textbook, and its step as something that can be recorded: nothing
waits for the device, nothing changes from step to step but numbers in memory."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rar_nb import fast_sampling, sampler
from rar_nb.fast_sampling import KEPT, FastState, FastStep, Plan, forget
from rar_nb.orders import raster_order, sample_orders
from rar_nb.sampler import (
    SampleConfig,
    SamplingState,
    choose,
    fast_state,
    guidance_weights,
    guided_logits,
    image_noise,
    sample_images,
    sample_tokens,
    textbook_tokens,
)
from rar_nb.tokenizer import GreyTokenizer
from rar_nb.transformer import RAR, ModelConfig
from tests.doors import refuses
from tests.tools.changed import CHANGES, change

L, C = 16, 4
SAMPLE = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)
IN_TORCH = Plan(kernels=False, packed=False, graphs=False, span=0)
PLANS = {
    "all": Plan(),
    "no kernels": Plan(kernels=False),
    "not packed": Plan(packed=False),
    "a call for each loop": Plan(one_call=False),
    "as on a GPU": IN_TORCH,
    "one step in the table": Plan(table_bytes=0),
    "a few steps in the table": Plan(table_bytes=10_000),
}


def make_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = RAR(ModelConfig(8, L, C, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.to(dtype).eval()


MODEL = make_model()


# The same tokens


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 7),
    order=st.sampled_from(["raster", "one", "each"]),
    guidance=st.sampled_from([0.0, 1.0, 6.0]),
)
def test_same_tokens_as_the_textbook(plan, seed, batch, order, guidance):
    generator = torch.Generator().manual_seed(seed)
    orders = sample_orders(batch if order == "each" else 1, L, float(order != "raster"), generator)
    classes = torch.randint(C, (batch,), generator=generator)
    sample = SampleConfig(guidance, 1.5, 1.1)
    noise = image_noise(seed, range(batch), L)
    expected = textbook_tokens(MODEL, classes, sample, noise, orders)
    assert torch.equal(sample_tokens(MODEL, classes, sample, noise, orders, plan=plan), expected)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_logits_of_the_textbook(plan):
    """Closer than tokens could tell: the logits of forced tokens, in both precisions."""
    classes = torch.tensor([0, 3, 3, 1])
    forced = torch.randint(8, (4, L), generator=torch.Generator().manual_seed(0))
    for precision, tolerance in (("no", 1e-5), ("bf16", 0.06)):
        sample = replace(SAMPLE, sample_precision=precision)
        slow = SamplingState(MODEL, classes, sample)
        fast = fast_state(MODEL, classes, sample, plan=plan)
        for k in range(L):
            last = forced[:, k - 1] if k else None
            with torch.no_grad():
                expected = slow.next_logits(last)
            torch.testing.assert_close(fast.next_logits(last), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    heads=st.integers(1, 3),
    mlp=st.sampled_from([8, 70, 400]),
    layers=st.integers(1, 3),
    adaln=st.booleans(),
)
def test_one_call_computes_what_many_calls_do(dtype, seed, rows, heads, mlp, layers, adaln):
    """Bit by bit, whether the MLP is narrower or wider than what attention reads."""
    torch.manual_seed(seed)
    model = RAR(ModelConfig(8, 4, C, hidden_size=20 * heads, num_layers=layers, num_heads=heads,
                            mlp_size=mlp, adaln=adaln)).eval()  # fmt: skip
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    entries, found = torch.randn(4, rows, 20 * heads), []
    for one_call in (True, False):
        step = FastStep(model, rows, dtype, plan=Plan(one_call=one_call, table_bytes=0))
        step.start([model.config.condition_id(torch.tensor(i % C)).item() for i in range(rows)],
                   torch.arange(4).unsqueeze(0))  # fmt: skip
        compiled = step.weights.blocks[0].qkv.loop is not None
        assert (step.addresses is not None) == (one_call and compiled)
        for entry in entries:
            step.entry[:rows] = entry
            found.append(step.next_position())
    assert torch.stack(found[:4]).equal(torch.stack(found[4:]))


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_model_is_not_sampled_from_as_if_it_were_the_usual_one(what):
    """The fast sampler takes the weights, and would never call what was changed."""
    request = [0, 1], SAMPLE, image_noise(0, range(2), L)
    usual = textbook_tokens(make_model(), *request)
    model = change(make_model(), what)
    refuses(lambda: sample_tokens(model, *request), "textbook_tokens")
    assert not torch.equal(textbook_tokens(model, *request), usual)


def test_float64_is_computed_in_float64():
    model = make_model(dtype=torch.float64)
    state = fast_state(model, [1, 2], SAMPLE)
    assert state.step.keys.dtype == torch.float64
    noise = image_noise(0, range(2), L)
    expected = textbook_tokens(model, [1, 2], SAMPLE, noise)
    assert torch.equal(sample_tokens(model, [1, 2], SAMPLE, noise), expected)


def test_an_image_does_not_depend_on_its_neighbours():
    noise = image_noise(3, range(6), L)
    whole = sample_tokens(MODEL, [0, 1, 2, 3, 0, 1], SAMPLE, noise)
    for i in range(6):
        alone = sample_tokens(MODEL, [i % 4], SAMPLE, noise[i : i + 1])
        assert torch.equal(alone[0], whole[i])


def test_on_step_is_told_after_every_token():
    seen = []
    noise = image_noise(0, [0], L)
    sample_tokens(MODEL, [0], SAMPLE, noise, on_step=lambda *step: seen.append(step))
    assert seen == [(k + 1, L) for k in range(L)]


# What is kept


def test_the_next_batch_finds_everything_prepared(monkeypatch):
    made, noise = [], image_noise(0, range(2), L)
    init = FastStep.__init__

    def counted(self, *args):
        made.append(args)
        init(self, *args)

    monkeypatch.setattr(FastStep, "__init__", counted)
    model = make_model()
    first = sample_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(sample_tokens(model, [0, 1], SAMPLE, noise), first) and len(made) == 1
    other = sample_tokens(model, [3, 3], SAMPLE, noise)  # another number of different classes
    assert torch.equal(other, textbook_tokens(model, [3, 3], SAMPLE, noise)) and len(made) == 1
    sample_tokens(model, [0, 1], replace(SAMPLE, temperature=2.0), noise)
    assert len(made) == 2
    forget(model)
    assert model not in KEPT


@pytest.mark.parametrize(
    "how", ["in place", "load_state_dict", "another tensor", "optimizer", "fused optimizer"]
)
def test_new_weights_are_noticed(how):
    model, noise = make_model(), image_noise(0, range(2), L)
    before = sample_tokens(model, [0, 1], SAMPLE, noise)
    if how == "in place":
        with torch.no_grad():
            model.blocks[1].mlp.fc2.weight.mul_(-3)
    elif how == "load_state_dict":
        model.load_state_dict(make_model(seed=1).state_dict())
    elif how == "another tensor":
        model.lm_head.weight = torch.nn.Parameter(-model.lm_head.weight.detach())
    else:
        tokens = torch.zeros(1, L, dtype=torch.int64)
        model(tokens, torch.tensor([9]), raster_order(L)).sum().backward()
        torch.optim.AdamW(model.parameters(), lr=0.5, fused=how == "fused optimizer").step()
    after = sample_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(after, textbook_tokens(model, [0, 1], SAMPLE, noise))
    assert not torch.equal(before, after)


def set_data(model, how):
    """Change all weights in a way that torch does not count."""
    for p, other in zip(model.parameters(), make_model(seed=1).parameters(), strict=True):
        if how == "scaled":
            p.data.mul_(1.3)
        elif how == "swapped":
            p.data.copy_(other)
        else:
            p.data.neg_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("how", ["scaled", "swapped", "negated"])
def test_changes_through_data_are_noticed(how, dtype):
    """As when averaged weights are swapped in; torch counts no change of a tensor then."""
    model, noise = make_model(dtype=dtype), image_noise(0, range(2), L)
    sample_tokens(model, [0, 1], SAMPLE, noise)
    versions = [p._version for p in model.parameters()]
    set_data(model, how)
    assert versions == [p._version for p in model.parameters()]
    expected = copy.deepcopy(model)
    found = sample_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(found, sample_tokens(expected, [0, 1], SAMPLE, noise))
    if dtype != torch.bfloat16:  # whose textbook rounds elsewhere
        assert torch.equal(found, textbook_tokens(model, [0, 1], SAMPLE, noise))


@pytest.mark.parametrize("value", [
    torch.empty(0), torch.ones(2, dtype=torch.int8), torch.ones(2, dtype=torch.complex64),
    torch.tensor([float("nan"), 1.0])])  # fmt: skip
def test_numbers_that_are_never_read_change_nothing(value):
    """Such as those of a block of one's own: they don't stop a version from being told."""
    model = make_model()
    model.blocks[0].extra = torch.nn.Parameter(value, requires_grad=False)
    assert fast_sampling.version_of(model) == fast_sampling.version_of(model)
    noise = image_noise(0, range(2), L)
    expected = textbook_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(sample_tokens(model, [0, 1], SAMPLE, noise), expected)


def test_changes_of_inference_tensors_are_noticed():
    with torch.inference_mode():
        model, noise = make_model(), image_noise(0, range(2), L)
        sample_tokens(model, [0, 1], SAMPLE, noise)
        for p in model.parameters():
            p.mul_(1.3)
        found = sample_tokens(model, [0, 1], SAMPLE, noise)
        assert torch.equal(found, textbook_tokens(model, [0, 1], SAMPLE, noise))


@pytest.mark.parametrize("what", [
    "the smallest change of one number", "one number that is neither large nor small"])  # fmt: skip
def test_a_change_of_one_number_is_noticed(what):
    model = make_model()
    before, weight = fast_sampling.version_of(model), model.blocks[0].mlp.fc1.weight
    assert fast_sampling.version_of(model) == before
    if what.startswith("the smallest"):
        place = weight.argmax()
        weight.data.view(-1)[place] = weight.data.view(-1)[place].nextafter(torch.tensor(9.0))
    else:
        weight.data[3, 5] += 0.01
    assert fast_sampling.version_of(model) != before


def test_contents_are_asked_for_once():
    """All weights together, so that the device is waited for once."""
    with Log() as log:
        fast_sampling.version_of(MODEL)
    names = [name for name, *_ in log.calls]
    assert sum("_foreach_" in name for name in names) == 2
    assert names.count("aten::stack") == 1 and not log.waits


def test_weights_with_gaps_between_their_numbers():
    """Compiled loops step from number to number. All parameters: transposed, or every other."""
    for plan in PLANS.values():
        for precision in ("no", "bf16"):
            model = make_model()
            expected, sample = copy.deepcopy(model), replace(SAMPLE, sample_precision=precision)
            for p in model.parameters():
                if p.ndim > 1:
                    p.data = p.data.mT.contiguous().mT
                else:
                    p.data = p.data.repeat_interleave(2)[::2]
                assert not p.is_contiguous() or 1 in p.shape
            given = [0, 1, 3], sample, image_noise(0, range(3), L)
            found = sample_tokens(model, *given, plan=plan)
            assert torch.equal(found, sample_tokens(expected, *given, plan=plan))


def test_a_training_step_gives_the_memory_back():
    model = make_model()
    sample_tokens(model, [0], SAMPLE, image_noise(0, [0], L))
    assert model in KEPT
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).step()
    assert model not in KEPT


def test_weights_that_were_replaced_twice_are_noticed():
    """The third set of weights cannot lie where the first did, as that memory is still in use."""
    model, noise = make_model(), image_noise(0, range(2), L)
    first, addresses = make_model(1).state_dict(), []
    model.load_state_dict(first, assign=True)
    del first
    sample_tokens(model, [0, 1], SAMPLE, noise)
    for seed in (2, 3):
        addresses.append({p.data_ptr() for p in model.parameters()})
        model.load_state_dict(make_model(seed).state_dict(), assign=True)
    addresses.append({p.data_ptr() for p in model.parameters()})
    assert not addresses[0] & addresses[2]
    expected = textbook_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(sample_tokens(model, [0, 1], SAMPLE, noise), expected)


def test_nothing_is_kept_of_a_model_that_is_gone():
    model = make_model()
    sample_tokens(model, [0], SAMPLE, image_noise(0, [0], L))
    gone, copied = weakref.ref(model), copy.deepcopy(model)
    assert copied not in KEPT and model in KEPT
    del model
    gc.collect()
    assert gone() is None


def test_sets_of_images_give_the_memory_back():
    model = make_model()
    sample_images(model, GreyTokenizer(), [0, 1], SAMPLE)
    assert model not in KEPT


def test_what_was_made_under_inference_mode_works_outside():
    model, noise = make_model(), image_noise(0, range(2), L)
    with torch.inference_mode():
        inside = sample_tokens(model, [0, 1], SAMPLE, noise)
    assert torch.equal(sample_tokens(model, [0, 1], SAMPLE, noise), inside)


@pytest.mark.parametrize("budget", [0, 5_000, 50_000, 2**26])
def test_the_table_keeps_to_its_budget(budget):
    step = FastStep(MODEL, 6, torch.float32, plan=Plan(table_bytes=budget))
    row = (6 * 2 + 2) * 32 * 4
    least = 5 * row  # one step of every condition that there can be
    assert step.table.nbytes + step.head_table.nbytes <= max(least, budget)
    assert len(step.head_table) <= 5 * (L + 2)  # never more than there are steps


def test_two_batches_in_the_making_do_not_meet():
    """By hand and at once, and in two threads."""
    noise, classes = image_noise(0, range(4), L), [0, 1]
    one, two = (fast_state(MODEL, classes, SAMPLE, noise[rows]) for rows in ([0, 1], [2, 3]))
    for _ in range(L):
        one.next_token()
        two.next_token()
    expected = [textbook_tokens(MODEL, classes, SAMPLE, noise[rows]) for rows in ([0, 1], [2, 3])]
    assert torch.equal(one.tokens, expected[0]) and torch.equal(two.tokens, expected[1])
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(sample_tokens, MODEL, classes, SAMPLE, noise[rows])
                for rows in ([0, 1], [2, 3]) * 10]  # fmt: skip
    for k, job in enumerate(jobs):
        assert torch.equal(job.result(), expected[k % 2])


def test_what_was_sampled_is_taken_before_others_may_sample(monkeypatch):
    """A thread that gets the kept state writes into it at once."""
    noise, classes = image_noise(0, range(2), L), [0, 1]
    expected = textbook_tokens(MODEL, classes, SAMPLE, noise)
    monkeypatch.setattr(sampler, "keep", lambda model, state: state.tokens.fill_(-1))
    assert torch.equal(sample_tokens(MODEL, classes, SAMPLE, noise), expected)


def test_a_batch_that_was_broken_off_leaves_nothing_behind():
    noise = image_noise(0, range(2), L)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_tokens(MODEL, [0, 1], SAMPLE, noise, on_step=stop)
    expected = textbook_tokens(MODEL, [0, 1], SAMPLE, noise)
    assert torch.equal(sample_tokens(MODEL, [0, 1], SAMPLE, noise), expected)


# A step that can be recorded


def started(model, plan=IN_TORCH, device=None, batch=3):
    """A state at its start, without the checks of its input, which may look at numbers."""
    step = FastStep(model, 2 * batch, model.lm_head.weight.dtype, True, plan)
    guided = partial(guided_logits, sample=SAMPLE)
    state = FastState(step, batch, guidance_weights(L, SAMPLE), guided, choose, "no")
    condition = [9, 12, 12][:batch] + [13] * batch
    shape = batch, L
    noise = torch.full(shape, 0.4, device=device) if device else image_noise(5, range(batch), L)
    known = torch.full(shape, -1, device=device)
    state.start(condition, torch.arange(L, device=device).unsqueeze(0), noise, known)
    return state


class Log(TorchDispatchMode):
    """The calls of torch's operators: their names and the shapes of their tensors."""

    def __init__(self):
        super().__init__()
        self.calls, self.waits = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
        name = func.name()
        shapes = [tuple(x.shape) for x in tensors]
        others = [x for x in torch.utils._pytree.tree_leaves((args, kwargs))
                  if isinstance(x, (int, float, bool))]  # fmt: skip
        self.calls.append((name, shapes, others))
        devices = {x.device.type for x in tensors} | {str(kwargs.get("device") or "")} - {""}
        looks = any(word in name for word in ("_local_scalar_dense", "nonzero", "item", "unique"))
        by_mask = "index" in name and any(x.dtype == torch.bool for x in tensors[1:])
        if looks or by_mask or len({d.split(":")[0] for d in devices}) > 1:
            self.waits.append(name)
        return func(*args, **kwargs)


class Newest(TorchDispatchMode):
    """Remembers what the latest operator wrote; views write nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        aliases = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self.written = out
        return out


def test_what_the_first_kernel_reads_early_was_not_written_just_before():
    """On a GPU it reads `rows` before it waits for the kernel before it, and x afterwards."""
    state = started(make_model())
    norm, found = state.step.norm, []

    def look(x, branch, modulation, rows, dtype):
        if branch is None:
            addresses = [tensor.data_ptr() for tensor in (newest.written, x, rows)]
            found.append([address == addresses[0] for address in addresses[1:]])
        return norm(x, branch, modulation, rows, dtype)

    state.step.norm = look
    with Newest() as newest:
        state.next_token()
    assert found == [[True, False]]


def test_nothing_in_the_loop_waits_for_the_device():
    state = started(make_model())
    with Log() as log:
        for _ in range(L):
            state.next_token()
    assert not log.waits and log.calls
    with Log() as log:  # the log does see what it looks for
        state.finite.item()
        state.tokens[state.tokens > 0]
        state.noise.to("meta")
    assert len(log.waits) >= 3


def test_every_step_is_the_same_step():
    """The same operators with the same shapes and the same numbers from Python, every time."""
    state = started(make_model())
    state.next_token()
    steps = []
    for _ in range(L - 1):
        with Log() as log:
            state.next_token()
        steps.append(log.calls)
    assert all(calls == steps[0] for calls in steps) and len(steps[0]) > 50


def test_memory_stays_where_it_is():
    state = started(make_model())
    addresses = {name: b.data_ptr() for name, b in state.named_buffers()}
    for _ in range(L):
        state.next_token()
    state.start([10] * 3 + [13] * 3, raster_order(L), image_noise(6, range(3), L),
                torch.full((3, L), -1))  # fmt: skip
    state.next_token()
    assert addresses == {name: b.data_ptr() for name, b in state.named_buffers()}


def test_the_loop_runs_on_fake_tensors_of_a_gpu(monkeypatch):
    """Whatever asks for a number or mixes devices fails on tensors that have no numbers. Without
    CUDA torch's bindings for x[0] and copy_ look for a real GPU: these two have stand-ins."""
    monkeypatch.setattr(
        fast_sampling, "position_embedding", lambda orders, pos, _: pos.narrow(1, 0, L + 2)
    )
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda x, y, non_blocking=False: torch.ops.aten.copy_(x, y)
    )
    model = make_model().requires_grad_(False)  # no autograd: it asks for a real GPU
    with FakeTensorMode() as mode:
        for module in model.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                fake = mode.from_tensor(p).to("cuda:0")
                module._parameters[name] = torch.nn.Parameter(fake, False)
        state = started(model, device=torch.device("cuda:0"))
        with torch.no_grad():
            for _ in range(L):
                state.next_token()
        assert state.tokens.device.type == "cuda" and state.tokens.shape == (3, L)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            bool(state.finite)  # fake tensors do refuse to be looked at


def test_one_compiled_frame_serves_all_steps():
    model = make_model()
    plain, compiled = started(model), started(model)
    counter = CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(compiled.forward, fullgraph=True, dynamic=False, backend=counter)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(L):
            step(L + 2)
    for _ in range(L):
        plain.next_token()
    assert counter.frame_count == 1
    assert torch.equal(compiled.tokens, plain.tokens)
    torch._dynamo.reset()


def test_one_exported_step_replayed_gives_the_tokens_of_the_textbook():
    model, noise = make_model(), image_noise(5, range(3), L)
    with torch.no_grad():
        state = started(model)
        replay = torch.export.export(state, (L + 2,)).module()
        for _ in range(L):
            replay(L + 2)
    expected = textbook_tokens(model, [0, 3, 3], SAMPLE, noise)
    assert torch.equal(dict(replay.named_buffers())["tokens"], expected)


class Recording:
    """In place of a CUDA graph: remembers what is to be played."""

    played = 0

    def replay(self):
        Recording.played += 1
        self.step()


def test_a_gpu_plays_each_recording_again(monkeypatch):
    """What `play` decides, with stand-ins for CUDA: once as usual, once recorded, then replayed."""
    plan = IN_TORCH._replace(graphs=True, span=8)
    recorded, expected = started(make_model(), plan), started(make_model(), plan)
    for _ in range(L):
        expected.next_token()
    log = []

    class Here:
        def __init__(self, graph=None, capture_error_mode="global"):
            self.graph = graph
            # In another mode, what other threads do meanwhile would break the recording off.
            assert graph is None or capture_error_mode == "thread_local"

        def __enter__(self):
            log.append("record" if self.graph else "side")
            Here.recording = self.graph

        def __exit__(self, *_):
            Here.recording = None

        def wait_stream(self, other):
            pass

    forward = FastState.forward

    def called(self, span):
        if getattr(Here, "recording", None):  # recorded, not computed
            Here.recording.step = lambda: forward(self, span)
            return
        forward(self, span)

    monkeypatch.setattr(FastState, "forward", called)
    monkeypatch.setattr(FastState, "records", lambda state: state is recorded)
    for name, stand_in in dict(Stream=Here, CUDAGraph=Recording, graph=Here).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda side: Here())
    monkeypatch.setattr(torch.cuda, "current_stream", Here)
    Recording.played = 0
    for _ in range(L):
        recorded.next_token()
    assert torch.equal(recorded.tokens, expected.tokens)
    # Of 8 keys 7 steps, of 16 keys 8 steps, and of all 18 the last one, which is not worth it.
    assert log == ["side", "record", "side", "record", "side"]
    assert Recording.played == L - 3
