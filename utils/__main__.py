"""The command line: `python -m utils COMMAND`, over the same functions as the notebook."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torchsummary import summary as print_summary

from utils import plots
from utils.audit import audit
from utils.auditing.given import constructor_arguments, given_network, named_network
from utils.checkpoint import load_model
from utils.data import ImageData, load_cifar10
from utils.drawing import save as save_drawing
from utils.engine import fit
from utils.errors import InputError, TrainingError, lookup
from utils.evaluation import evaluate
from utils.export import export_onnx
from utils.files import runs_folder
from utils.models import MODELS, build_model
from utils.predict import load_picture, predict
from utils.recipes import RECIPES
from utils.repeat import repeat
from utils.tables import as_table

CONSTRUCTOR = """arguments of the network's constructor, such as '{"width": 0.5}'"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 on success, 1 when what it checks fails, 2 on bad input, 130 on Ctrl-C, 141 when whoever reads its output (as
        in `| head`) has gone.
    """
    parsed = parser().parse_args(arguments)
    try:
        status = parsed.command(parsed)
        sys.stdout.flush()  # here, where it can be caught, and not when Python ends
        return status
    except (InputError, TrainingError) as error:
        print(f"python -m utils: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141


def train_command(arguments: argparse.Namespace) -> int:
    recipe = lookup(RECIPES, arguments.recipe, "recipe")
    keywords = network_arguments(arguments)  # before the data: a wrong name should not cost a download
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    data = load_data(arguments)
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


def load_data(arguments: argparse.Namespace) -> ImageData:
    """What `--data` names; with `--validation`, its training images alone."""
    data = load_cifar10(arguments.data)
    return data.hold_out(arguments.validation) if arguments.validation else data


def repeat_command(arguments: argparse.Namespace) -> int:
    recipe = lookup(RECIPES, arguments.recipe, "recipe")
    keywords = network_arguments(arguments)
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    out = Path(arguments.out or runs_folder() / f"{run_name(arguments, keywords)}-repeat")
    runs = repeat(arguments.model, load_data(arguments), recipe, arguments.seeds, out, arguments.device, **keywords)
    plots.repeats(runs).savefig(out / "repeat.png")
    print(f"{runs}\nsee {out}")
    return 0 if runs.reached == arguments.seeds else 1


def evaluate_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    data = load_cifar10(arguments.data)
    trained_on = checkpoint["data"]["name"]
    if trained_on != data.name:
        print(f"WARNING: trained on {trained_on}, tested on {data.name}", file=sys.stderr)
    result = evaluate(model, data.test)
    print(result)
    print(result.report)
    return 0


def predict_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    pictures = torch.stack([load_picture(path) for path in arguments.pictures])
    probabilities = predict(model, pictures, checkpoint["mean"], checkpoint["std"])
    classes = checkpoint["classes"]
    print(f"Trained on {checkpoint['data']['name']}")
    for path, row in zip(arguments.pictures, probabilities, strict=True):
        best = row.topk(min(3, len(classes)))
        answers = (
            f"{classes[k]} {100 * p:.1f} %" for p, k in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        print(f"{path}: {', '.join(answers)}")
    if arguments.figure:
        figure = plots.predictions(pictures, arguments.pictures, probabilities, classes)
        try:
            figure.savefig(arguments.figure)
        except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib cannot write
            raise InputError(f"{arguments.figure}: the figure cannot be written ({error})") from error
    return 0


def export_command(arguments: argparse.Namespace) -> int:
    model, checkpoint = load_model(arguments.checkpoint)
    data = load_cifar10(arguments.data)
    out = arguments.out or Path(arguments.checkpoint).with_suffix(".onnx")
    difference = export_onnx(model, out, data.test, checkpoint["mean"], checkpoint["std"])
    print(
        f"{out} was written: on {len(data.test):,} test images ({data.name}) ONNX Runtime gives the same answers, and "
        f"logits that differ by at most {difference:.1e}"
    )
    return 0


def audit_command(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr):  # what the user's own file prints is no part of the report
        given = given_network(arguments.network, arguments.args, arguments.recipe)
        report = audit(given.model, given.recipe, run=given.run, input_shape=arguments.shape)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else f"{report}\n\n{report.layers}")
    return 0 if report.passed else 1


def summary_command(arguments: argparse.Namespace) -> int:
    print_summary(build_model(arguments.model), (3, 32, 32), device="cpu")
    return 0


def draw_command(arguments: argparse.Namespace) -> int:
    out = arguments.out or f"{arguments.model}.svg"
    save_drawing(build_model(arguments.model), out)
    print(f"{out} was written")
    return 0


def models_command(arguments: argparse.Namespace) -> int:
    rows = [("model", "parameters", "what it is")]
    for name, network in MODELS.items():
        parameters = sum(p.numel() for p in build_model(name).parameters())
        rows.append((name, parameters, network.__doc__.splitlines()[0]))
    print(as_table(rows))
    return 0


def recipes_command(arguments: argparse.Namespace) -> int:
    columns = [field.name for field in fields(next(iter(RECIPES.values())))]
    print(as_table([("", *RECIPES)] + [(c, *(str(asdict(r)[c]) for r in RECIPES.values())) for c in columns[1:]]))
    return 0


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey instead of show written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class OneLineParser(argparse.ArgumentParser):
    """argparse, with bad usage said in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def parser() -> OneLineParser:
    """All commands and their options; each `--help` ends with an example."""
    top = OneLineParser(prog="python -m utils", description="CIFAR-10 with fewer than 200,000 parameters.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  python -m utils {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        return command

    train = add("train", train_command, "Train a network and test it.", "train --model s7 --recipe fast --out runs/s7")
    again = add(
        "repeat",
        repeat_command,
        "Train with many seeds, and say how far that can be trusted; goes on where it was stopped.",
        "repeat --seeds 20 --recipe fast",
    )
    for command in (train, again):
        command.add_argument("--model", default="s7", help="see `python -m utils models` (default: s7)")
        command.add_argument("--recipe", default="fast", help="see `python -m utils recipes` (default: fast)")
        command.add_argument("--data", default="auto", help="auto, digits, or a path (default: auto)")
        command.add_argument("--args", default="{}", metavar="JSON", help=CONSTRUCTOR)
        command.add_argument(
            "--validation",
            type=natural,
            metavar="N",
            help="hold out N training images, and test on those: to make choices without the test images",
        )
        command.add_argument("--epochs", type=natural, help="another number than the recipe's")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    again.add_argument("--seeds", type=positive, default=20, help="how many, from 0 on (default: 20)")
    again.add_argument("--out", help="the runs' folder (default: $S7_RUNS or runs, and MODEL-RECIPE-repeat)")
    train.add_argument("--seed", type=natural, default=0, help="of weights, order and augmentation (default: 0)")
    train.add_argument("--out", help="the run's folder (default: $S7_RUNS or runs, and MODEL-RECIPE-seedSEED)")
    train.add_argument(
        "--until", type=float, metavar="PERCENT", help="stop at this test accuracy; exit 1 if not reached"
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--report-every", type=natural, default=0, metavar="N", help="a line of the log every N batches")
    train.add_argument("--class-report", action="store_true", help="precision and recall by class after each epoch")

    test = add("evaluate", evaluate_command, "Test a trained network.", "evaluate runs/s7/best.pt")
    test.add_argument(
        "checkpoint", help="last.pt or best.pt of a run, or the name of weights that ship, such as s7-fast"
    )
    test.add_argument("--data", default="auto", help="auto, digits, or a path (default: auto)")

    show = add(
        "predict",
        predict_command,
        "Say what is in pictures.",
        "predict s7-fast cat.jpg --figure out.png",
    )
    show.add_argument(
        "checkpoint", help="last.pt or best.pt of a run, or the name of weights that ship, such as s7-fast"
    )
    show.add_argument("pictures", nargs="+", metavar="picture", help="any picture file; its middle square is used")
    show.add_argument("--figure", metavar="FILE", help="draw pictures and answers into this file")

    leave = add(
        "export",
        export_command,
        "Write a trained network as an ONNX file, once ONNX Runtime gives the same answers.",
        "export runs/s7/last.pt --out s7.onnx",
    )
    leave.add_argument(
        "checkpoint", help="last.pt or best.pt of a run, or the name of weights that ship, such as s7-fast"
    )
    leave.add_argument("--out", metavar="FILE", help="(default: the checkpoint's name, ending in .onnx)")
    leave.add_argument("--data", default="auto", help="to compare on: auto, digits, or a path (default: auto)")

    judge = add(
        "audit",
        audit_command,
        "Say which of the assignment's requirements a network meets; exit 1 if one is not met.",
        """audit path/to/file.py:Net --args '{"width": 32}' --json""",
    )
    judge.add_argument(
        "network", help="a name (see `python -m utils models`), a checkpoint, or FILE.py:CLASS (it is run)"
    )
    judge.add_argument("--args", default="{}", metavar="JSON", help=CONSTRUCTOR)
    judge.add_argument("--recipe", help="to judge the augmentation of (default: the network's own, or fast)")
    judge.add_argument("--shape", type=shape, default=(3, 32, 32), help="of an image (default: 3x32x32)")
    judge.add_argument("--json", action="store_true", help="print the report as JSON")

    summarize = add("summary", summary_command, "Print torchsummary's table of a network.", "summary s7")
    summarize.add_argument("model", help="see `python -m utils models`")
    picture = add(
        "draw", draw_command, "Draw a network as SVG; needs Graphviz's program dot.", "draw s7 --out images/s7.svg"
    )
    picture.add_argument("model", help="see `python -m utils models`")
    picture.add_argument("--out", metavar="FILE", help="ends in .svg; folders are made as needed (default: MODEL.svg)")
    add("models", models_command, "List the networks.", "models")
    add("recipes", recipes_command, "List the recipes with every hyper-parameter.", "recipes")
    return top


def natural(text: str) -> int:
    """A whole number from 0 on; argparse turns the ValueError into its one-line message."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def shape(text: str) -> tuple[int, int, int]:
    """Channels, height and width, as in 3x32x32."""
    channels, height, width = (natural(part) for part in text.split("x"))
    return channels, height, width


if __name__ == "__main__":
    sys.exit(main())
