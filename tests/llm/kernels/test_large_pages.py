import ctypes

from llm.kernels.serving.large_pages import PART, Memory


def test_matrices_lie_one_behind_the_other_and_one_that_is_too_large_for_a_part_has_its_own():
    memory = Memory()
    first = memory.room(100)
    memory.keep(100)
    second = memory.room(PART // 2)
    assert second - first == 128  # the next multiple of 64
    memory.keep(PART // 2)
    third = memory.room(2 * PART)
    assert third not in range(first, first + PART)
    assert memory.kept == 100 + PART // 2
    for address in (first, second, third):
        ctypes.memset(address, 1, 100)
        assert ctypes.string_at(address, 100) == b"\1" * 100
