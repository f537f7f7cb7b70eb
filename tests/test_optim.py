import torch
from torch import Tensor, nn

from utils.models import build_model
from utils.optim import Muon, build_optimizers
from utils.optim import orthogonalize as orthogonalize_all
from utils.recipes import Recipe


def kernel(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(seed)))


def orthogonalize(matrix: Tensor) -> Tensor:
    return orthogonalize_all([matrix])[0]


def test_orthogonalising_evens_out_the_singular_values():
    for shape in ((16, 40), (40, 16), (16, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_orthogonalising_is_five_of_the_published_iterations():
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    x = matrix / matrix.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(orthogonalize(matrix), x, rtol=1e-3, atol=1e-4)


def test_orthogonalising_keeps_the_directions():
    u, s, vh = torch.linalg.svd(torch.randn(16, 40, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    ours = orthogonalize(u @ s.diag() @ vh)
    cosine = (ours * (u @ vh)).sum() / (ours.norm() * (u @ vh).norm())
    assert cosine > 0.95


def test_orthogonalising_does_not_mind_the_scale():
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    ours = orthogonalize(matrix)
    assert (orthogonalize(1024 * matrix) - ours).norm() < 0.05 * ours.norm()
    assert orthogonalize(torch.zeros(4, 4)).abs().max() == 0


def test_matrices_are_orthogonalised_together_as_each_would_be_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 40), (8, 30), (40, 16), (16, 16), (16, 25), (8, 8))
    matrices = [10 ** (2 - i) * torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)]
    for together, matrix in zip(orthogonalize_all(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonalize(matrix), rtol=1e-3, atol=1e-4)
    assert orthogonalize_all([]) == []


def test_weight_decay_is_apart_from_the_gradient():
    weight = kernel()
    before, weight.grad = weight.detach().clone(), torch.zeros_like(weight)
    Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.allclose(weight, 0.95 * before)


def test_the_momentum_of_a_channel_that_stopped_answering_ends_at_zero():
    """Its gradient is zero. On the way to zero there are denormal numbers, for which some CPUs are very slow."""
    weight = kernel()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0)
    weight.grad = kernel(seed=1).detach()
    optimizer.step()
    weight.grad = weight.grad.clone()
    weight.grad[2] = 0
    smallest = 1.0
    for _ in range(400):  # 0.9 ** 400 is 5e-19
        optimizer.step()
        momentum = optimizer.state[weight]["momentum"]
        smallest = min(smallest, momentum[momentum != 0].abs().min().item())
    assert torch.equal(momentum[2], torch.zeros_like(momentum[2]))
    assert smallest**2 > torch.finfo(torch.float32).tiny  # nor are products of what was left of it denormal


def test_a_kernel_taller_than_wide_takes_a_longer_step():
    tall = nn.Parameter(torch.zeros(36, 4, 1, 1))
    tall.grad = torch.randn(36, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    Muon([tall], lr=0.1, momentum=0, weight_decay=0).step()
    assert 0.5 * 0.3 < torch.linalg.svdvals(tall.detach().flatten(1)).mean() < 1.3 * 0.3  # 0.1 * sqrt(36 / 4)


def test_every_parameter_has_one_optimizer_and_depthwise_kernels_are_not_muons():
    model = build_model("s7")
    sgd, muon = build_optimizers(model, Recipe("example", epochs=1, optimizer="muon"))
    by_sgd, by_muon = ([p for group in o.param_groups for p in group["params"]] for o in (sgd, muon))
    assert len(by_sgd) + len(by_muon) == len(list(model.parameters()))
    assert {id(p) for p in by_sgd + by_muon} == {id(p) for p in model.parameters()}
    assert all(p.ndim == 4 and p.size(1) > 1 for p in by_muon)
    assert any(p.ndim == 4 for p in by_sgd)  # the depthwise ones


def test_without_muon_sgd_has_them_all():
    model = build_model("s7")
    (sgd,) = build_optimizers(model, Recipe("example", epochs=1, momentum=0))
    assert len(sgd.param_groups[0]["params"]) == len(list(model.parameters()))
    assert not sgd.defaults["nesterov"]  # there is no momentum to look ahead along


def test_the_second_step_looks_ahead_along_the_momentum_as_nesterov_does():
    first, second = (kernel(seed).detach() for seed in (1, 2))
    weight = kernel()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0)
    for gradient in (first, second):
        before, weight.grad = weight.detach().clone(), gradient
        optimizer.step()
    momentum = 0.9 * 0.1 * first + 0.1 * second
    torch.testing.assert_close(optimizer.state[weight]["momentum"], momentum)
    expected = -0.1 * orthogonalize((0.1 * second + 0.9 * momentum).flatten(1)).view_as(weight)
    torch.testing.assert_close(weight.detach() - before, expected, rtol=1e-3, atol=1e-4)


def test_each_optimizer_has_the_recipe_s_own_numbers():
    recipe = Recipe(
        "example",
        epochs=1,
        optimizer="muon",
        learning_rate=0.3,
        muon_learning_rate=0.02,
        momentum=0.7,
        weight_decay=0.001,
        muon_weight_decay=0.2,
    )
    sgd, muon = build_optimizers(build_model("s7"), recipe)
    assert muon.defaults == {"lr": 0.02, "momentum": 0.7, "weight_decay": 0.2, "mirrored": False}
    assert {key: sgd.defaults[key] for key in ("lr", "momentum", "weight_decay", "nesterov")} == {
        "lr": 0.3,
        "momentum": 0.7,
        "weight_decay": 0.001,
        "nesterov": True,
    }
