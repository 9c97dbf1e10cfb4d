"""The control plane of the simulated Bedrock: HTTP calls on profiles, tags and models, answered.

Shapes: service model ``bedrock`` 2023-04-20 as of botocore 1.44.5. Nothing here opens a socket.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct

from kimiya.providers.simulated.bedrock_models import HostedModel, partition
from kimiya.providers.simulated.bedrock_profiles import ProfileStore, StoredProfile, Wanted
from kimiya.providers.simulated.bedrock_refusal import Refusal, denied, invalid, missing

_PROFILES = "/inference-profiles"
_MODELS = "/foundation-models"
_DEFAULT_PAGE = 100


class ControlCall(Struct, frozen=True):
    """A call of the control plane."""

    method: str
    path: str
    """Percent-encoded."""
    query: str
    body: bytes
    region: str
    now: datetime


Answered: TypeAlias = tuple[int, Any]
"""Status and JSON value."""

_ACTIONS: Mapping[tuple[str, str], str] = {
    ("GET", _PROFILES): "ListInferenceProfiles",
    ("POST", _PROFILES): "CreateInferenceProfile",
    ("GET", _PROFILES + "/"): "GetInferenceProfile",
    ("DELETE", _PROFILES + "/"): "DeleteInferenceProfile",
    ("POST", "/tagResource"): "TagResource",
    ("POST", "/untagResource"): "UntagResource",
    ("POST", "/listTagsForResource"): "ListTagsForResource",
    ("GET", _MODELS): "ListFoundationModels",
    ("GET", _MODELS + "/"): "GetFoundationModel",
}


def action_of(method: str, path: str) -> str | None:
    """The action a call asks for; ``None`` where the control plane has no such path.

    >>> action_of("GET", "/inference-profiles/us.x"), action_of("GET", "/v1/models")
    ('GetInferenceProfile', None)
    """
    for stem in (_PROFILES, _MODELS):
        if path.startswith(stem + "/"):
            return _ACTIONS.get((method, stem + "/"))
    return _ACTIONS.get((method, path))


class ControlPlane:
    """Answers calls of the control plane on one store."""

    def __init__(self, store: ProfileStore, may: Callable[[str], bool]) -> None:
        self._store = store
        self._may = may

    def answer(self, call: ControlCall) -> Answered:
        """Status and body.

        Raises:
            Refusal: As the service refuses.
        """
        action = action_of(call.method, call.path)
        assert action is not None
        if not self._may(action):
            raise not_allowed(action, call.region)
        return getattr(self, _METHODS[action])(call)

    def _list(self, call: ControlCall) -> Answered:
        query = parse_qs(call.query)
        kind = query.get("type", ["SYSTEM_DEFINED"])[0]
        if kind not in ("SYSTEM_DEFINED", "APPLICATION"):
            raise invalid(
                f"1 validation error detected: {kind[:80]!r} is no inference profile type"
            )
        size = _number(query.get("maxResults", [str(_DEFAULT_PAGE)])[0])
        start = _place(query.get("nextToken", [""])[0])
        every = self._store.listed(call.region, kind)
        page = {"inferenceProfileSummaries": [_shown(p) for p in every[start : start + size]]}
        if start + size < len(every):
            token = base64.urlsafe_b64encode(str(start + size).encode()).decode()
            return 200, {**page, "nextToken": token}
        return 200, page

    def _get(self, call: ControlCall) -> Answered:
        return 200, _shown(self._store.found(call.region, _last(call)))

    def _create(self, call: ControlCall) -> Answered:
        fields = _fields(call)
        source = cast("dict[str, Any]", fields.get("modelSource") or {})
        wanted = Wanted(
            name=_text(fields, "inferenceProfileName"),
            copy_from=_text(source, "copyFrom"),
            description=_maybe_text(fields, "description"),
            token=_maybe_text(fields, "clientRequestToken"),
            tags=_tags(fields),
        )
        made = self._store.create(call.region, wanted, call.now)
        return 201, {"inferenceProfileArn": made.arn, "status": "ACTIVE"}

    def _delete(self, call: ControlCall) -> Answered:
        self._store.delete(call.region, _last(call))
        return 200, {}

    def _tag(self, call: ControlCall) -> Answered:
        fields = _fields(call)
        self._store.tag(call.region, _text(fields, "resourceARN"), _tags(fields), call.now)
        return 200, {}

    def _untag(self, call: ControlCall) -> Answered:
        fields = _fields(call)
        keys: Any = fields.get("tagKeys")
        named = [str(key) for key in keys] if isinstance(keys, list) else []  # pyright: ignore
        self._store.untag(call.region, _text(fields, "resourceARN"), named)
        return 200, {}

    def _tags_of(self, call: ControlCall) -> Answered:
        profile = self._store.found(call.region, _text(_fields(call), "resourceARN"))
        held = self._store.tags.get(profile.arn, {})
        return 200, {"tags": [{"key": key, "value": value} for key, value in held.items()]}

    def _models(self, call: ControlCall) -> Answered:
        query = parse_qs(call.query)
        wanted = query.get("byInferenceType", [""])[0]
        rows = [
            row
            for model in self._store.models.values()
            if (row := _model_row(model, call.region))["inferenceTypesSupported"]
            and (not wanted or wanted in row["inferenceTypesSupported"])
        ]
        return 200, {"modelSummaries": rows}

    def _model(self, call: ControlCall) -> Answered:
        model = self._store.models.get(_last(call).rpartition("/")[2])
        if model is None:
            raise missing("Could not resolve the foundation model from the model identifier.")
        return 200, {"modelDetails": _model_row(model, call.region)}


_METHODS: Mapping[str, str] = {
    "ListInferenceProfiles": "_list",
    "GetInferenceProfile": "_get",
    "CreateInferenceProfile": "_create",
    "DeleteInferenceProfile": "_delete",
    "TagResource": "_tag",
    "UntagResource": "_untag",
    "ListTagsForResource": "_tags_of",
    "ListFoundationModels": "_models",
    "GetFoundationModel": "_model",
}


def not_allowed(action: str, region: str) -> Refusal:
    """What IAM answers."""
    who = f"arn:{partition(region)}:iam::111122223333:user/simulated"
    return denied(
        f"User: {who} is not authorized to perform: bedrock:{action} because no identity-based"
        f" policy allows the bedrock:{action} action"
    )


def _shown(profile: StoredProfile) -> dict[str, Any]:
    shown = {
        "inferenceProfileName": profile.name,
        "inferenceProfileArn": profile.arn,
        "inferenceProfileId": profile.profile_id,
        "models": [{"modelArn": arn} for arn in profile.model_arns],
        "status": "ACTIVE",
        "type": profile.kind,
        "createdAt": profile.created_at,
        "updatedAt": profile.updated_at,
    }
    return shown if profile.description is None else {**shown, "description": profile.description}


def _model_row(model: HostedModel, region: str) -> dict[str, Any]:
    types = ["ON_DEMAND"] if region in model.in_region else []
    return {
        "modelArn": f"arn:{partition(region)}:bedrock:{region}::foundation-model/{model.base_id}",
        "modelId": model.base_id,
        "modelName": model.name,
        "providerName": model.vendor.capitalize(),
        "inferenceTypesSupported": types + (["INFERENCE_PROFILE"] if model.profiles else []),
        "responseStreamingSupported": True,
        "inputModalities": ["TEXT"],
        "outputModalities": ["TEXT"],
        "modelLifecycle": {"status": "ACTIVE"},
    }


def _fields(call: ControlCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("The request body is not valid JSON.") from None


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key) if isinstance(fields, Mapping) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(value, str) or not value:
        raise invalid(f"1 validation error detected: {key} must not be null")
    return value


def _maybe_text(fields: Mapping[str, Any], key: str) -> str | None:
    return _text(fields, key) if fields.get(key) is not None else None


def _tags(fields: Mapping[str, Any]) -> dict[str, str]:
    pairs: Any = fields.get("tags")
    try:
        return {str(pair["key"]): str(pair["value"]) for pair in pairs or ()}
    except (TypeError, KeyError):
        raise invalid("1 validation error detected: tags are not pairs of key and value") from None


def _last(call: ControlCall) -> str:
    # An ARN is sent with its slash escaped or not, depending on the SDK.
    return unquote(call.path.split("/", 2)[2])


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise invalid("1 validation error detected: maxResults must be from 1 to 1000")
    return int(text)


def _place(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token)) if token else 0
    except (binascii.Error, ValueError):
        raise invalid("The pagination token is not valid.") from None
