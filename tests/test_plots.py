"""Every figure shows what it should, and says of which data."""

import io
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from utils import plots
from utils.errors import InputError
from utils.evaluation import Evaluation, evaluate
from utils.transforms import BatchPolicy, assignment_policy


@pytest.fixture
def result(network, tiny) -> Evaluation:
    return evaluate(network, tiny.test, "fp32")


def texts(figure: Figure) -> str:
    """All titles, labels and annotations of a figure."""
    return "\n".join(t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def shown(axis) -> torch.Tensor:
    return torch.as_tensor(axis.images[0].get_array())


def test_samples_show_a_row_of_every_class(tiny):
    figure = plots.samples(tiny.train, per_class=4)
    assert len(figure.axes) == 3 * 4
    assert all(name in texts(figure) for name in (*tiny.classes, "tiny colours"))
    greens = tiny.train.images[tiny.train.labels == 1]
    assert torch.equal(shown(figure.axes[4 + 2]), greens[2].permute(1, 2, 0))
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["red", "green", "blue"]


def test_augmented_shows_the_original_first(tiny):
    policy = BatchPolicy(assignment_policy(tiny.mean, tiny.std, coarse_dropout=1))
    figure = plots.augmented(tiny.train, policy, images=2, draws=3)
    assert torch.equal(shown(figure.axes[0]), tiny.train.images[0].permute(1, 2, 0))
    holes = (shown(figure.axes[1]) == round(0.33 * 255)).all(-1).sum()
    assert holes >= 16 * 16


def test_augmented_shows_as_many_images_as_there_are(tiny):
    few = replace(tiny.train, images=tiny.train.images[:2], labels=tiny.train.labels[:2])
    policy = BatchPolicy(assignment_policy(tiny.mean, tiny.std))
    assert len(plots.augmented(few, policy, draws=3).axes) == 2 * 4


@pytest.mark.parametrize("number", [0, -1])
def test_a_figure_without_images_is_refused(tiny, number):
    with pytest.raises(InputError, match=f"a figure of 3 x {number} images would show nothing"):
        plots.samples(tiny.train, number)


def test_curves_draw_the_history():
    history = [
        {
            "epoch": e,
            "learning_rate": 0.1 / e,
            "train_loss": 2 / e,
            "train_accuracy": 10.0 * e,
            "test_loss": 3 / e,
            "test_accuracy": 11.0 * e,
            "seconds": 1.0 * e,
        }
        for e in (1, 2, 3)
    ]
    figure = plots.curves(history, "S7Net", "tiny colours: made by the tests")
    loss, accuracy, rate = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1, 2 / 3], [3, 1.5, 1]]
    assert [line.get_ydata().tolist() for line in accuracy.lines[:2]] == [[10, 20, 30], [11, 22, 33]]
    assert rate.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert "last epoch 33.00 %" in texts(figure)
    assert "tiny colours: made by the tests" in texts(figure)
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "test"]
    validated = plots.curves(history, "S7Net", "tiny colours", tested="validation")
    assert [text.get_text() for text in validated.axes[1].get_legend().get_texts()] == ["train", "validation"]


def test_claimed_and_measured_draws_every_line_in_its_network_s_panel():
    panels = {"004 residual": {"claimed": [50.0, 60.0], "fast, seed 0": [70.0], "fast, seed 1": [71.0]}, "s7": {}}
    figure = plots.claimed_and_measured(panels, 85, "tiny colours")
    first, second, *left_over = figure.axes
    assert first.axison and second.axison and not any(axis.axison for axis in left_over)
    assert [line.get_ydata().tolist() for line in first.lines[:3]] == [[50, 60], [70], [71]]
    assert [line.get_linestyle() for line in first.lines][:3] == ["--", "-", "-"]
    assert first.lines[1].get_color() == first.lines[2].get_color() != first.lines[0].get_color()
    assert (first.get_title(), second.get_title()) == ("004 residual", "s7")
    assert {line.get_ydata()[0] for line in (first.lines[3], second.lines[0])} == {85}
    assert "tiny colours" in texts(figure)


