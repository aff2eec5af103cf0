"""The page of faults is what the tests show, and no required case is without a test."""

from docs.bench.fault_reference import PAGE, REQUIRED, page, promises


def test_every_required_case_has_a_test_in_the_short_run() -> None:
    shown = {case for promise in promises() if not promise.is_long for case in promise.cases}
    assert not REQUIRED - shown


def test_the_page_of_faults_is_what_the_tests_show() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.bench.fault_reference`"
