"""The options of `verifier`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Ran, assert_rejected_before_sending
from tests.servers import Served


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+verifier=mathh"], "mathh"),
        (["+verifier=exact_match", "+verifier.answer_feild=x"], "did you mean answer_field"),
        (["+verifier=exact_match", "+verifier.answer_field=gold"], "lines 1-5: the verifier needs the field 'gold'"),
        (["+verifier=regex"], "verifier.pattern"),
        (["+verifier=regex", "+verifier.pattern=("], "not a valid regular expression"),
        (["+verifier=python", "+verifier.function=no_such_module.f"], "cannot be imported"),
        (["+verifier.answer_field=gold"], "no kind"),
    ],
    ids=[
        "unknown kind",
        "misspelled option",
        "field that no row has",
        "missing option",
        "pattern that does not compile",
        "function that cannot be imported",
        "options without a kind",
    ],
)
def test_verifier_mistake_is_reported_before_any_request(
    serve_model: Callable[..., Served], collect_sums: Callable[..., Ran], arguments: list[str], message: str
) -> None:
    """A verifier that cannot score the tasks ends the command with exit code 2 before anything is sent."""
    server = serve_model()
    assert_rejected_before_sending(collect_sums(server.url, *arguments), server, message)
