"""The errors a user can cause, each one sentence: what, where, found, wanted, next step."""

from __future__ import annotations


class LesionKerasError(Exception):
    """A mistake in the input, said in one sentence.

    Args:
        what: What is wrong, as the start of a sentence ("A column is missing").
        where: File, row, patient number, field or flag.
        found: What is there.
        wanted: What should be there.
        next_step: What the user can do now, as an imperative.

    >>> print(LesionKerasError("A box is empty", where="row 3", found="x 5 to 5", wanted="x1 < x2",
    ...                        next_step="correct the row"))
    A box is empty in row 3: found x 5 to 5, wanted x1 < x2; correct the row.
    """

    def __init__(
        self, what: str, *, where: str = "", found: str = "", wanted: str = "", next_step: str = ""
    ) -> None:
        self.what, self.where, self.found = what, where, found
        self.wanted, self.next_step = wanted, next_step
        sentence = what + (f" in {where}" if where else "")
        facts = [f"found {found}"] * bool(found) + [f"wanted {wanted}"] * bool(wanted)
        sentence += ": " + ", ".join(facts) if facts else ""
        sentence += f"; {next_step}" if next_step else ""
        super().__init__(sentence + ".")


class DataError(LesionKerasError):
    """Raw or prepared data is missing, damaged or contradicts itself."""


class RecipeError(LesionKerasError):
    """A flag, a recipe field or a recipe file is wrong."""


class RunError(LesionKerasError):
    """A run directory or a training run cannot go on."""


class ExportError(LesionKerasError):
    """An exported model does not keep its contract."""


def describe_unexpected(error: Exception) -> str:
    """Return one sentence about an error that nobody foresaw, or that the system raised.

    >>> describe_unexpected(ValueError("shapes"))
    'ValueError: shapes; the same command with --debug shows where.'
    """
    if isinstance(error, OSError) and error.strerror:
        ours = LesionKerasError(
            "A file cannot be read or written",
            where=str(error.filename or ""),
            found=error.strerror.lower(),
            next_step="see that it is there, may be used and has room, then repeat the command "
            "(--debug shows where)",
        )
        return str(ours)
    first_line = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    kind = type(error).__name__
    return f"{kind}: {first_line or 'no text'}; the same command with --debug shows where."
