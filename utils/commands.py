"""What each command of the command line does: thin, over the same functions as the notebook.

Each takes the parsed arguments and returns the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import torch
from torchsummary import summary as print_summary

from utils import plots
from utils.audit import audit
from utils.checkpoint import load_model
from utils.data import ImageData, load_cifar10
from utils.drawing import save as save_drawing
from utils.engine import fit
from utils.errors import InputError, lookup, one_line
from utils.evaluation import evaluate
from utils.export import export_onnx
from utils.folders import runs_folder
from utils.given import Given, constructor_arguments, given_network, named_network
from utils.models import MODELS, parameter_count
from utils.predict import load_picture, predict
from utils.recipes import RECIPES, Recipe
from utils.repeat import repeat
from utils.tables import as_table


def train_command(arguments: argparse.Namespace) -> int:
    recipe = asked_recipe(arguments)
    keywords = network_arguments(arguments)  # before the data: a wrong name should not cost a download
    data = training_data(arguments)
    model = named_network(arguments.model, {"seed": arguments.seed, "classes": len(data.classes)} | keywords)
    out = arguments.out or runs_folder() / f"{run_name(arguments, keywords)}-seed{arguments.seed}"
    history = fit(
        model,
        data,
        recipe,
        seed=arguments.seed,
        out=out,
        resume=arguments.resume,
        until=arguments.until,
        device=arguments.device,
        report_every=arguments.report_every,
        class_report=arguments.class_report,
    )
    last = history[-1]
    print(
        f"{last['test_accuracy']:.2f} % of {len(data.test):,} {data.test.name} images after epoch {last['epoch']}, "
        f"{last['seconds']:.0f} s; {data.name}; see {out}"
    )
    return 1 if arguments.until is not None and last["test_accuracy"] < arguments.until else 0


def asked_recipe(arguments: argparse.Namespace) -> Recipe:
    """What `--recipe` names, with as many epochs as `--epochs` says."""
    recipe = lookup(RECIPES, arguments.recipe, "recipe")
    return recipe if arguments.epochs is None else replace(recipe, epochs=arguments.epochs)


def network_arguments(arguments: argparse.Namespace) -> dict:
    """What `--args` gives to the network's constructor; the network can be made with it.

    Raises:
        InputError: it cannot, or `--args` names what follows from data and options.
    """
    keywords = constructor_arguments(arguments.args)
    if taken := {"classes", "seed", "pretrained"} & set(keywords):
        raise InputError(f"--args: {', '.join(sorted(taken))} cannot be given there: data and --seed decide it")
    named_network(arguments.model, keywords)
    return keywords


def run_name(arguments: argparse.Namespace, keywords: dict) -> str:
    """Of the folder of a run that is given none: what was asked for, but for the seed."""
    changed = "".join(f"-{key}{value}" for key, value in keywords.items())
    return f"{arguments.model}{changed}-{arguments.recipe}"


def training_data(arguments: argparse.Namespace) -> ImageData:
    """What `--data` names; with `--validation`, its training images alone."""
    data = load_cifar10(arguments.data)
    return data if arguments.validation is None else data.hold_out(arguments.validation)


def repeat_command(arguments: argparse.Namespace) -> int:
    recipe = asked_recipe(arguments)
    keywords = network_arguments(arguments)
    out = Path(arguments.out or runs_folder() / f"{run_name(arguments, keywords)}-repeat")
    runs = repeat(arguments.model, training_data(arguments), recipe, arguments.seeds, out, arguments.device, **keywords)
    plots.repeats(runs).savefig(out / "repeat.png")
    print(f"{runs}\nsee {out}")
    return 0 if runs.reached == arguments.seeds else 1


def trial_data(arguments: argparse.Namespace, checkpoint: dict) -> ImageData:
    """The data that a trained network is tried on; a warning if it is not what it has learned."""
    data = load_cifar10(arguments.data)
    trained_on = checkpoint["data"]["name"]
    if trained_on != data.name:
        print(f"WARNING: trained on {trained_on}, tested on {data.name}", file=sys.stderr)
    elif (learned := tuple(checkpoint["classes"])) != data.classes:
        print(
            f"WARNING: it answers with {', '.join(learned)}; the data's classes are {', '.join(data.classes)}: they "
            "are compared by their places",
            file=sys.stderr,
        )
    return data


def evaluate_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    data = trial_data(arguments, checkpoint)
    test = replace(data.test, mean=tuple(checkpoint["mean"]), std=tuple(checkpoint["std"]))  # as it has learned
    result = evaluate(model, test)
    print(result)
    if arguments.mirrored:
        print(evaluate(model, test, mirrored=True))
    print(result.report)
    return 0


def predict_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    pictures = torch.stack([load_picture(path) for path in arguments.pictures])
    probabilities = predict(model, pictures, checkpoint["mean"], checkpoint["std"])
    classes = checkpoint["classes"]
    names = [os.fsencode(path).decode(errors="replace") for path in arguments.pictures]  # some are no Unicode
    print(f"Trained on {checkpoint['data']['name']}")
    for name, row in zip(names, probabilities, strict=True):
        best = row.topk(min(3, len(classes)))
        answers = (
            f"{classes[k]} {100 * p:.1f} %" for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        print(f"{name}: {', '.join(answers)}")
    if arguments.figure:
        figure = plots.predictions(pictures, names, probabilities, classes)
        try:
            figure.savefig(arguments.figure)
        except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib cannot write
            raise InputError(f"{arguments.figure}: the figure cannot be written ({error})") from error
    return 0


def export_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    data = trial_data(arguments, checkpoint)
    out = arguments.out or Path(arguments.checkpoint).with_suffix(".onnx")
    learned = {fact: checkpoint[fact] for fact in ("mean", "std", "classes")}
    difference = export_onnx(model, out, data.test, **learned)
    print(
        f"{out} was written: on {len(data.test):,} test images ({data.name}) ONNX Runtime gives the same answers, and "
        f"logits that differ by at most {difference:.1e}"
    )
    return 0


def audit_command(arguments: argparse.Namespace) -> int:
    given = quietly_given(arguments, arguments.recipe)
    with contextlib.redirect_stdout(sys.stderr):  # what the network itself prints is no part of the report
        report = audit(given.model, given.recipe, run=given.run, input_shape=arguments.shape)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else f"{report}\n\n{report.layers}")
    return 0 if report.passed else 1


def quietly_given(arguments: argparse.Namespace, recipe: str | None = None) -> Given:
    """The network that a command is given; what the user's own file prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        return given_network(arguments.network, arguments.args, recipe)


