from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Question, build
from tasks.applications.assistant.behaviour import answer_questions, read_questions


def test_questions_without_room_for_an_answer_have_an_empty_one(make_gpt, encoding):
    gpt = make_gpt(context_length=96)
    model = build(gpt, {})
    model.load_state_dict(gpt.state_dict())
    long = Question("the cat sat " * 30)
    short = Question("the cat")
    first, second, third = answer_questions(LoadedModel(model.eval(), encoding), [short, long, short], max_new_tokens=8)
    assert (first, second) == (third, "")
    assert first


def test_dataset_without_such_questions_has_none():
    assert read_questions("nowhere") == {}
