"""Train CIFAR-100's teacher, store it small enough for the repository and judge it on enlarged images.

What is finished is skipped and an interrupted part goes on, so the command can be given again at any time.
CROSSRES_DATA is the folder that holds cifar100/. Students are grids: crossres bench recipes/cifar100/students.yaml.

    python benchmarks/cifar100_teacher.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crossres.config.experiment import Teach
from crossres.config.judging import Evaluate
from crossres.config.options import TestImages
from crossres.config.reading import read
from crossres.config.yaml_file import load_yaml
from crossres.core.files import write_json
from crossres.evaluation.classification import evaluate
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.training.run import teach

RECIPES = Path("recipes/cifar100")
OUT = Path("results/cifar100")


def main() -> None:
    if "CROSSRES_DATA" not in os.environ:
        sys.exit("CROSSRES_DATA is not set; it is the folder that holds cifar100/")
    data = os.environ["CROSSRES_DATA"] + "/cifar100"
    for part in ("teacher", "teacher-finish"):
        config = read(Teach, load_yaml(RECIPES / f"{part}.yaml") | {"data": data})
        write_json(OUT / f"{part}.json", teach(config, resume=(config.folder / "state.pt").exists()))
    encoder = from_pretrained(config.folder)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half()
    save_pretrained(encoder, OUT / "teacher", info={**encoder.info, "matrices_stored_as": "float16"})
    images = TestImages(label_column="fine_label")
    judged = evaluate(Evaluate(model=str(OUT / "teacher"), data=data, images=images, sizes=[4, 8, 16, 32]))
    write_json(OUT / "teacher-enlarged.json", judged)


if __name__ == "__main__":
    main()
