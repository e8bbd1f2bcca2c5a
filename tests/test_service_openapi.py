"""Requests made at random from the service's own description: no failure of its own, no answer it does not describe."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from service import running

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 6


@pytest.mark.slow
def test_random_requests_get_answers_as_described(digit_screen, tmp_path):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
    asked = set()
    with running(tmp_path, digit_screen, "--store", f"sqlite:///{tmp_path / 'events.db'}") as process:
        schema = schemathesis.openapi.from_url(f"{process.url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def ask(case):
                if "name" in (case.path_parameters or {}):
                    case.path_parameters["name"] = "digits"
                # In next to no time there is no verdict, and 503 is the right answer.
                (case.query or {}).pop("seconds", None)
                case.call_and_validate(checks=checks)
                asked.add(case.operation.label)

            ask()
    assert len(asked) >= 20
    assert "exception" not in process.log.read_text()
