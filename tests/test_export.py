"""An ONNX file answers like the network it was made from, or is not written."""

import json
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from utils.errors import InputError, one_line
from utils.evaluation import normalize
from utils.export import TOLERANCE, check_answers, export_onnx
from utils.models import MODELS, build_model


@pytest.mark.parametrize("name", MODELS)
def test_every_network_is_exported_and_answers_alike(name, tiny, tmp_path):
    model = build_model(name, classes=3).train()
    path = tmp_path / "net.onnx"
    assert export_onnx(model, path, tiny.test) < TOLERANCE
    assert model.training

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pictures = normalize(tiny.test.images[:5], tiny.mean, tiny.std).contiguous()  # another N than the exporter saw
    with torch.no_grad():
        expected = model.eval()(pictures)
    answer = session.run(["logits"], {"images": pictures.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(answer), expected, rtol=0, atol=TOLERANCE)


def test_the_file_says_what_its_input_and_output_are(tiny, tmp_path, network):
    def facts() -> dict:
        return {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "net.onnx").metadata_props}

    export_onnx(network, tmp_path / "net.onnx", tiny.test)
    third = [0.33, 0.33, 0.33]
    assert facts() == {"classes": ["red", "green", "blue"], "mean": third, "std": third}
    export_onnx(network, tmp_path / "net.onnx", tiny.test, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("cat", "dog", "bird"))
    assert facts() == {"classes": ["cat", "dog", "bird"], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("answer", "tolerance"), [(lambda logits: logits + 0.01, TOLERANCE), (torch.neg, 1e9)], ids=["logits", "classes"]
)
def test_logits_or_classes_that_differ_are_each_enough(tiny, network, monkeypatch, answer, tolerance):
    def session(*_, **__):
        return SimpleNamespace(run=lambda names, images: [answer(network(torch.from_numpy(images["images"]))).numpy()])

    monkeypatch.setattr("utils.export.onnxruntime.InferenceSession", session)
    monkeypatch.setattr("utils.export.TOLERANCE", tolerance)
    with pytest.raises(InputError, match="ONNX Runtime answers otherwise"):
        check_answers(network.eval(), b"", tiny.test, tiny.mean, tiny.std)


def test_answers_that_differ_leave_no_file(tiny, tmp_path, network, monkeypatch):
    def spoil(graph, facts):
        weights = next(w for w in graph.graph.initializer if len(w.dims) == 4)
        values = onnx.numpy_helper.to_array(weights) * 1.5
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))

    monkeypatch.setattr("utils.export.onnx.helper.set_model_props", spoil)
    with pytest.raises(InputError, match="ONNX Runtime answers otherwise"):
        export_onnx(network, tmp_path / "net.onnx", tiny.test)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_in_one_line(tiny, tmp_path):
    class Undecided(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x.mean((2, 3))) if x.sum().item() > 0 else x.mean((2, 3))

    with pytest.raises(InputError, match=r"^Undecided cannot be exported to ONNX: Could not guard on .*$"):
        export_onnx(Undecided(), tmp_path / "net.onnx", tiny.test)


def test_a_terminal_s_colours_are_no_part_of_a_message():
    assert one_line(RuntimeError("\x1b[96mStep 1/3\x1b[0m failed\nNext steps:")) == "Step 1/3 failed"


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (nn.Linear(3, 4), r"Sequential answers with \(1, 4\); a file with 3 names of classes needs \(1, 3\)"),
        (nn.Linear(3, 3).half(), "its weights are float16, and images come as float32"),
    ],
)
def test_a_network_that_does_not_answer_with_a_logit_for_each_name_is_refused(tiny, tmp_path, network, last, says):
    with pytest.raises(InputError, match=says):
        export_onnx(network.append(last), tmp_path / "net.onnx", tiny.test)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_network_is_exported_as_what_it_compiles(tiny, tmp_path, network):
    assert export_onnx(torch.compile(network, backend="eager"), tmp_path / "net.onnx", tiny.test) < TOLERANCE


def test_a_place_that_cannot_be_written_is_refused(tiny, tmp_path, network):
    with pytest.raises(InputError, match="cannot be written"):
        export_onnx(network, tmp_path / "missing" / "net.onnx", tiny.test)
