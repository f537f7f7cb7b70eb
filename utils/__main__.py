"""The command line: `python -m utils COMMAND`. What the commands do is in utils/commands.py."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from utils import commands
from utils.errors import InputError, TrainingError

# What several commands say of an argument.
CONSTRUCTOR = """arguments of the network's constructor, such as '{"width": 0.5}'"""
DATA = "auto, digits, or a path (default: auto)"
MODEL = "see `python -m utils models`"


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
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141
    except (InputError, TrainingError, OSError) as error:  # OSError: of a path that no system takes, say
        print(f"python -m utils: {printable(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2


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
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, text: str, example: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  python -m utils {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        return command

    add_training(add)
    add_uses(add)
    add_looks(add)
    add("models", commands.models_command, "List the networks.", "models")
    add("recipes", commands.recipes_command, "List the recipes with every hyper-parameter.", "recipes")
    return top


def add_training(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that train: once, or with many seeds."""
    train = add(
        "train", commands.train_command, "Train a network and test it.", "train --model s7 --recipe fast --out runs/s7"
    )
    again = add(
        "repeat",
        commands.repeat_command,
        "Train with many seeds, and say how far that can be trusted; goes on where it was stopped.",
        "repeat --seeds 20 --recipe fast",
    )
    for command in (train, again):
        command.add_argument("--model", default="s7", help=f"{MODEL} (default: s7)")
        command.add_argument("--recipe", default="fast", help="see `python -m utils recipes` (default: fast)")
        command.add_argument("--data", default="auto", help=DATA)
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


def add_uses(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that do something with trained weights."""
    test = add("evaluate", commands.evaluate_command, "Test a trained network.", "evaluate runs/s7/best.pt")
    show = add(
        "predict", commands.predict_command, "Say what is in pictures.", "predict s7-fast cat.jpg --figure out.png"
    )
    leave = add(
        "export",
        commands.export_command,
        "Write a trained network as an ONNX file, once ONNX Runtime gives the same answers.",
        "export runs/s7/last.pt --out s7.onnx",
    )
    for command in (test, show, leave):
        command.add_argument(
            "checkpoint", help="last.pt or best.pt of a run, or the name of weights that ship, such as s7-fast"
        )
    test.add_argument("--data", default="auto", help=DATA)
    test.add_argument(
        "--mirrored", action="store_true", help="besides, with test-time augmentation: the mean over the mirror image"
    )
    show.add_argument("pictures", nargs="+", metavar="picture", help="any picture file; its middle square is used")
    show.add_argument("--figure", metavar="FILE", help="draw pictures and answers into this file")
    leave.add_argument("--out", metavar="FILE", help="(default: the checkpoint's name, ending in .onnx)")
    leave.add_argument("--data", default="auto", help=f"to compare on: {DATA}")


def add_looks(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look at a network, trained or not."""
    judge = add(
        "audit",
        commands.audit_command,
        "Say which of the assignment's requirements a network meets; exit 1 if one is not met.",
        """audit path/to/file.py:Net --args '{"width": 32}' --json""",
    )
    judge.add_argument("--recipe", help="to judge the augmentation of (default: the network's own, or fast)")
    judge.add_argument("--shape", type=shape, default=(3, 32, 32), help="of an image (default: 3x32x32)")
    judge.add_argument("--json", action="store_true", help="print the report as JSON")
    summarize = add("summary", commands.summary_command, "Print torchsummary's table of a network.", "summary s7")
    picture = add(
        "draw",
        commands.draw_command,
        "Draw a network as SVG; needs Graphviz's program dot.",
        "draw s7 --out images/s7.svg",
    )
    for command in (judge, summarize, picture):
        command.add_argument(
            "network", help="a name (see `python -m utils models`), a checkpoint, or FILE.py:CLASS (it is run)"
        )
        command.add_argument("--args", default="{}", metavar="JSON", help=CONSTRUCTOR)
    picture.add_argument("--out", metavar="FILE", help="ends in .svg; folders are made as needed (default: NAME.svg)")


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
    for stream in (sys.stdout, sys.stderr):  # of names that a terminal cannot show, it shows the code points
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
