"""The reader of compiled programs, on a written program whose figures are counted by hand."""

from mmjax.plan.program import Program

TEXT = """HloModule written, is_scheduled=true

%fused (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %double = f32[8,16]{1,0} add(%p, %p)
}

%condition (c: (s32[], f32[8,16])) -> pred[] {
  %c = (s32[], f32[8,16]{1,0}) parameter(0)
  %bound = s32[] constant(5)
  %at = s32[] get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%at, %bound), direction=LT
}

%body (b: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %b = (s32[], f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%b), index=1
  %start = (f32[8,16]{1,0}, f32[8,16]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %work = f32[8,16]{1,0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"x":{"estimated_cycles":"70"}}
  %done = f32[8,16]{1,0} collective-permute-done(%start)
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%at, %done)
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %all = bf16[32,16]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %sum = f32[] all-reduce(%one), replica_groups={{0,1}}, to_apply=%add
  %part = f32[2,16]{1,0} reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}, to_apply=%add
  %loop = (s32[], f32[8,16]{1,0}) while(%init), condition=%condition, body=%body
  ROOT %r = f32[8,16]{1,0} get-tuple-element(%loop), index=1, backend_config={"estimated_cycles":"7"}
}
"""


def test_loops_count_as_often_as_they_run():
    program = Program(TEXT)
    assert program.collective_counts == {"all-gather": 1, "all-reduce": 1, "reduce-scatter": 1, "collective-permute": 1}
    gathered, reduced, scattered = 32 * 16 * 2 * 3 // 4, 2 * 4 // 2, 2 * 16 * 4 * 3
    assert program.sent_bytes == gathered + reduced + scattered + 5 * 8 * 16 * 4
    assert program.estimated_cycles == 5 * 70 + 7


def test_a_known_trip_count_is_taken():
    known = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert Program(known).estimated_cycles == 3 * 70 + 7


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    program = Program(TEXT.replace("constant(5)", "custom-call()"))
    assert [loop.name for loop in program.unknown_loops] == ["loop"]
    assert program.estimated_cycles == 70 + 7
    assert Program(TEXT).unknown_loops == []


def test_other_platforms_estimate_nothing():
    assert Program(TEXT.replace("estimated_cycles", "else")).estimated_cycles is None


def test_kernels_count_by_their_own_estimate():
    kernel = (
        '%work = f32[8,16]{1,0} custom-call(%x), backend_config={"custom_call_config":{"body":"AB", "cost_estimate":'
    )
    kernel += '{"flops":"11","transcendentals":"1","bytes_accessed":"13"}}}'
    lines = [f"  {kernel}" if "%work" in line else line for line in TEXT.splitlines()]
    assert Program("\n".join(lines)).kernel_cost == (5 * 11, 5 * 13)
    assert Program(TEXT).kernel_cost == (0, 0)


def test_a_collective_that_runs_within_several_fusions_counts_once():
    text = """HloModule written, is_scheduled=true

%first (p: f32[8,16]) -> f32[32,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %a = f32[32,16]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], frontend_attributes={chain_id="1"}
}

%second (p: f32[8,16]) -> f32[32,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %b = f32[32,16]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], frontend_attributes={chain_id="1"}
}

ENTRY %main (x: f32[8,16]) -> f32[32,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %one = f32[32,16]{1,0} fusion(%x), kind=kOutput, calls=%first
  ROOT %two = f32[32,16]{1,0} fusion(%x), kind=kOutput, calls=%second
}
"""
    assert [(repeats, overlapped) for repeats, _, overlapped in Program(text).communications] == [(1, True)]
    apart = text.replace("channel_id=3", "channel_id=4", 1)
    assert len(Program(apart).communications) == 2