def test_accuracy_is_drawn_against_seconds_a_colour_a_run():
    def history(*pairs):
        return [{"seconds": s, "test_accuracy": a} for s, a in pairs]

    runs = {"s7:fast": [history((10, 60), (20, 85)), history((11, 86))], "old:own": [history((99, 70))]}
    figure = plots.accuracy_by_seconds(runs, 85, "tiny colours")
    curves, dots = figure.axes[0].lines[:6:2], figure.axes[0].lines[1:6:2]  # a dot after each
    assert [list(line.get_xdata()) for line in curves] == [[10, 20], [11], [99]]
    assert [list(line.get_ydata()) for line in curves] == [[60, 85], [86], [70]]
    assert [dot.get_xydata().tolist() for dot in dots] == [[[20, 85]], [[11, 86]], [[99, 70]]]
    assert curves[0].get_color() == curves[1].get_color() != curves[2].get_color()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["s7:fast", "old:own"]
    assert "tiny colours" in texts(figure)


def test_a_stacked_bar_has_its_parts_end_to_end():
    figure = plots.stacked_bar({"forward": 30.0, "backward": 90.0}, "A step", "us an image", "tiny colours")
    assert [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches] == [(0, 30), (30, 90)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["forward 30.0 (25 %)", "backward 90.0 (75 %)"]
    assert "tiny colours" in texts(figure)


def test_the_confusion_matrix_shows_every_count(result):
    figure = plots.confusion(result)
    cells = {text.get_position()[::-1]: int(text.get_text()) for text in figure.axes[0].texts}  # (y, x): row, column
    assert [[cells[row, column] for column in range(3)] for row in range(3)] == result.confusion.tolist()
    assert shown(figure.axes[0]).sum(1).tolist() == pytest.approx([1, 1, 1])  # shares of the images of a class
    assert f"{result.accuracy:.2f} % right of 37 test images" in texts(figure)
    axis = figure.axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("answer", "truth")
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["red", "green", "blue"]


def test_mistakes_name_answer_and_truth(result):
    figure = plots.mistakes(result, 5)
    first = result.mistakes(1).item()
    assert torch.equal(shown(figure.axes[0]), result.split.images[first].permute(1, 2, 0))
    answer, truth = result.predictions[first], result.labels[first]
    names, percent = result.split.classes, 100 * result.probabilities[first]
    assert figure.axes[0].get_title() == (
        f"{names[answer]} {percent[answer]:.0f} %\nis {names[truth]} ({percent[truth]:.0f} %)"
    )


def test_no_mistakes_are_no_error(tiny):
    certain = torch.nn.functional.one_hot(tiny.test.labels, 3).float()
    figure = plots.mistakes(Evaluation(tiny.test, certain, 0.0))
    assert "The 0 most confident mistakes" in texts(figure)


def test_a_picture_s_name_is_no_formula():
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    figure = plots.predictions([picture], ["a$_$b.png"], torch.tensor([[0.1, 0.9]]), ("x", "y"))
    figure.savefig(io.BytesIO())  # which is when matplotlib reads it
    assert figure.axes[0].get_title() == r"a\$_\$b.png"


def test_predictions_show_the_most_probable_first():
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    figure = plots.predictions([picture], ["a.png"], torch.tensor([[0.1, 0.7, 0.2]]), ("x", "y", "z"), top=2)
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([70, 20])
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["y", "z"]


def test_normalising_can_be_taken_back(tiny):
    from utils.evaluation import normalize

    images = tiny.test.images[:4]
    assert torch.equal(plots.denormalize(normalize(images, tiny.mean, tiny.std), tiny.test), images)


def test_repeats_are_counted_by_tenths_of_a_point_beside_mean_and_bar():
    from test_repeat import runs

    axis = plots.repeats(runs(85.64, 85.67, 85.93, 84.99)).axes[0]
    assert sum(patch.get_height() for patch in axis.patches) == 4
    assert max(patch.get_height() for patch in axis.patches) == 2
    assert [line.get_xdata()[0] for line in axis.lines] == [pytest.approx(85.5575), 85.0]
    assert [text.get_text() for text in axis.get_legend().texts] == ["mean 85.56 %", "bar 85.00 %: 3 of 4 reach it"]


def test_a_history_without_an_epoch_is_refused():
    with pytest.raises(InputError, match="no epoch is complete yet"):
        plots.curves([], "S7Net", "tiny colours")


def test_of_a_long_name_the_end_is_shown():
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    figure = plots.predictions([picture], [f"{'long' * 20}.png"], torch.tensor([[0.1, 0.9]]), ("x", "y"))
    title = figure.axes[0].get_title()
    assert title.startswith("...") and title.endswith("long.png") and len(title) == 28
