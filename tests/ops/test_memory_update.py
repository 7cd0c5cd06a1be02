import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import DEVICE, KERNEL, by_hand, examples, layouts, native, randint, randn

import cgcl_fast
from cgcl_fast import ops
from cgcl_fast.kernels import INTERPRET
from cgcl_fast.ops.memory_update import memory_update_reference

LAYOUTS = tuple(layouts(torch.zeros(1, 1, 1, 1)))


def random(*shape, seed=0, dtype=torch.float32):
    return randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def memory(N, C, width, domains=2):
    return F.normalize(random(N, C, seed=8), dim=-1), F.normalize(random(domains, N, width, seed=9), dim=-1)


def maps(sizes, C, width, layout="contiguous", dtype=torch.float32):
    """Contents and styles of domains of (B, H, W)."""
    contents = [random(B, C, H, W, seed=2 * d) for d, (B, H, W) in enumerate(sizes)]
    styles = [random(B, width, H, W, seed=2 * d + 1) for d, (B, H, W) in enumerate(sizes)]
    return tuple([layouts(x.to(dtype))[layout] for x in domain] for domain in (contents, styles))


def classes(sizes, N, count=4):
    generator = torch.Generator().manual_seed(0)
    pixels = [randint(0, count, size, generator=generator) for size in sizes]
    return {"pixel_classes": pixels, "item_class": randint(0, count, (N,), generator=generator)}


def unit(v):
    length = math.sqrt(sum(x * x for x in v))
    return [x / length for x in v] if length > 0 else v


@by_hand
def scalar_update(keys, values, contents, styles, pixel_classes=None, item_class=None, temperature=1.0):
    """The equation item by item, in Python floats."""
    new_keys, new_values = keys.double().clone(), values.double().clone()
    for n in range(len(keys)):
        k, key_sum = unit(keys[n].tolist()), keys[n].double().clone()
        addressed = False
        for d, (content, style) in enumerate(zip(contents, styles, strict=True)):
            pixels = content.permute(0, 2, 3, 1).flatten(0, 2).double()
            ours = style.permute(0, 2, 3, 1).flatten(0, 2).double()
            chosen = range(len(pixels))
            if pixel_classes is not None:
                chosen = [p for p in chosen if pixel_classes[d].flatten()[p] == item_class[n]]
            cosines = {p: sum(a * b for a, b in zip(unit(pixels[p].tolist()), k, strict=True)) for p in chosen}
            e = {p: math.exp(cosine / temperature) for p, cosine in cosines.items()}
            if e:
                addressed = True
                beta = {p: weight / sum(e.values()) for p, weight in e.items()}
                key_sum += sum(weight * pixels[p] for p, weight in beta.items())
                value = values[d, n].double() + sum(weight * ours[p] for p, weight in beta.items())
                new_values[d, n] = torch.tensor(unit(value.tolist()))
        if addressed:
            new_keys[n] = torch.tensor(unit(key_sum.tolist()))
    return new_keys, new_values


@settings(max_examples=examples(40))
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.sampled_from([1.0, 0.3, 7.0]),
)
def test_values(sizes, C, width, N, by_class, layout, dtype, temperature):
    keys, values = memory(N, C, width, len(sizes))
    contents, styles = maps(sizes, C, width, layout, dtype)
    options = {"temperature": temperature, **(classes(sizes, N) if by_class else {})}
    new_keys, new_values = ops.memory_update(keys, values, contents, styles, **options)
    assert new_keys.dtype == new_values.dtype == torch.float32
    expected_keys, expected_values = scalar_update(keys, values, contents, styles, **options)
    torch.testing.assert_close(new_keys.double(), expected_keys, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new_values.double(), expected_values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_exact_as_eager(layout, temperature, by_class, dtype):
    """More channels, pixels and items than one block of the kernels holds, on several threads."""
    sizes = [(2, 13, 11), (1, 30, 9)] if INTERPRET else [(2, 29, 31), (1, 50, 23)]
    keys, values = memory(23, 37, 50)
    contents, styles = maps(sizes, 37, 50, layout, dtype)
    options = {**(classes(sizes, 23) if by_class else {}), "temperature": temperature}
    wide = [[x.double() for x in domain] for domain in (contents, styles)]
    exact = memory_update_reference(keys.double(), values.double(), *wide, **options)
    eager = memory_update_reference(keys, values, contents, styles, **options)
    fast = ops.memory_update(keys, values, contents, styles, **options)
    for truth, plain, result in zip(exact, eager, fast, strict=True):
        allowed = 2 * (plain - truth).abs().max() + 4 * torch.finfo(torch.float32).eps
        assert (result - truth).abs().max() <= allowed


def test_at_the_least_temperature_the_nearest_pixel_is_written():
    """e^(1/0.02) stays finite; of a content equal to the key, one against it and one across, the first counts alone."""
    keys, values = torch.eye(3)[:1], torch.zeros(1, 1, 2)
    content = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]]).T.reshape(1, 3, 1, 3)
    style = torch.tensor([[1.0, 2], [9, 9], [-5, 5]]).T.reshape(1, 2, 1, 3)
    new_keys, new_values = ops.memory_update(keys, values, [content], [style], temperature=0.02)
    torch.testing.assert_close(new_keys, keys)
    torch.testing.assert_close(new_values[0], F.normalize(torch.tensor([[1.0, 2]]), dim=1))


