"""What is held when most is held, on a written program that is counted by hand."""

from mmjax.plan.hlo import parse
from mmjax.plan.memory import category, peak

MIB = 2**20
TEXT = """HloModule written, is_scheduled=true

%body (b: (s32[], f32[1024,256], f32[8,1024,256])) -> (s32[], f32[1024,256], f32[8,1024,256]) {
  %b = (s32[], f32[1024,256]{1,0}, f32[8,1024,256]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[1024,256]{1,0} get-tuple-element(%b), index=1
  %stack = f32[8,1024,256]{2,1,0} get-tuple-element(%b), index=2
  %wide = f32[1024,1024]{1,0} exponential(%x)
  %fast = f32[8,1024,256]{2,1,0:T(8,128)S(1)} copy(%stack)
  %y = f32[1024,256]{1,0} slice(%wide)
  %kept = f32[8,1024,256]{2,1,0} dynamic-update-slice(%stack, %x, %i, %i, %i)
  ROOT %next = (s32[], f32[1024,256]{1,0}, f32[8,1024,256]{2,1,0}) tuple(%i, %y, %kept)
}

%condition (c: (s32[], f32[1024,256], f32[8,1024,256])) -> pred[] {
  %c = (s32[], f32[1024,256]{1,0}, f32[8,1024,256]{2,1,0}) parameter(0)
  %bound = s32[] constant(8)
  %at = s32[] get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%at, %bound), direction=LT
}

ENTRY %main (p: f32[1024,256], q: f32[1024,256]) -> f32[1024,256] {
  %p = f32[1024,256]{1,0} parameter(0), metadata={op_name="state.params['image']['kernel']"}
  %q = f32[1024,256]{1,0} parameter(1), metadata={op_name="batch['image']"}
  %zero = s32[] constant(0)
  %empty = f32[8,1024,256]{2,1,0} broadcast(%zero), metadata={op_name="jit(f)/jvp(image)/broadcast_in_dim"}
  %start = f32[1024,256]{1,0} add(%p, %q), metadata={op_name="jit(f)/jvp(image)/add"}
  %init = (s32[], f32[1024,256]{1,0}, f32[8,1024,256]{2,1,0}) tuple(%zero, %start, %empty)
  %loop = (s32[], f32[1024,256]{1,0}, f32[8,1024,256]{2,1,0}) while(%init), condition=%condition, body=%body
  %last = f32[1024,256]{1,0} get-tuple-element(%loop), index=1
  %saved = f32[8,1024,256]{2,1,0} get-tuple-element(%loop), index=2
  ROOT %r = f32[1024,256]{1,0} reduce(%saved, %last), metadata={op_name="jit(f)/transpose(jvp(image))/reduce"}
}
"""


def test_a_loop_adds_what_is_fullest_in_it_to_what_it_carries():
    """Two arguments of 1 MiB, what starts the loop, its stack of 8 MiB, and in it 4 MiB wide beside 1 MiB of result.

    Updates in their place and names for what is there add nothing, nor does the fast memory.
    """
    found = peak(parse(TEXT))
    sizes = sorted(buffer.num_bytes // MIB for buffer in found.buffers if buffer.num_bytes >= MIB)
    assert sizes == [1, 1, 1, 1, 4, 8]
    assert found.num_bytes // MIB == 16
    assert found.buffers[0].num_bytes == 8 * MIB


def test_buffers_are_named_by_what_they_are_for():
    categories = {buffer.name: category(buffer, set()) for buffer in peak(parse(TEXT)).buffers}
    assert categories["p"] == "parameters"
    assert categories["q"] == "batch"
    assert categories["empty"] == "saved activations"


def test_a_derivative_in_the_shape_of_a_parameter_is_a_gradient():
    gradient = TEXT.replace("jit(f)/jvp(image)/add", "jit(f)/transpose(jvp(image))/add")
    buffer = next(buffer for buffer in peak(parse(gradient)).buffers if buffer.name == "start")
    assert category(buffer, {(1024, 256)}) == "gradients"
    assert category(buffer, set()) == "working memory of the backward pass"


def test_a_result_in_the_place_of_an_argument_is_none_of_its_own():
    """An argument is there to the end; what is made of it is beside it, unless the argument is given up for it."""
    text = """HloModule written, is_scheduled=true

ENTRY %main (p: f32[1024,256]) -> f32[1024,256] {
  %p = f32[1024,256]{1,0} parameter(0)
  ROOT %r = f32[1024,256]{1,0} negate(%p)
}
"""
    assert peak(parse(text)).num_bytes == 2 * MIB
    given_up = text.replace("is_scheduled=true", "is_scheduled=true, input_output_alias={ {}: (0, {}, may-alias) }")
    assert peak(parse(given_up)).num_bytes == MIB
