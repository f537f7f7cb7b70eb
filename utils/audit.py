"""What the assignment demands, measured on any torch.nn.Module: `audit(model)`. The notebooks' "limits checked".

The network is run and looked at: its trace (utils/trace.py), the layer algebra over it (receptive_field.py in
utils/auditing/) and the gradients of a copy (footprint.py). How its parts are told apart is in anatomy.py; the rows are
in network_rows.py, augment_row.py and result_rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from html import escape
from pathlib import Path

import albumentations as A
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from utils.auditing.anatomy import Anatomy
from utils.auditing.augment_row import augment_row
from utils.auditing.field import Field, field_row, find_field
from utils.auditing.footprint import idle_convolutions
from utils.auditing.layer_table import Layers, layer_table
from utils.auditing.network_rows import (
    NOT_RUN,
    bonus_row,
    depthwise_row,
    dilated_row,
    gap_row,
    max_pooling_row,
    params_row,
    structure_row,
)
from utils.auditing.requirement import MAX_PARAMETERS, MIN_RECEPTIVE_FIELD, Requirement, row, shortened, unjudged
from utils.auditing.result_rows import result_rows
from utils.data import ImageData
from utils.errors import InputError, one_line
from utils.evaluation import Evaluation
from utils.models import model_name
from utils.recipes import Recipe
from utils.tables import as_html, as_table
from utils.trace import copied, has_lazy, random_states_kept, record, uncompiled

__all__ = ["MAX_PARAMETERS", "MIN_RECEPTIVE_FIELD", "Report", "Requirement", "audit"]

OPTIONAL = ("bonus",)
VERDICTS = {True: "passed", False: "FAILED", None: "-"}


@dataclass(frozen=True, repr=False)
class Report:
    """What `audit` found; prints as a table, and renders as one in a notebook.

    Attributes:
        model: its name.
        requirements: one row each, in order; `bonus` is optional.
        layers: every convolution, pool and linear layer that ran, with output size, field and jump.
        parameters, trainable_parameters: each counted once, however often it is used.
        receptive_field: (height, width) in pixels before the global average, padding counted as image; None if unknown.
        receptive_field_with_average: the same for the average over the map, of the positions that it takes.
        receptive_field_method: how it was found, and what to think of it.
    """

    model: str
    requirements: tuple[Requirement, ...]
    layers: Layers
    parameters: int
    trainable_parameters: int
    receptive_field: tuple[int, int] | None
    receptive_field_with_average: tuple[int, int] | None
    receptive_field_method: str

    @property
    def passed(self) -> bool:
        """Whether everything compulsory that can be judged passes."""
        return all(r.passed is not False for r in self.requirements if r.id not in OPTIONAL)

    def __getitem__(self, id: str) -> Requirement:
        """The row of a requirement, as in report["rf"]."""
        return {r.id: r for r in self.requirements}[id]

    def rows(self) -> list[tuple]:
        rows = [("requirement", "demanded", "measured", "", "where")]
        for found in self.requirements:
            verdict = "no (optional)" if found.id in OPTIONAL and found.passed is False else VERDICTS[found.passed]
            rows.append((found.id, found.demanded, found.measured, verdict, shortened(found.where)))
        return rows

    def __str__(self) -> str:
        verdict = VERDICTS[self.passed]
        return f"{self.model}: {verdict}\n{as_table(self.rows())}\nreceptive field: {self.receptive_field_method}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        verdict = VERDICTS[self.passed]
        table = as_html(self.rows())
        method = escape(self.receptive_field_method)
        return f"<p><b>{escape(self.model)}: {verdict}</b></p>{table}<p>Receptive field: {method}</p>"

    def to_dict(self) -> dict:
        """As `python -m utils audit --json` prints it."""
        return {
            "model": self.model,
            "passed": self.passed,
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "receptive_field": self.receptive_field and list(self.receptive_field),
            "receptive_field_method": self.receptive_field_method,
            "requirements": [r.to_dict() for r in self.requirements],
            "layers": [layer.to_dict() for layer in self.layers],
        }


def audit(
    model: nn.Module,
    recipe: Recipe | A.Compose | None = None,
    data: ImageData | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    *,
    result: Evaluation | None = None,
    run: str | Path | None = None,
) -> Report:
    """Which of the assignment's requirements a network meets, with the figures.

    The model stays as it is to the bit: copies of it run. What cannot be judged is said, and does not fail.

    Args:
        model: any network, in any mode, on any device, trained or not.
        recipe: what it is trained with: a `Recipe`, or the augmentation policy itself.
        data: what it is trained and tested on; tells the mean for the augmentation, and the training images.
        input_shape: channels, height, width that it takes.
        result: what `evaluate` returned, for the rows `data` and `accuracy`.
        run: the folder of a run, for the same.

    Raises:
        InputError: an argument is not what it should be. A network that does not run is reported in a row.
    """
    if not isinstance(model, nn.Module):
        hint = f"; make one: {model.__name__}()" if isinstance(model, type) else ""
        raise InputError(f"audit needs a network, a torch.nn.Module, got {model!r:.80}{hint}")
    if not isinstance(data, ImageData | None):
        raise InputError(f"audit needs data as load_cifar10() returns it, got {data!r:.80}")
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(f"input_shape must be channels, height, width, got {input_shape!r}")
    training = (augment_row(recipe, data), *result_rows(model, data, result, run))
    with random_states_kept(), uncompiled():
        try:
            network, anatomy, defect = run_copy(model, shape)
        except Exception as error:  # whatever a network may raise: it is reported, not passed on
            network, field, layers = model, Field(None, None, NOT_RUN), Layers()
            defect = f"float32 (1, {', '.join(map(str, shape))}): {fault(error)}"
            rows = rows_without_a_run(model)
        else:
            anatomy.leave_out(idle_convolutions(network, anatomy))
            field, layers = find_field(network, shape, anatomy), layer_table(anatomy)
            rows = [
                structure_row(anatomy),
                max_pooling_row(anatomy),
                bonus_row(anatomy),
                field_row(field, anatomy),
                depthwise_row(anatomy),
                dilated_row(anatomy),
                gap_row(anatomy),
                params_row(network, anatomy.recorder, lazy=has_lazy(model)),
            ]
    parameters = [p for p in network.parameters() if not nn.parameter.is_lazy(p)]
    return Report(
        model_name(model),
        (*([row("forward", defect, False)] if defect else []), *rows, *training),
        layers,
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        field.before,
        field.with_average,
        field.method,
    )


def run_copy(model: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Anatomy, str]:
    """A copy of the model that has run once, what it did, and what is wrong with its answers, if anything."""
    try:
        network = nn.Module.train(copied(model).cpu(), False)  # its own `train` may be another thing
    except Exception as error:  # whatever it holds: an open file, a lock, a generator
        raise RuntimeError(f"it cannot be copied, {fault(error)}") from error
    network, anatomy = first_that_runs(network, shape)
    broken = [name for name, tensor in network.named_parameters() if not tensor.isfinite().all()]
    buffers = network.named_buffers()  # a mask's may be minus infinity
    broken += [name for name, tensor in buffers if (tensor.isnan() | (tensor == float("inf"))).any()]
    if broken:
        return network, anatomy, f"NaN or infinite weights: {', '.join(broken[:3])}" + " ..." * (len(broken) > 3)
    answer = anatomy.recorder.answer
    parts = tree_leaves(vars(answer) if is_dataclass(answer) else answer)
    if not all(part.isfinite().all() for part in parts if isinstance(part, Tensor)):
        return network, anatomy, "NaN or infinite answers to an image of noise"
    if not anatomy.recorder.outputs:
        return network, anatomy, f"the answer is no tensor but {type(answer).__name__}"
    if not anatomy.live:
        return network, anatomy, "no operation on the image leads to the answer"
    return network, anatomy, ""


def first_that_runs(network: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Anatomy]:
    """The network in float32 on one image; if that fails in its own precision; if that fails on two images.

    Raises what the first of them raised if none runs.
    """
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    first: Exception | None = None
    for single, count in ((True, 1), (False, 1), (True, 2)):
        candidate, image = copied(network), images[:count]
        candidate = candidate.float() if single else candidate
        try:
            with torch.no_grad():
                if has_lazy(candidate):
                    candidate(image)  # its lazy layers take their sizes from the first image
                return candidate, Anatomy(record(candidate, image, keep_values=True))
        except Exception as error:  # whatever a network may raise
            first = first or error
    raise first


def fault(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def rows_without_a_run(model: nn.Module) -> list[Requirement]:
    """What can be said of a network that does not run."""
    ids = ("structure", "max_pooling", "bonus", "rf", "depthwise", "dilated", "gap")
    parameters = unjudged("params", NOT_RUN) if has_lazy(model) else params_row(model)
    return [*(unjudged(id, NOT_RUN) for id in ids), parameters]
