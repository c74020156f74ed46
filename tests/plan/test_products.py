# ruff: noqa: E501 - lines as compilers write them
"""FLOPs of products, in the forms that compilers write them in."""

import pytest

from mmjax.plan.hlo import parse
from mmjax.plan.products import passes, product_flops
from mmjax.plan.traffic import moved_bytes

TEXT = """HloModule written, is_scheduled=true

%fused (p: bf16[12,64,128], i: s32[]) -> bf16[64,128] {
  %p = bf16[12,64,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %slice = bf16[1,64,128]{2,1,0} dynamic-slice(%p, %i, %i, %i), dynamic_slice_sizes={1,64,128}
  ROOT %row = bf16[64,128]{1,0} bitcast(%slice)
}

%update (q: bf16[12,64,128], r: bf16[1,64,128], j: s32[]) -> bf16[12,64,128] {
  %q = bf16[12,64,128]{2,1,0} parameter(0)
  %r = bf16[1,64,128]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %put = bf16[12,64,128]{2,1,0} dynamic-update-slice(%q, %r, %j, %j, %j)
}

ENTRY %main (x: bf16[32,64]) -> bf16[32,128] {
  %x = bf16[32,64]{1,0} parameter(0)
  %stack = bf16[12,64,128]{2,1,0} parameter(1)
  %n = s32[] parameter(2)
  %w = bf16[64,128]{1,0} fusion(%stack, %n), kind=kLoop, calls=%fused
  %product = bf16[32,128]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %as_convolution = bf16[32,128]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %heads = bf16[4,12,16,64]{3,2,1,0} parameter(3)
  %keys = bf16[4,12,16,64]{3,2,1,0} parameter(4)
  %scores = bf16[4,12,16,16]{3,2,1,0} convolution(%heads, %keys), window={size=4x12 stride=3x11 lhs_dilate=4x12}, dim_labels=01bf_01oi->01bf
  %image = f32[2,8,8,3]{3,2,1,0} parameter(5)
  %kernel = f32[3,3,3,16]{3,2,1,0} parameter(6)
  %same = f32[2,8,8,16]{3,2,1,0} convolution(%image, %kernel), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, operand_precision={highest,highest}
  %fast = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} copy(%w)
  %next = bf16[12,64,128]{2,1,0} fusion(%stack, %w, %n), kind=kLoop, calls=%update
  %library = (bf16[32,128]{1,0}, s8[64]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[]}}}
  ROOT %r = bf16[32,128]{1,0} add(%product, %as_convolution)
}
"""
MODULE = parse(TEXT)


def one(name):
    return MODULE, MODULE.entry, MODULE.entry.by_name[name]


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("product", 2 * 32 * 64 * 128),
        ("as_convolution", 2 * 32 * 64 * 128),
        # A batched product whose batch is written as a dilated window: of its taps one in each place counts.
        ("scores", 2 * 4 * 12 * 16 * 16 * 64),
        # Taps on the border's padding do not count: 22 of 24 along each axis.
        ("same", 2 * 2 * 22 * 22 * 3 * 16),
        ("library", 2 * 32 * 64 * 128),
        ("r", 0),
    ],
)
def test_flops(name, flops):
    assert product_flops(*one(name)) == flops


def test_exact_products_of_float32_take_six_passes():
    assert passes(*one("same")) == 6
    assert passes(*one("product")) == 1


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("product", 2 * (32 * 64 + 64 * 128 + 32 * 128)),
        # A slice of a stack reads the slice, and an update in its place writes the update.
        ("w", 2 * 64 * 128 + 4 + 2 * 64 * 128),
        ("next", 2 * 64 * 128 + 4 + 2 * 64 * 128),
        # What is copied to the fast memory is read once.
        ("fast", 2 * 64 * 128),
        ("x", 0),
    ],
)
def test_bytes(name, num_bytes):
    assert moved_bytes(*one(name)) == num_bytes


def test_tiles_are_stored_whole():
    array = MODULE.entry.by_name["fast"].arrays[0]
    assert array.is_fast
    assert array.stored_bytes == array.num_bytes
    (padded,) = (
        parse("ENTRY %m () -> f32[] {\n  %a = bf16[256,12,196,196]{3,2,1,0:T(8,128)(2,1)} x()\n}")
        .entry.by_name["a"]
        .arrays
    )
    assert padded.stored_bytes == 2 * 256 * 12 * 200 * 256