def test_shape_of_the_paper():
    keys, values = memory(20, 256, 256)
    contents, styles = maps([(1, 12, 12) if INTERPRET else (1, 45, 45)] * 2, 256, 256)
    for channels_last in (False, True):
        if channels_last:
            contents = [c.contiguous(memory_format=torch.channels_last) for c in contents]
        fast = ops.memory_update(keys, values, contents, styles)
        torch.testing.assert_close(fast, memory_update_reference(keys, values, contents, styles), rtol=1e-5, atol=1e-6)
        assert all((t.norm(dim=-1) - 1).abs().max() < 1e-6 for t in fast)


def test_items_that_no_pixel_addresses_keep_what_they_have():
    keys, values = 3 * random(4, 5), 3 * random(2, 4, 6)  # not of unit length: kept to the bit all the same
    contents, styles = maps([(1, 2, 2), (1, 2, 2)], 5, 6)
    pixels = [torch.full((1, 2, 2), 1), torch.full((1, 2, 2), 2)]
    new_keys, new_values = ops.memory_update(
        keys, values, contents, styles, pixel_classes=pixels, item_class=torch.tensor([0, 1, 2, 1])
    )
    kept = new_keys.eq(keys).all(dim=1)
    assert kept.tolist() == [True, False, False, False]
    assert new_values.eq(values).all(dim=2).tolist() == [[True, False, True, False], [True, True, False, True]]
    assert torch.allclose(new_keys[1:].norm(dim=1), torch.ones(3))


def test_empty_batch_keeps_the_memory():
    keys, values = 2 * random(3, 4), random(1, 3, 5)
    new_keys, new_values = ops.memory_update(keys, values, [random(0, 4, 6, 7)], [random(0, 5, 6, 7)])
    assert torch.equal(new_keys, keys) and torch.equal(new_values, values)
    assert new_keys.data_ptr() != keys.data_ptr() and new_values.data_ptr() != values.data_ptr()


def test_single_pixel():
    keys, values = memory(2, 3, 4, 1)
    content, style = random(1, 3, 1, 1), random(1, 4, 1, 1)
    new_keys, new_values = ops.memory_update(keys, values, [content], [style])
    torch.testing.assert_close(new_keys, F.normalize(keys + content.flatten(), dim=1))
    torch.testing.assert_close(new_values[0], F.normalize(values[0] + style.flatten(), dim=1))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_zero_vectors(backend):
    keys, values = torch.zeros(2, 3), torch.zeros(1, 2, 4)
    with cgcl_fast.backend(backend):
        for content in (torch.zeros(1, 3, 2, 2), random(1, 3, 2, 2)):
            new_keys, new_values = ops.memory_update(keys, values, [content], [torch.zeros(1, 4, 2, 2)])
            mean = content.mean(dim=(0, 2, 3))  # every cosine is 0, so every pixel weighs the same
            torch.testing.assert_close(new_keys, F.normalize(mean, dim=0).expand(2, 3))
            assert new_values.eq(0).all()


def test_result_is_detached():
    keys, values = (t.requires_grad_() for t in memory(3, 4, 5))
    contents, styles = maps([(1, 2, 2), (1, 3, 3)], 4, 5)
    for tensor in (*contents, *styles):
        tensor.requires_grad_()
    for backend in ("auto", "reference"):
        with cgcl_fast.backend(backend):
            new = ops.memory_update(keys, values, contents, styles)
        assert not any(t.requires_grad for t in new)
        assert all(t.requires_grad for t in (keys, values, *contents, *styles))


