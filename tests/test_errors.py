import pytest

from lesionkeras.errors import DataError, ExportError, LesionKerasError, RecipeError, RunError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "A box is empty."),
        ({"where": "row 3"}, "A box is empty in row 3."),
        ({"found": "x 5 to 5"}, "A box is empty: found x 5 to 5."),
        ({"wanted": "x1 < x2"}, "A box is empty: wanted x1 < x2."),
        ({"next_step": "correct it"}, "A box is empty; correct it."),
        (
            {"where": "row 3", "found": "x 5 to 5", "wanted": "x1 < x2", "next_step": "correct it"},
            "A box is empty in row 3: found x 5 to 5, wanted x1 < x2; correct it.",
        ),
    ],
)
def test_an_error_is_one_sentence_of_what_it_was_given(arguments, sentence):
    assert str(LesionKerasError("A box is empty", **arguments)) == sentence


@pytest.mark.parametrize("kind", [DataError, RecipeError, RunError, ExportError])
def test_every_kind_can_be_caught_as_ours_and_keeps_its_parts(kind):
    with pytest.raises(LesionKerasError) as caught:
        raise kind("What", where="there", found="this", wanted="that", next_step="do")
    error = caught.value
    assert type(error) is kind
    assert (error.what, error.where, error.found, error.wanted, error.next_step) == (
        "What",
        "there",
        "this",
        "that",
        "do",
    )
