"""Which sequences a step takes, by token counts, bytes and time alone."""

import subprocess
import sys

import pytest

from engine.cache.kv_budget import KVBudget, TokenBytes
from engine.requests import GenerationRequest
from engine.sampling.params import SamplingParams
from engine.scheduler import Scheduler, StepTime
from engine.sequence import Sequence


def sequence(prompt_tokens: int, max_tokens: int = 4, priority: int = 0, arrival: float = 0.0) -> Sequence:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Sequence(GenerationRequest("", (prompt_tokens,) * prompt_tokens, sampling, priority), arrival)


def scheduler(max_rows: int = 2, limit_bytes: int | None = None, chunk_tokens: int = 64, **given) -> Scheduler:
    return Scheduler(max_rows, StepTime(0.2, chunk_tokens), KVBudget(TokenBytes(1), limit_bytes), **given)


def read(step) -> list[tuple[Sequence, int]]:
    return list(step.prefill)


def deliver(*sequences: Sequence) -> None:
    for each in sequences:
        each.outputs += [1] * (each.sampled - len(each.outputs))


def test_a_prompt_is_read_in_chunks_and_then_decoded():
    plan, one = scheduler(), sequence(150, max_tokens=3)
    plan.add(one)
    assert [plan.next_step(0).num_prefilled for _ in range(3)] == [64, 64, 22]
    assert [len(plan.next_step(0).decode) for _ in range(3)] == [1, 1, 0]
    assert one.sampled == 3


def test_several_short_prompts_share_a_step():
    plan, short = scheduler(max_rows=4), [sequence(10) for _ in range(3)]
    for each in short:
        plan.add(each)
    assert read(plan.next_step(0)) == [(each, 10) for each in short]


def test_rows_are_bounded_and_the_queue_moves_up_when_one_leaves():
    plan, first, second = scheduler(max_rows=1), sequence(5), sequence(6)
    plan.add(first)
    plan.add(second)
    assert read(plan.next_step(0)) == [(first, 5)]
    assert (plan.num_running, plan.num_waiting) == (1, 1)
    plan.remove(first)
    assert read(plan.next_step(0)) == [(second, 6)]


def test_a_removed_sequence_is_in_no_further_step():
    plan, one = scheduler(), sequence(500)
    plan.add(one)
    plan.next_step(0)
    plan.remove(one)
    assert not plan.next_step(0).sequences
    assert one.finished
    assert plan.kv_budget.num_bytes == 0


def test_a_newcomer_is_read_before_a_long_prompt_goes_on_but_not_for_ever():
    plan, long = scheduler(max_rows=100), sequence(10_000)
    plan.add(long)
    for _ in range(4):
        plan.next_step(0)
    newcomer = sequence(64)
    plan.add(newcomer)
    assert read(plan.next_step(0)) == [(newcomer, 64)]
    for second in range(3):
        plan.add(sequence(65 + second, arrival=second))
        if any(each is long for each, _ in read(plan.next_step(second))):
            return
    pytest.fail("the long prompt starves")


def test_priority_comes_first_and_waiting_makes_up_for_it():
    plan, late, urgent, old = (
        scheduler(max_rows=1),
        sequence(5, arrival=50),
        sequence(6, priority=-1, arrival=50),
        sequence(7, priority=1),
    )
    for each in (late, urgent, old):
        plan.add(each)
    order = []
    for _ in range(3):
        ((each, _),) = read(plan.next_step(50))
        order.append(each)
        plan.remove(each)
    assert order == [old, urgent, late]
    plan.add(sequence(5, priority=1, arrival=50))
    plan.add(urgent := sequence(6, priority=0, arrival=50))
    assert read(plan.next_step(50)) == [(urgent, 6)]


def test_a_prompt_that_another_is_reading_waits_to_be_found():
    begun: list[Sequence] = []
    plan = scheduler(max_rows=9, begin=lambda each: begun.append(each) or 0)
    twins, other = [sequence(40), sequence(40)], sequence(20)
    for each in (*twins, other):
        plan.add(each)
    assert read(plan.next_step(0)) == [(twins[0], 40), (other, 20)]
    assert read(plan.next_step(0)) == [(twins[1], 40)]
    assert begun == [twins[0], other, twins[1]]


def test_what_does_not_fit_waits_until_there_is_room():
    plan, first, second = scheduler(max_rows=9, limit_bytes=512), sequence(200), sequence(300)
    plan.add(first)
    plan.add(second)
    assert read(plan.next_step(0))[0][0] is first
    assert plan.num_waiting == 1
    plan.remove(first)
    assert read(plan.next_step(0))[0][0] is second


def test_a_row_that_grows_out_of_the_memory_makes_the_last_in_line_wait_and_read_again():
    paused: list[Sequence] = []
    plan = scheduler(max_rows=9, limit_bytes=1700, pause=paused.append)
    old, young = sequence(240, max_tokens=600, arrival=0), sequence(200, max_tokens=56, arrival=1)
    plan.add(old)
    plan.add(young)
    for _ in range(300):
        plan.next_step(2)
        deliver(old, young)
        assert plan.kv_budget.num_bytes <= 1700
        if paused:
            break
    assert paused == [young]
    assert plan.num_preemptions == 1
    assert young.prompt_left == 200
    plan.remove(old)
    plan.next_step(3)
    assert young.to_prefill == 200 + len(young.outputs)


def test_the_pace_keeps_the_gap_and_uses_the_whole_chunk_when_nobody_writes():
    pace = StepTime(max_gap_seconds=0.2, chunk_tokens=512)
    for _ in range(30):
        pace.observe(4, 0, 0.03)
        budget = pace.budget(4)
        pace.observe(4, budget, 0.03 + 0.001 * budget)
    assert 0.1 <= 0.03 + 0.001 * pace.budget(4) <= 0.2
    assert pace.budget(0) == 500


def test_the_scheduler_imports_no_mlx():
    code = "import sys, engine.scheduler; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
