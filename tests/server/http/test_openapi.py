"""Requests made from the OpenAPI document, right and wrong ones: nothing breaks the server or the document's word."""

import re
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Paths of files, addresses in memory, names of modules, and lines of a traceback.
LEAK = re.compile(
    r"/(?:home|work|tmp|usr|root|opt|var|etc)/|0x[0-9a-f]{6}|Traceback|File \\?\"|(?:server|engine)\.\w+\."
)
QUICKLY = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(fake):
    return schemathesis.openapi.from_url(f"{fake.url}/openapi.json")


def ask_all(operation, mode: GenerationMode, url: str) -> Counter:
    """Send requests to one operation and check every answer; how often there was which status."""
    statuses: Counter = Counter()

    @QUICKLY
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = "org/fake"  # no random name is that of a model
        response = case.call(base_url=url, timeout=20)
        case.validate_response(response, checks=CHECKS)
        assert response.status_code < 400 or not LEAK.search(response.text), response.text
        statuses[response.status_code] += 1

    ask()
    return statuses


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda each: each.value)
def test_whatever_is_sent_is_answered_as_the_document_says(fake, document, mode):
    operations = [each.ok() for each in document.get_all_operations()]
    if mode is GenerationMode.NEGATIVE:  # a path alone cannot be wrong
        operations = [each for each in operations if each.method == "post" and each.body]
    statuses = {each.label: ask_all(each, mode, fake.url) for each in operations}
    assert set(statuses) >= {"POST /chat/completions", "POST /completions", "POST /embeddings", "POST /responses"}
    answered = sum(counts[200] > 0 for label, counts in statuses.items() if label.startswith("POST"))
    assert answered >= (3 if mode is GenerationMode.POSITIVE else 0)
    with fake.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
