"""The networks, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from utils.errors import InputError, check_seed, lookup
from utils.models.blocks import MOST
from utils.models.dilated_valid import DilatedValid
from utils.models.experiment2 import Experiment2
from utils.models.pretrained import read_weights, weights_for
from utils.models.residual import ResidualNet
from utils.models.s7 import s7, s7_dilated
from utils.models.s7_max import s7_max, s7_mirror
from utils.models.strided_separable import StridedSeparable
from utils.models.transition import Transition

MODELS: dict[str, Callable[..., nn.Module]] = {
    "s7": s7,
    "s7_dilated": s7_dilated,
    "s7_max": s7_max,
    "s7_mirror": s7_mirror,
    "dilated_valid": DilatedValid,  # the five systems, 000 to 004
    "strided_separable": StridedSeparable,
    "experiment2": Experiment2,
    "transition": Transition,
    "residual": ResidualNet,
}


def build_model(name: str, seed: int = 0, pretrained: bool | str = False, **arguments) -> nn.Module:
    """A network on the CPU, in training mode: float32 images (N, 3, 32, 32) to logits (N, classes).

    Args:
        name: a key of `MODELS`.
        seed: of the first weights; the same seed gives the same weights, and torch's random state stays as it was.
        pretrained: the name of a recipe: with the trained weights that ship with this repository; True: with the most
            accurate of them.
        arguments: of the network's constructor, such as `classes=10`.

    Raises:
        InputError: there is no such network, or it takes no such argument, or no weights of it ship; or `classes` is
            no number of logits.
    """
    check_seed(seed)
    network = lookup(MODELS, name, "model")
    signature = inspect.signature(network)
    for argument in arguments:
        if argument not in signature.parameters:
            allowed = ", ".join(signature.parameters)
            raise InputError(f"model {name!r} takes no argument {argument!r}; it takes: {allowed}")
    arguments = {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}
    bound = signature.bind(**arguments)
    bound.apply_defaults()  # classes=10 said or not is the same network
    classes = bound.arguments.get("classes", 1)  # a network of the user's own need not have the argument
    if type(classes) is not int or not 1 <= classes <= MOST:
        raise InputError(f"classes={classes!r} cannot be used; it is the number of logits, 1 to {MOST:,}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move the GPU's as well
        model = network(**arguments)
    model.built_as = (name, bound.arguments)  # a checkpoint keeps it, to build the same network again
    if pretrained:
        shipped_name = weights_for(name, pretrained)
        weights, run = read_weights(shipped_name)
        if run["model_arguments"] != bound.arguments:
            raise InputError(
                f"the weights {shipped_name} are of a network with {run['model_arguments']}, not {bound.arguments}"
            )
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"the weights {shipped_name} do not fit {name!r} any more: it was changed") from error
        model.pretrained = shipped_name  # `fit` keeps it: such a run does not start from nothing
    return model


def default_arguments(name: str) -> dict:
    """What the network of that name is built with if nothing is said; nothing of one that is not in `MODELS`."""
    parameters = inspect.signature(MODELS[name]).parameters.values() if name in MODELS else ()
    return {parameter.name: parameter.default for parameter in parameters}


def model_name(model: nn.Module) -> str:
    """The name `build_model` knows it by, else its class's."""
    return getattr(model, "built_as", (type(model).__name__, {}))[0]


def model_arguments(model: nn.Module) -> dict:
    return getattr(model, "built_as", (type(model).__name__, {}))[1]


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
