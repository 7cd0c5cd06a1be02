"""Forward-mode differentiation and `torch.func`: correct or rejected, never silently zero or detached."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from op_cases import CASES, DIFFERENTIABLE, NOT_DIFFERENTIABLE, Case, by_name, channels_last
from op_checks import DEVICE, native, randn
from torch import Tensor
from torch.autograd import forward_ad

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET

NAMESPACES = {"ops": ops, "torch.ops": torch.ops.cgcl_fast}


def weights(shape: torch.Size) -> Tensor:
    """1 to 2, of no generator, which torch.vmap would refuse."""
    return 1 + (torch.arange(shape.numel()) * 0.618 % 1).reshape(shape)


def total(case: Case, namespace: object = ops) -> Callable[..., Tensor]:
    """A scalar of all results, in which each element counts differently."""

    def function(*tensors: Tensor) -> Tensor:
        results = case(*tensors, namespace=namespace)
        return torch.stack([(r * weights(r.shape)).sum() for r in results]).sum()

    return function


def test_every_op_with_tensor_arguments_has_a_case():
    assert {case.op for case in CASES} == set(ops.__all__) - {"sample_patch_ids"}


@functools.cache
def reverse_mode(case: Case) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`total` and its gradients, through the kernels."""
    leaves = [t.requires_grad_() for t in case.tensors()]
    value = total(case)(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves)


def slopes(case: Case, argument: int) -> tuple[Tensor, Tensor]:
    """A tangent of one argument, and the slope of `total` along it."""
    tangent = case.tensors(seed=1)[argument]
    slope = (reverse_mode(case)[1][argument] * tangent).sum()
    assert slope.abs() > 1e-4
    return tangent, slope


