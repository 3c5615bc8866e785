"""Which values the fields of a run may have: written down here once more, to check the library."""

import json
import math

from tests.broken.cases import Wrong

POSITIVE_INTS = set(
    "model.codebook_size model.num_tokens model.num_classes model.hidden_size model.num_layers"
    " model.num_heads model.mlp_size tokenizer.image_size tokenizer.stride tokenizer.codebook_dim"
    " tokenizer.width tokenizer.vq_batch_size train.batch_size train.log_every"
    " sample.num_samples sample.sample_batch_size".split()
)
OTHER_INTS = {  # at least
    "tokenizer.codebook_size": 2,
    "tokenizer.shifts": 0,
    "tokenizer.vq_steps": 0,
    "devices.checkpoint_every": 0,
    "devices.keep_every": 0,
}
OPTIONAL_INTS = {"train.steps_per_epoch", "train.eval_every", "devices.device_batch_size"}
POSITIVE = set(
    "tokenizer.vq_learning_rate train.epochs train.learning_rate train.max_grad_norm"
    " sample.guidance_power sample.temperature".split()
)
NOT_NEGATIVE = set(
    "train.warmup_epochs train.anneal_start train.anneal_end train.min_learning_rate"
    " train.weight_decay sample.guidance_scale".split()
)
SHARES = {  # from 0 to below or up to 1
    "model.dropout": False,
    "train.beta1": False,
    "train.beta2": False,
    "train.class_dropout": True,
}
BOOLS = {"devices.compile", "devices.quick_blocks", "devices.checkpointing", "model.target_aware",
         "model.adaln"}
CHOICES = {
    "tokenizer.kind": ("grey", "conv_vq", "maskgit_vq", "llamagen_vq", "vqgan"),
    "tokenizer.channels": (1, 3),
    "tokenizer.vq_precision": ("bf16", "no", "auto"),
    "train.anneal_schedule": ("linear",),
    "model.final_order": ("raster", "alternate", "spiral_in", "spiral_out", "z_curve", "subsample",
                          "random"),
    "train.precision": ("bf16", "no", "auto"),
    "sample.sample_precision": ("tf32", "no", "bf16", "auto"),
    "sample.guidance_schedule": ("pow_cosine", "linear", "constant"),
    "devices.strategy": ("ddp", "fsdp", "auto"),
}
TEXTS = {"preset", "data", "devices.trackers"}
OPTIONAL_TEXTS = {"init_from"}
LATER = {  # younger
    "sample.guidance_schedule",
    "sample.sample_precision",
    "train.anneal_schedule",
    "model.final_order",
    "model.target_aware",
    "model.adaln",
}
SIZES = {  # no machine has memory for more than this; tokens and labels are stored in 16 bits
    "model.codebook_size": 2**16,
    "model.num_tokens": 10**9,
    "model.num_classes": 2**16,
    "model.hidden_size": 10**6,
    "model.num_layers": 10**5,
    "model.mlp_size": 10**9,
    "tokenizer.width": 10**7,
    "tokenizer.codebook_size": 2**16,
    "tokenizer.codebook_dim": 10**9,
}


def as_value(field: str, value):
    """A value as its field reads it: text stands for a number, a truth or nothing."""
    if field in OPTIONAL_TEXTS and isinstance(value, str):
        return None if value.lower() in ("none", "null") else value
    is_word = field in TEXTS or isinstance(CHOICES.get(field, [0])[0], str)
    if is_word or not isinstance(value, str):
        return value
    word = value.lower()
    if word in ("none", "null"):
        return None if field in OPTIONAL_INTS else value
    try:
        return json.loads(word if word in ("true", "false") else value)
    except ValueError:
        return value


def is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    ordinary = is_int(value) or isinstance(value, float)
    try:
        return ordinary and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def too_large(field: str, value) -> bool:
    """Whether nothing of this size can be built, or its tokens stored."""
    return field in SIZES and is_int(value) and value > SIZES[field]


def allowed(field: str, value) -> bool:
    """Whether a field may have a value, seen by itself."""
    if field in POSITIVE_INTS:
        return is_int(value) and 1 <= value
    if field in OTHER_INTS:
        return is_int(value) and OTHER_INTS[field] <= value
    if field in OPTIONAL_INTS:
        return value is None or (is_int(value) and value >= 1)
    if field in POSITIVE:
        return is_number(value) and value > 0
    if field in NOT_NEGATIVE:
        return is_number(value) and value >= 0
    if field in SHARES:
        return is_number(value) and 0 <= value and (value < 1 or (SHARES[field] and value == 1))
    if field in BOOLS:
        return isinstance(value, bool)
    if field in CHOICES:
        kinds = {type(choice) for choice in CHOICES[field]}
        return type(value) in kinds and value in CHOICES[field]
    if field == "seed":
        return is_int(value) and 0 <= value < 2**32
    if field == "data":
        return isinstance(value, str) and value != ""
    if field in OPTIONAL_TEXTS:
        return value is None or isinstance(value, str)
    if field not in TEXTS:
        raise Wrong(f"the field {field} is not in tests/broken/oracle.py yet")
    return isinstance(value, str)
