"""The doors of the core hold: whatever comes, there is an answer or one clear error."""

import pytest
import torch
from torch.utils.data import Dataset

from rar_nb import embeddings, orders, tokenizer, trainer, transformer
from rar_nb.data.tokens import TokenData
from tests.doors import endures_garbage

CONFIG = transformer.ModelConfig(
    codebook_size=8,
    num_tokens=16,
    num_classes=5,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    mlp_size=16,
)
RECIPE = trainer.TrainConfig(
    epochs=2,
    warmup_epochs=1,
    anneal_start=0,
    anneal_end=1,
    steps_per_epoch=1,
    batch_size=4,
    precision="no",
)
SMALL = tokenizer.TokenizerConfig(
    image_size=16,
    codebook_size=8,
    codebook_dim=4,
    width=8,
    vq_steps=1,
    vq_batch_size=2,
    vq_precision="no",
)


class Black(Dataset):
    channels, size = 1, 16

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return torch.zeros(1, 16, 16, dtype=torch.uint8), 0


torch.manual_seed(0)
MODEL, VQ = transformer.RAR(CONFIG), tokenizer.make_tokenizer(SMALL).eval()
GREY = tokenizer.GreyTokenizer()
DATA = TokenData(torch.randint(8, (6, 1, 16)), torch.randint(5, (6,)))
PIXELS = torch.randint(256, (2, 1, 16, 16), dtype=torch.uint8)
IMAGES, TOKENS = torch.rand(2, 1, 16, 16), torch.randint(8, (2, 16))
ORDERS, CONDITION = orders.sample_orders(2, 16, 1.0), torch.tensor([9, 10])
TABLE, LOGITS = torch.rand(1, 18, 4), torch.randn(2, 17, 8)


def forward(tokens, condition, orders):
    return MODEL(tokens, condition, orders)


@pytest.mark.parametrize(
    "function, good",
    [
        (tokenizer.psnr, dict(a=PIXELS, b=PIXELS)),
        (tokenizer.stack_images, dict(data=Black(), indices=[0, 1])),
        (tokenizer.make_tokenizer, dict(config=SMALL)),
        (tokenizer.to_float, dict(images=PIXELS, value_range=(0.0, 1.0))),
        (tokenizer.to_uint8, dict(images=IMAGES, value_range=(0.0, 1.0))),
        (tokenizer.grid_side, dict(num_tokens=16)),
        (tokenizer.GreyTokenizer, dict(config=None)),
        (tokenizer.ConvVQ, dict(config=SMALL)),
        (GREY.encode, dict(images=IMAGES)),
        (GREY.decode, dict(tokens=TOKENS)),
        (VQ.encode, dict(images=IMAGES)),
        (VQ.decode, dict(tokens=TOKENS)),
        (
            tokenizer.train_tokenizer,
            dict(tokenizer=VQ, data=Black(), seed=1, device="cpu", progress=False, workers=0),
        ),
        (tokenizer.reconstruct, dict(tokenizer=GREY, images=PIXELS, batch_size=3)),
        (orders.permute, dict(x=TOKENS, orders=ORDERS)),
        (orders.inverse, dict(orders=ORDERS)),
        (orders.unpermute, dict(x=TOKENS, orders=ORDERS)),
        (orders.raster_order, dict(num_tokens=4, device=None)),
        (orders.sample_orders, dict(batch_size=2, num_tokens=4, r=0.5, generator=None)),
        (orders.random_ratio, dict(step=1.0, start=0.0, end=2.0, schedule="linear")),
        (orders.scan_order, dict(name="raster", grid_size=3)),
        (embeddings.position_ids, dict(orders=ORDERS)),
        (embeddings.target_ids, dict(orders=ORDERS)),
        (
            embeddings.position_embedding,
            dict(orders=ORDERS, pos_embed=TABLE, target_aware_pos_embed=TABLE),
        ),
        (
            embeddings.drop_classes,
            dict(condition=CONDITION, null_id=14, probability=0.1, generator=None),
        ),
        (transformer.RAR, dict(config=CONFIG)),
        (forward, dict(tokens=TOKENS, condition=CONDITION, orders=ORDERS)),
        (transformer.rar_loss, dict(logits=LOGITS, tokens=TOKENS, orders=ORDERS)),
        (CONFIG.condition_id, dict(classes=1)),
        (trainer.learning_rate, dict(step=1.0, warmup=1.0, total=4.0, peak=1.0, minimum=0.0)),
        (trainer.learning_rate_at, dict(step=1, train=RECIPE)),
        (trainer.random_ratio_at, dict(step=1, train=RECIPE)),
        (trainer.make_optimizer, dict(model=MODEL, train=RECIPE, fused=False)),
        (trainer.step_generator, dict(seed=1, step=1)),
        (
            trainer.make_batch,
            dict(data=DATA, model=CONFIG, train=RECIPE, seed=1, step=1, rank=0, processes=1),
        ),
        (trainer.train, dict(model=MODEL, data=DATA, config=RECIPE, seed=1, on_step=None)),
        (trainer.validation_loss, dict(model=MODEL, data=DATA, r=0.5, batch_size=3)),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_garbage_gives_an_answer_or_one_clear_error(function, good):
    endures_garbage(function, **good)
