"""The classifier that every run of the bundled digits is measured with, trained anew.

It is what `train_classifier` of `07_evaluation` makes of the training images with its defaults.
Matrices and kernels are stored as float16, which halves the file; vectors stay float32.
`DIGITS_CLASSIFIER_SHA256` in `51_report` is the checksum of the file.

python -m tests.tools.digits_classifier data/digits_classifier.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from rar_nb.data.images import open_data
from rar_nb.evaluation import SmallCNN, some_images, train_classifier
from rar_nb.reports.report import training_hash
from rar_nb.runs.run_folders import commit, processor
from rar_nb.support import write_beside

COMMAND = "python -m tests.tools.digits_classifier data/digits_classifier.safetensors"


def rounded(classifier: SmallCNN) -> dict[str, torch.Tensor]:
    """The state of a classifier, as it is stored."""
    return {
        name: tensor.half().contiguous() if tensor.ndim > 1 else tensor
        for name, tensor in classifier.state_dict().items()
    }


def main(path: Path):
    images, targets = some_images(open_data("digits")[0], 10_000)
    labels = torch.from_numpy(targets)
    classifier = train_classifier(images, labels, num_classes=10, seed=0, progress=True)
    metadata = dict(
        images=training_hash(images, labels),
        command=COMMAND,
        commit=commit(),
        processor=processor(),
        threads=str(torch.get_num_threads()),
        torch=torch.__version__,
    )
    with write_beside(path) as beside:
        save_file(rounded(classifier), beside, metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("path", type=Path, help="the file to write")
    main(parser.parse_args().path)
