"""Models of which somebody has changed a part: their weights alone don't say what they compute."""

from torch import nn

from rar_nb.transformer import MLP, RAR, Block, FinalNorm


class Twice(Block):
    """A block of somebody's own."""

    def forward(self, x, c, cache=None):
        return 2 * super().forward(x, c, cache)


class ReLU(MLP):
    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


class OddLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).tanh()


class NoNorm(FinalNorm):
    def forward(self, x, c):
        return x


class OtherRAR(RAR):
    def features(self, x, c, cache=None):
        return super().features(x, c, cache).relu()


CHANGES = {
    "block": lambda model: (model.blocks[0], Twice),
    "mlp": lambda model: (model.blocks[-1].mlp, ReLU),
    "linear": lambda model: (model.blocks[-1].attn.proj, OddLinear),
    "last norm": lambda model: (model.adaln_before_head, NoNorm),
    "model": lambda model: (model, OtherRAR),
}


def change(model: RAR, what: str) -> RAR:
    """The same weights, but a part of the model computes something else from now on."""
    part, kind = CHANGES[what](model)
    part.__class__ = kind
    return model
