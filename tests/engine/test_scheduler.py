"""Which sequences a step takes, by token counts alone."""

import subprocess
import sys

from engine.sampling.params import SamplingParams
from engine.scheduler import Scheduler, Sequence
from engine.sequence import GenerationRequest


def sequence(prompt_tokens: int, max_tokens: int = 4) -> Sequence:
    request = GenerationRequest(f"{prompt_tokens}", (1,) * prompt_tokens, SamplingParams(max_tokens=max_tokens))
    return Sequence(request)


def scheduler(max_rows: int = 2) -> Scheduler:
    return Scheduler(max_rows=max_rows, chunk_tokens=100, shared_chunk_tokens=10)


def test_a_prompt_is_read_in_chunks_and_then_decoded():
    plan, one = scheduler(), sequence(250, max_tokens=3)
    plan.add(one)
    assert [plan.next_step().chunk for _ in range(3)] == [100, 100, 50]
    assert [len(plan.next_step().decode) for _ in range(3)] == [1, 1, 0]
    assert one.sampled == 3


def test_a_long_prompt_is_read_in_small_pieces_while_others_decode():
    plan, running, long = scheduler(), sequence(5, max_tokens=50), sequence(95)
    plan.add(running)
    plan.next_step()
    plan.add(long)
    step = plan.next_step()
    assert (step.decode, step.prefill, step.chunk) == ((running,), long, 10)


def test_rows_are_bounded_and_the_queue_moves_up_when_one_leaves():
    plan = scheduler(max_rows=1)
    first, second = sequence(5), sequence(6)
    plan.add(first)
    plan.add(second)
    assert plan.next_step().prefill is first
    assert (plan.num_running, plan.num_waiting) == (1, 1)
    plan.remove(first)
    assert plan.next_step().prefill is second


def test_a_removed_sequence_is_in_no_further_step():
    plan, one = scheduler(), sequence(500)
    plan.add(one)
    plan.next_step()
    plan.remove(one)
    assert not plan.next_step().sequences
    assert one.finished


def test_the_scheduler_imports_no_mlx():
    code = "import sys, engine.scheduler; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
