from tasks.evaluation.assistant.loops import loop_shares


def test_loop_shares_count_answers_with_a_loop_by_whose_they_are():
    loop = "It is a dog and it is a dog and it is a dog."
    shares = loop_shares({"": [loop, "no", "yes", ""], "baseline_": [loop], "nearest_": []})
    assert shares == {"loops": 0.25, "baseline_loops": 1.0}
