"""What ranks of one worker do together ends the same way on all of them, whichever way it ends."""

import pytest
from rank_groups import rank_groups

TOGETHER = {
    ("", ""): ("", ""),
    ("expired", ""): ("ExpiredError", "ExpiredError"),
    ("", "value"): ("RankFailedError", "ValueError"),
    ("expired", "value"): ("RankFailedError", "ValueError"),
    ("replaced", "expired"): ("ReplacedError", "RankFailedError"),
    ("setting", "opaque"): ("SettingError", "OpaqueError"),
}
"""What the actions of ranks 0 and 1 raise -> what `together` raises on each."""
FROM_FIRST = {
    "": ("", ""),
    "expired": ("ExpiredError", "ExpiredError"),
    "setting": ("SettingError", "SettingError"),
    "value": ("ValueError", "RankFailedError"),
    "opaque": ("OpaqueError", "RankFailedError"),
}
"""What the action of rank 0 raises -> what `from_first` raises on each."""

Outcomes = list[dict[str, list[tuple[str, str]]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """By rank."""
    with rank_groups(tmp_path_factory.mktemp("ranks")) as start:
        cases = {"together": list(TOGETHER), "from_first": list(FROM_FIRST)}
        return start("tp2", "agreement_bodies:agreements", **cases).results()


@pytest.mark.parametrize("number", range(len(TOGETHER)), ids=[", ".join(names) for names in TOGETHER])
def test_together_fails_on_all_ranks_if_it_fails_on_one(outcomes: Outcomes, number: int) -> None:
    found = [rank["together"][number] for rank in outcomes]
    assert [kind for kind, _ in found] == list(list(TOGETHER.values())[number])
    if found[0][0] == "":
        assert [text for _, text in found] == ["by rank 0", "by rank 1"]


def test_the_other_rank_is_told_who_failed_and_how(outcomes: Outcomes) -> None:
    number = list(TOGETHER).index(("expired", "value"))
    assert outcomes[0]["together"][number][1] == "rank 1 of this worker failed: ValueError: no such row"


@pytest.mark.parametrize("number", range(len(FROM_FIRST)), ids=list(FROM_FIRST))
def test_the_result_or_error_of_the_first_rank_is_that_of_all(outcomes: Outcomes, number: int) -> None:
    found = [rank["from_first"][number] for rank in outcomes]
    assert [kind for kind, _ in found] == list(list(FROM_FIRST.values())[number])
    if found[0][0] == "":
        assert [text for _, text in found] == ["by rank 0", "by rank 0"]
    if found[1][0] == "RankFailedError":
        assert found[1][1] == f"rank 0 of this worker failed: {found[0][0]}: {found[0][1]}"