def summary_command(arguments: argparse.Namespace) -> int:
    model, table = quietly_given(arguments).model, io.StringIO()
    try:
        with contextlib.redirect_stdout(table):
            print_summary(model, (3, 32, 32), device="cpu")
    except Exception as error:  # whatever its forward raises, or torchsummary does
        raise InputError(f"torchsummary cannot show {arguments.network}: {one_line(error)}") from error
    print(table.getvalue(), end="")
    return 0


def draw_command(arguments: argparse.Namespace) -> int:
    out = arguments.out or f"{Path(arguments.network.rpartition(':')[2]).stem}.svg"
    save_drawing(quietly_given(arguments).model, out)
    print(f"{out} was written")
    return 0


def models_command(arguments: argparse.Namespace) -> int:
    rows = [("model", "parameters", "what it is")]
    for name, network in MODELS.items():
        parameters = parameter_count(named_network(name, {}))
        rows.append((name, parameters, network.__doc__.splitlines()[0]))
    print(as_table(rows))
    return 0


def recipes_command(arguments: argparse.Namespace) -> int:
    rows = [("", *RECIPES)]
    for field in fields(Recipe)[1:]:  # the first is the name
        rows.append((field.name, *(str(getattr(recipe, field.name)) for recipe in RECIPES.values())))
    print(as_table(rows))
    return 0
