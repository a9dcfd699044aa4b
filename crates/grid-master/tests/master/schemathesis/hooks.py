"""Keeps schemathesis from locking itself out."""

import os

import schemathesis


@schemathesis.hook
def before_call(ctx, case, kwargs):
    # The token of its own calls, and the agent's: without them every further call would say 401 or 503 and nothing else.
    if case.operation.label == "DELETE /api/grid/tokens/{id}":
        if case.path_parameters.get("id") in os.environ["KEPT_TOKENS"].split(","):
            case.path_parameters["id"] = "none"