@pytest.mark.parametrize("namespace", NAMESPACES.values(), ids=NAMESPACES)
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_jvp_is_that_of_reverse_mode(case, namespace):
    inputs = case.tensors()
    for argument in range(len(inputs)):
        tangent, slope = slopes(case, argument)

        def along(x, argument=argument):
            return total(case, namespace)(*inputs[:argument], x, *inputs[argument + 1 :])

        value, found = torch.func.jvp(along, (inputs[argument],), (tangent,))
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(value, reverse_mode(case)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "native" if DEVICE.type == "cpu" else "triton", "reference"])
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_dual_tensors(case, backend):
    """Also with a kernel asked for, and for inputs that require grad."""
    inputs = case.tensors()
    for argument in range(len(inputs)):
        tangent, slope = slopes(case, argument)
        for requires_grad in (False, True):
            leaf = inputs[argument].clone().requires_grad_(requires_grad)
            with forward_ad.dual_level(), cgcl_fast.backend(backend if native(case.op) else "auto"):
                dual = forward_ad.make_dual(leaf, tangent)
                result = total(case)(*inputs[:argument], dual, *inputs[argument + 1 :])
                torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_jacobians_by_both_modes(case):
    """jacrev is vmap over reverse mode, jacfwd vmap over forward mode."""
    inputs = case.tensors()
    every = tuple(range(len(inputs)))
    forward = torch.func.jacfwd(lambda *t: case(*t)[0], argnums=every)(*inputs)
    reverse = torch.func.jacrev(lambda *t: case(*t)[0], argnums=every)(*inputs)
    torch.testing.assert_close(forward, reverse, rtol=1e-4, atol=1e-4)
    assert all(jacobian.abs().sum() > 0 for jacobian in forward if case.op != "patch_nce_layers" or jacobian.any())


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_hessian_is_that_of_the_reference(case):
    """Forward over reverse and reverse over forward; reverse over reverse is right or refused."""
    inputs = case.tensors()
    others = inputs[1:]

    def function(x: Tensor) -> Tensor:
        return case(x, *others)[0].square().sum()

    with cgcl_fast.backend("reference"):
        expected = torch.func.jacrev(torch.func.jacrev(function))(inputs[0])
    assert expected.abs().sum() > 0
    torch.testing.assert_close(torch.func.hessian(function)(inputs[0]), expected, rtol=1e-3, atol=1e-3)
    found = torch.func.jacrev(torch.func.jacfwd(function))(inputs[0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    try:
        found = torch.func.jacrev(torch.func.jacrev(function))(inputs[0])
    except RuntimeError as error:
        assert f"cgcl_fast.ops.{'adain' if case.op == 'instance_norm' else case.op}: second derivatives" in str(error)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_forward_mode_through_a_backward_of_the_kernels_is_refused(case):
    """Where the forward pass ran before the upstream gradient became a dual tensor."""
    leaves = [t.requires_grad_() for t in case.tensors()]
    results = case(*leaves)
    if not native(case.op) or case.op == "gather_patches" and results[0].grad_fn.name().startswith("Clone"):
        pytest.skip("no kernel here")
    with forward_ad.dual_level():
        upstream = [forward_ad.make_dual(torch.ones_like(r), torch.ones_like(r)) for r in results]
        with pytest.raises(RuntimeError, match="forward-mode derivatives are not implemented by its kernels"):
            torch.autograd.grad(results, leaves, upstream)


def inner_calls() -> dict[str, tuple[int, Callable[..., object]]]:
    """The operators behind the public functions, with the number of their floating-point arguments."""
    o = torch.ops.cgcl_fast
    options = (0.5, "all", False, False, True, True)
    return {
        "adain": lambda x, s, t, r: o._adain(x, s, t, 1e-5, "none", r),
        "layer_norm": lambda x, w, b: o._layer_norm(channels_last(x), w, b, 1e-5, "none"),
        "gather_patches": lambda x: o._gather_patches(x, torch.tensor([0, 3])),
        "blur_down": o._blur_down,
        "blur_up": o._blur_up,
        "patch_nce": lambda q, k, e: o._patch_nce(q, k, e, None, *options),
        "patch_nce_layers": lambda a, b, c, d, e: o._patch_nce_layers([a, b], [c, d], [e, e], [], *options),
        "memory_read": lambda c, k, v: o._memory_read(c, k, v, None, None),
        "memory_contrast": lambda f, i: o._memory_contrast(f, i, 0.5, None, None),
    }


@pytest.mark.parametrize("name", inner_calls())
def test_operators_refuse_a_tangent(name):
    case = next(case for case in CASES if case.name == name)
    if not native(name):
        pytest.skip("no kernel here")
    call, inputs = inner_calls()[name], case.tensors()
    match = f'cgcl_fast.ops.{name}: forward-mode derivatives .*with cgcl_fast.backend."reference"'
    for argument in range(len(inputs)):
        for requires_grad in (False, True):
            leaf = inputs[argument].clone().requires_grad_(requires_grad)
            with forward_ad.dual_level(), pytest.raises(RuntimeError, match=match):
                dual = forward_ad.make_dual(leaf, torch.ones_like(leaf))
                call(*inputs[:argument], dual, *inputs[argument + 1 :])

        def along(x, argument=argument):
            return call(*inputs[:argument], x, *inputs[argument + 1 :])

        with pytest.raises(RuntimeError, match=match):
            torch.func.jvp(along, (inputs[argument],), (torch.ones_like(inputs[argument]),))
    with forward_ad.dual_level():
        call(*inputs)  # without a tangent nothing is lost


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_vmap_is_a_loop(case):
    """Over every argument alone, and over all together."""
    batches = [torch.stack(tensors) for tensors in zip(*(case.tensors(seed) for seed in range(3)), strict=True)]
    every = range(len(batches))
    for mapped in [*([argument] for argument in every), list(every)]:
        in_dims = tuple(0 if argument in mapped else None for argument in every)
        given = [batch if argument in mapped else batch[0] for argument, batch in enumerate(batches)]
        found = torch.vmap(case, in_dims=in_dims)(*given)
        with cgcl_fast.backend("reference" if INTERPRET else "auto"):
            loop = [case(*(t[i] if a in mapped else t for a, t in enumerate(given))) for i in range(3)]
        expected = tuple(map(torch.stack, zip(*loop, strict=True)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_gradients_of_each_sample(case):
    """vmap over grad, and grad over vmap."""
    inputs = case.tensors()
    batch = torch.stack([case.tensors(seed)[0] for seed in range(3)])
    function = total(case)
    loop = torch.stack([torch.func.grad(function)(x, *inputs[1:]) for x in batch])
    torch.testing.assert_close(loop[0], reverse_mode(case)[1][0], rtol=1e-5, atol=1e-5)
    in_dims = (0, *(None for _ in inputs[1:]))
    inner = torch.vmap(torch.func.grad(function), in_dims=in_dims)(batch, *inputs[1:])
    torch.testing.assert_close(inner, loop, rtol=1e-4, atol=1e-4)
    outer = torch.func.grad(lambda x: torch.vmap(function, in_dims=in_dims)(x, *inputs[1:]).sum())(batch)
    torch.testing.assert_close(outer, loop, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", NOT_DIFFERENTIABLE, ids=by_name)
def test_ops_without_gradient_are_detached(case, backend):
    """As their documentation says: nothing requires grad, and no tangent comes out."""
    with cgcl_fast.backend(backend):
        assert not any(result.requires_grad for result in case(*(t.requires_grad_() for t in case.tensors())))
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, torch.ones_like(t)) for t in case.tensors()]
            results = case(*duals)
            assert all(forward_ad.unpack_dual(r).tangent is None for r in results if r.is_floating_point())
            torch.testing.assert_close(results, case(*case.tensors()))
        found = torch.func.grad(lambda x: case(x, *case.tensors()[1:])[0].sum() + 0 * x.sum())(case.tensors()[0])
    assert found.eq(0).all()


def test_functional_call():
    module = torch.nn.Conv2d(3, 4, 1)

    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = module

        def forward(self, x):
            return ops.instance_norm(self.conv(x)).square().mean(dim=(0, 2, 3))[0]

    network = Normalised()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    x = randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = torch.func.grad(lambda p: torch.func.functional_call(network, p, (x,)))(parameters)
    expected = torch.autograd.grad(network(x), list(network.parameters()))
    torch.testing.assert_close(tuple(found.values()), expected, rtol=1e-5, atol=1e-6)
    tangents = {name: torch.ones_like(p) for name, p in parameters.items()}
    _, slope = torch.func.jvp(lambda p: torch.func.functional_call(network, p, (x,)), (parameters,), (tangents,))
    torch.testing.assert_close(slope, sum(g.sum() for g in expected), rtol=1e-4, atol=1e-5)


@pytest.mark.compile
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=by_name)
def test_compiled_jvp(case):
    """torch.compile over torch.func.jvp is the same, in one graph."""
    inputs, tangents = case.tensors(), case.tensors(seed=1)
    torch._dynamo.reset()

    def function(*given: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(lambda *t: case(*t)[0], given, tuple(tangents))

    expected = function(*inputs)
    assert expected[1].abs().sum() > 0
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
