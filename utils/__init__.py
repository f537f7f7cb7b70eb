"""CIFAR-10 with fewer than 200,000 parameters: what the notebooks and the command line are made of."""

import os

# Else importing Albumentations asks the package index for its newest version: seconds of waiting without a network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from utils import plots
from utils.audit import Report, audit
from utils.data import ImageData, Split, load_cifar10
from utils.engine import fit
from utils.errors import InputError, TrainingError
from utils.evaluation import Evaluation, evaluate
from utils.models import MODELS, build_model
from utils.recipes import RECIPES, Recipe

__all__ = [
    "MODELS",
    "RECIPES",
    "Evaluation",
    "ImageData",
    "InputError",
    "Recipe",
    "Report",
    "Split",
    "TrainingError",
    "audit",
    "build_model",
    "evaluate",
    "fit",
    "load_cifar10",
    "plots",
]
