"""What refused and unanswered attempts say about a server."""

from pushpull.protos.absence import GONE_SECONDS, Absence


def test_a_process_that_nobody_listens_for_is_gone_within_seconds() -> None:
    absence = Absence("b:7077", patience_seconds=600.0)
    absence.refused(0.0)
    assert absence.verdict(GONE_SECONDS - 0.1) == ""
    absence.refused(GONE_SECONDS)
    assert "nobody listens at b:7077" in absence.verdict(GONE_SECONDS)


def test_a_link_that_is_down_is_waited_for_as_long_as_patience_lasts() -> None:
    absence = Absence("b:7077", patience_seconds=600.0)
    for now in range(0, 600, 10):
        absence.silent(float(now))
        assert absence.verdict(float(now)) == ""
    assert absence.verdict(600.0) == "b:7077 has not answered for 600 s"


def test_one_refusal_within_silence_says_nothing() -> None:
    absence = Absence("b:7077", patience_seconds=600.0)
    absence.refused(0.0)
    absence.silent(1.0)
    absence.refused(2.0)
    assert absence.verdict(GONE_SECONDS + 1.0) == ""


def test_an_answer_forgives_everything() -> None:
    absence = Absence("b:7077", patience_seconds=5.0)
    absence.refused(0.0)
    absence.answered()
    assert absence.verdict(100.0) == ""
