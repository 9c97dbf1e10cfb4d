"""The gateway's published description, OpenAPI 3.1.

Bodies are described as far as the gateway itself reads them: required fields and their types. What
hosts add to a dialect is allowed everywhere, because unknown fields are kept.
"""

from typing import Any

from kimiya import __version__

Json = dict[str, Any]

_TEXT: Json = {"type": "string", "minLength": 1}
_CHAT_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "oneOf": [
                _TEXT,
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": _TEXT},
                    },
                },
            ]
        },
    },
}
_TEMPERATURE: Json = {"type": "number", "minimum": 0, "maximum": 1}
_MAX_TOKENS: Json = {"type": "integer", "minimum": 1, "maximum": 64}

_CHAT_BODY: Json = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": _TEXT,
        "messages": {"type": "array", "minItems": 1, "items": _CHAT_MESSAGE},
        "stream": {"type": "boolean"},
        "temperature": _TEMPERATURE,
        "max_tokens": _MAX_TOKENS,
        "tools": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "function"],
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {
                            "name": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$"},
                            "description": {"type": "string"},
                            "parameters": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}
_RESPONSES_BODY: Json = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": _TEXT,
        "input": _TEXT,
        "instructions": {"type": "string"},
        "stream": {"type": "boolean"},
        "temperature": _TEMPERATURE,
        "max_output_tokens": _MAX_TOKENS,
    },
}
_ANTHROPIC_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": _TEXT},
}
_MESSAGES_BODY: Json = {
    "type": "object",
    "required": ["model", "messages", "max_tokens"],
    "properties": {
        "model": _TEXT,
        "messages": {"type": "array", "minItems": 1, "items": _ANTHROPIC_MESSAGE},
        "max_tokens": _MAX_TOKENS,
        "system": {"type": "string"},
        "stream": {"type": "boolean"},
        "temperature": _TEMPERATURE,
    },
}
_CONVERSE_BODY: Json = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"enum": ["user", "assistant"]},
                    "content": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["text"],
                            "properties": {"text": _TEXT},
                        },
                    },
                },
            },
        },
        "system": {
            "type": "array",
            "items": {"type": "object", "required": ["text"], "properties": {"text": _TEXT}},
        },
        "inferenceConfig": {
            "type": "object",
            "properties": {"maxTokens": _MAX_TOKENS, "temperature": _TEMPERATURE},
        },
    },
}

_ERROR_STATUSES = {
    "400": "The body or the request cannot be used",
    "401": "The key is missing or unknown",
    "403": "The host refuses the credentials",
    "404": "No model has this name",
    "413": "The body is too large",
    "429": "The host or a budget refuses for now",
    "431": "The header fields are too large",
    "500": "Kimiya failed inside",
    "502": "The host could not be reached or read",
    "503": "The host or this gateway is overloaded",
    "504": "The host did not answer in time",
    "529": "The host is overloaded (Anthropic's status)",
}


def openapi_document() -> Json:
    """The whole description.

    >>> sorted(openapi_document()["paths"])[:3]
    ['/healthz', '/metrics', '/model/{model}/converse']
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kimiya gateway",
            "version": __version__,
            "description": "Any OpenAI, Anthropic or Bedrock client, any host of Kimi or Claude.",
        },
        "paths": {
            "/v1/chat/completions": _call("OpenAI Chat Completions", _CHAT_BODY),
            "/v1/responses": _call("OpenAI Responses", _RESPONSES_BODY),
            "/v1/messages": _call("Anthropic Messages", _MESSAGES_BODY),
            "/v1/messages/count_tokens": _call(
                "Count the input tokens of an Anthropic request",
                {**_MESSAGES_BODY, "required": ["model", "messages"]},
                streams=False,
            ),
            "/model/{model}/converse": _call("Bedrock Converse", _CONVERSE_BODY, in_path=True),
            "/model/{model}/converse-stream": _call(
                "Bedrock ConverseStream", _CONVERSE_BODY, in_path=True
            ),
            "/v1/models": _page("The names a client may ask for", "application/json"),
            "/healthz": _page("Whether the process answers", "application/json"),
            "/metrics": _page("Prometheus metrics", "text/plain"),
        },
    }


def _call(summary: str, body: Json, *, in_path: bool = False, streams: bool = True) -> Json:
    content: Json = {"application/json": {}}
    if streams:
        content["text/event-stream"] = {}
        content["application/vnd.amazon.eventstream"] = {}
    errors: Json = {
        status: {"description": text, "content": {"application/json": {}}}
        for status, text in _ERROR_STATUSES.items()
    }
    operation: Json = {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The reply", "content": content}, **errors},
    }
    if in_path:
        operation["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": _TEXT}
        ]
    return {"post": operation}


def _page(summary: str, media_type: str) -> Json:
    responses: Json = {
        "200": {"description": summary, "content": {media_type: {}}},
        "401": {"description": _ERROR_STATUSES["401"], "content": {"application/json": {}}},
    }
    return {"get": {"summary": summary, "responses": responses}}