def test_arguments_are_not_changed():
    keys, values = memory(3, 4, 5)
    contents, styles = maps([(1, 2, 2), (1, 3, 3)], 4, 5)
    tensors = [keys, values, *contents, *styles]
    before = [t.clone() for t in tensors]
    ops.memory_update(keys, values, contents, styles)
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))


def test_same_bits_with_any_number_of_threads():
    arguments = (
        *memory(7, 33, 18),
        *maps([(2, 13, 11), (1, 30, 9)] if INTERPRET else [(2, 40, 41), (1, 60, 61)], 33, 18),
    )
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            runs.append(ops.memory_update(*arguments))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for run in runs[1:] for pair in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_memory_of_other_dtypes(dtype):
    keys, values = (t.to(dtype) for t in memory(5, 6, 7))
    contents, styles = maps([(1, 4, 4), (1, 3, 3)], 6, 7)
    fast = ops.memory_update(keys, values, contents, styles)
    truth = memory_update_reference(keys.double(), values.double(), contents, styles)
    for result, exact in zip(fast, truth, strict=True):
        assert result.dtype == dtype
        assert (result.double() - exact).abs().max() <= max(torch.finfo(dtype).eps, 1e-12)


def test_domains_of_other_dtypes_and_integer_classes():
    keys, values = memory(5, 6, 7)
    contents, styles = maps([(1, 4, 4), (1, 3, 3)], 6, 7)
    contents[1], styles[0] = contents[1].bfloat16(), styles[0].bfloat16()
    options = classes([(1, 4, 4), (1, 3, 3)], 5, 2)
    narrow = {
        "pixel_classes": tuple(p.to(torch.uint8) for p in options["pixel_classes"]),
        "item_class": options["item_class"].to(torch.int32),
    }
    fast = ops.memory_update(keys, values, tuple(contents), tuple(styles), **narrow)
    expected = memory_update_reference(keys, values, contents, styles, *options.values())
    torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-6)
    contents[0] = contents[0].half()  # one dtype without a kernel: the reference
    torch.testing.assert_close(
        ops.memory_update(keys, values, contents, styles),
        memory_update_reference(keys, values, contents, styles),
        rtol=0 if DEVICE.type == "cpu" else 1e-5,  # of pairs of maps a GPU sums some products in another order
        atol=0 if DEVICE.type == "cpu" else 1e-6,
    )


def test_autocast_changes_nothing():
    arguments = *memory(3, 4, 5), *maps([(1, 2, 2), (1, 3, 3)], 4, 5)
    expected = ops.memory_update(*arguments)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(ops.memory_update(*arguments), expected, strict=True))


@pytest.mark.skipif(not native("memory_update"), reason="no native library")
def test_opcheck_and_backends():
    operator = torch.ops.cgcl_fast._memory_update.default
    sizes = [(2, 3, 4), (1, 5, 5)]
    arguments, options = (*memory(6, 5, 7), *maps(sizes, 5, 7)), classes(sizes, 6)
    torch.library.opcheck(operator, (*arguments, [], None))
    torch.library.opcheck(operator, (*arguments, *options.values()))
    torch.library.opcheck(operator, (*arguments, *options.values(), 0.3))
    with cgcl_fast.backend(KERNEL):
        fast = ops.memory_update(*arguments, **options)
        assert all(torch.equal(*pair) for pair in zip(fast, operator(*arguments, *options.values()), strict=True))
    with cgcl_fast.backend("reference"):
        slow = ops.memory_update(*arguments, **options)
    expected = memory_update_reference(*arguments, *options.values())
    assert all(torch.equal(*pair) for pair in zip(slow, expected, strict=True))


@pytest.mark.compile
@pytest.mark.parametrize("by_class", [False, True])
def test_compile(by_class):
    sizes = [(2, 3, 4), (1, 5, 5)]
    arguments, options = (*memory(6, 5, 7), *maps(sizes, 5, 7)), classes(sizes, 6) if by_class else {"temperature": 0.3}
    torch._dynamo.reset()
    compiled = torch.compile(ops.memory_update, fullgraph=True, backend="aot_eager")
    expected = ops.memory_update(*arguments, **options)
    assert all(torch.equal(*pair) for pair in zip(compiled(*arguments, **options), expected, strict=True))


def test_torchscript():
    @torch.jit.script
    def update(
        keys: torch.Tensor, values: torch.Tensor, contents: list[torch.Tensor], styles: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ops.cgcl_fast.memory_update(keys, values, contents, styles, temperature=0.5)

    arguments = *memory(6, 5, 7), *maps([(2, 3, 4), (1, 5, 5)], 5, 7)
    expected = ops.memory_update(*arguments, temperature=0.5)
    assert all(torch.equal(*pair) for pair in zip(update(*arguments), expected, strict=True))


def test_meta_tensors():
    keys, values, content, style = (
        torch.empty(s, device="meta") for s in ((3, 4), (1, 3, 5), (2, 4, 6, 7), (2, 5, 6, 7))
    )
    new_keys, new_values = ops.memory_update(keys, values, [content], [style])
    assert new_keys.shape == (3, 4) and new_values.shape == (1, 3, 5)


k, v, c, s = torch.zeros(6, 3), torch.zeros(1, 6, 2), [torch.zeros(2, 3, 4, 5)], [torch.zeros(2, 2, 4, 5)]
p, i = [torch.zeros(2, 4, 5).long()], torch.zeros(6).long()


@pytest.mark.parametrize(
    "arguments, options, error, match",
    [
        ((None, v, c, s), {}, TypeError, r"expected keys to be a Tensor \(N, C\), got NoneType"),
        ((k[0], v, c, s), {}, ValueError, r"expected keys of shape \(N, C\), got \(3,\)"),
        ((k[:0], v[:, :0], c, s), {}, ValueError, r"expected keys with at least one item, got \(0, 3\)"),
        ((k, v[0], c, s), {}, ValueError, r"expected values of shape \(D, N, Cv\), got \(6, 2\)"),
        ((k, v[:, :5], c, s), {}, ValueError, r"\(D, N, Cv\) with D >= 1 and keys' N = 6, got \(1, 5, 2\)"),
        ((k, v[:0], [], []), {}, ValueError, r"with D >= 1 and keys' N = 6, got \(0, 6, 2\)"),
        ((k, v.to("meta"), c, s), {}, ValueError, f"expected values on keys's device {DEVICE}, got meta"),
        ((k, v, c[0], s), {}, TypeError, "expected contents to be a list of Tensors, one per domain, got Tensor"),
        ((k, v, c * 2, s), {}, ValueError, "expected contents of values' 1 domains, got 2"),
        ((k, v, c, []), {}, ValueError, "expected styles of values' 1 domains, got 0"),
        ((k, v, [c[0][0]], s), {}, ValueError, r"expected contents\[0\] of shape \(B, C, H, W\), got \(3, 4, 5\)"),
        ((k, v, [c[0][:, :2]], s), {}, ValueError, r"expected contents\[0\] of shape .* = \(2, 3, 4, 5\), got"),
        ((k, v, c, [s[0][:1]]), {}, ValueError, r"styles\[0\] of shape .* = \(2, 2, 4, 5\), got \(1, 2, 4, 5\)"),
        ((k, v, [p[0][:, None]], s), {}, TypeError, r"contents\[0\] of a floating-point dtype, got torch.int64"),
        ((k, v, [c[0].to("meta")], s), {}, ValueError, rf"expected contents\[0\] on keys's device {DEVICE}, got meta"),
        ((k, v, c, s), {"temperature": 0.01}, ValueError, "expected temperature of at least 0.02, got 0.01"),
        ((k, v, c, s), {"temperature": math.nan}, ValueError, "temperature"),
        ((k, v, c, s), {"pixel_classes": p}, ValueError, r"expected item_class with pixel_classes\[0\], got None"),
        ((k, v, c, s), {"item_class": i}, ValueError, "expected pixel_classes with item_class, got None"),
        ((k, v, c, s), {"pixel_classes": p[0], "item_class": i}, TypeError, "pixel_classes to be a list of Tensors"),
        ((k, v, c, s), {"pixel_classes": [], "item_class": i}, ValueError, "pixel_classes of values' 1 domains, got 0"),
        (
            (k, v, c, s),
            {"pixel_classes": [p[0][:, :3]], "item_class": i},
            ValueError,
            r"pixel_classes\[0\] of shape \(B, H, W\) = \(2, 4, 5\), got \(2, 3, 5\)",
        ),
        (
            (k, v, c, s),
            {"pixel_classes": [c[0]], "item_class": i},
            TypeError,
            r"pixel_classes\[0\] of an integer dtype",
        ),
    ],
)
def test_errors(arguments, options, error, match):
    with pytest.raises(error, match=f"^memory_update: .*{match}"):
        ops.memory_update(*arguments, **options)
