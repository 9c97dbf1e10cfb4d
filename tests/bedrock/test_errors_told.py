"""Every error AWS is known to give, as a person reads it: what happened, and what helps.

Those of the texts are provoked at the simulated account and read off the command's stderr; those
that no request provokes are read from the answer AWS would send.
"""

from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from kimiya.bedrock.control import BotoControlPlane
from kimiya.cli.main import main
from kimiya.errors import KimiyaError
from kimiya.providers.simulated.bedrock import Policy
from kimiya.wire.aws_eventstream import encode_headers, seal
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from tests.bedrock.aws import K3, K25, NO_KEYS, NOVA, SONNET, Account, account

NO_POINTS = (
    'This model takes no cache points: set `cache.kind` of its card to "none" (or "implicit") in'
    " kimiya.toml, so that none are sent"
)
USE_PROFILE = "Use an inference profile: put a geography before the model id"
POINT = {"cachePoint": {"type": "default"}}
SAID = {"role": "user", "content": [{"text": "hi"}]}
THOUGHT = {"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}}
TOOLS = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}, POINT]}


def thinking(*content: Any) -> list[Any]:
    return [SAID, {"role": "assistant", "content": list(content)}, SAID]


@pytest.mark.parametrize(
    ("policy", "call", "told"),
    [
        (None, {"modelId": SONNET}, USE_PROFILE),
        (
            None,
            {"modelId": f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}"},
            USE_PROFILE,
        ),
        (None, {"modelId": "no.model"}, "Check the model id against the region's list"),
        (None, {"modelId": K25, "system": [{"text": "s"}, POINT]}, NO_POINTS),
        (None, {"modelId": f"us.{K3}", "system": [{"text": "s"}, POINT]}, NO_POINTS),
        (None, {"modelId": NOVA, "toolConfig": TOOLS}, NO_POINTS),
        (
            None,
            {"modelId": f"us.{SONNET}", "messages": thinking(THOUGHT, POINT)},
            "Put the cache mark before the reasoning, or on the last user message",
        ),
        (
            None,
            {"modelId": K25, "messages": thinking()},
            "Converse takes no empty message: give it text, or leave it out",
        ),
        (
            Policy(retained_models=frozenset({K25})),
            {"modelId": K25},
            "This is a setting of the AWS account: allow the model's data retention mode",
        ),
        (
            Policy(denied_models=frozenset({K25})),
            {"modelId": K25},
            "Ask for access to it in the Bedrock console of this region",
        ),
        (
            Policy(frozenset({"InvokeModel"})),
            {"modelId": K25},
            "Allow `bedrock:InvokeModel` and `bedrock:InvokeModelWithResponseStream`",
        ),
    ],
)
def test_what_the_runtime_refuses(policy: Policy | None, call: dict[str, Any], told: str) -> None:
    """The service's own words, from boto3, through our reading of them."""
    with account(policy) as aws:
        with pytest.raises(ClientError) as caught:
            aws.client("bedrock-runtime").converse(**{"messages": [SAID], **call})
        answer = caught.value.response
        head = {"x-amzn-errortype": answer["Error"]["Code"]}
        body = b'{"message": "%s"}' % answer["Error"]["Message"].encode()
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        error = BEDROCK_CONVERSE.decode_error(status, head, body)
        assert error.message.startswith(f"{answer['Error']['Code']}: {answer['Error']['Message']}")
        assert told in error.message


AGAIN = "Kimiya asks again by itself; if it stays, route to another model or region for now"


@pytest.mark.parametrize(
    ("status", "name", "message", "told"),
    [
        (403, "AccessDeniedException", "no", "Allow `bedrock:InvokeModel` on the model"),
        (400, "ValidationException", "topP is out of range", "`kimiya models` shows what"),
        (404, "ResourceNotFoundException", "no such", "`kimiya bedrock profiles list` shows"),
        (408, "ModelTimeoutException", "late", "Ask for less output at once, or for a stream"),
        (429, "ThrottlingException", "Too many tokens", "ask for a higher quota"),
        (429, "ModelNotReadyException", "cold", "The model is being loaded: try again"),
        (424, "ModelErrorException", "broke", AGAIN),
        (424, "ModelStreamErrorException", "broke", AGAIN),
        (500, "InternalServerException", "oops", AGAIN),
        (503, "ServiceUnavailableException", "busy", AGAIN),
        (400, "ServiceQuotaExceededException", "full", "Ask for a higher quota"),
        (400, "ConflictException", "busy", "Something else is changing the same thing"),
        (403, "ExpiredTokenException", "old", "Renew the AWS session"),
        (403, "UnrecognizedClientException", "who", "Check the AWS keys"),
        (403, "InvalidSignatureException", "skew", "that the machine's clock is right"),
        (403, "IncompleteSignatureException", "half", "Check the AWS keys"),
        (403, "MissingAuthenticationTokenException", "none", "Set AWS_BEARER_TOKEN_BEDROCK"),
        (429, "TooManyRequestsException", "slow", "slow"),
    ],
)
def test_names(status: int, name: str, message: str, told: str) -> None:
    body = b'{"message": "%s."}' % message.encode()
    error = BEDROCK_CONVERSE.decode_error(status, {"x-amzn-ErrorType".lower(): name}, body)
    assert error.message.startswith(f"{name}: {message}.")
    assert told in error.message


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("internalServerException", AGAIN),
        ("modelStreamErrorException", AGAIN),
        ("serviceUnavailableException", AGAIN),
        ("throttlingException", "ask for a higher quota"),
        ("validationException", "`kimiya models` shows what"),
    ],
)
def test_inside_a_stream(name: str, told: str) -> None:
    frame = {":message-type": "exception", ":exception-type": name}
    decoder = BEDROCK_CONVERSE.event_decoder()
    with pytest.raises(KimiyaError) as caught:
        decoder.feed(seal(encode_headers(frame), b'{"message": "it broke"}'))
    assert caught.value.message.startswith(name[0].upper() + name[1:] + ": it broke. ")
    assert told in caught.value.message


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def told_by(aws: Account, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """What ``kimiya`` prints on stderr."""
    code = main(["bedrock", *words, "--region", "us-east-1", "--endpoint-url", aws.url])
    return code, capsys.readouterr().err


SOURCE = f"arn:aws:bedrock:us-east-1::foundation-model/{K25}"
GONE = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/gone00000000"


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("profiles", "show", GONE), "`kimiya bedrock profiles list` shows"),
        (("profiles", "delete", GONE, "--yes"), "`kimiya bedrock profiles list` shows"),
        (("profiles", "tag", GONE, "a=b"), "`kimiya bedrock profiles list` shows"),
        (("profiles", "create", "taken", "--from", SOURCE), "Choose another name"),
        (("profiles", "create", "x", "--from", "arn:nothing"), "ValidationException"),
        (("profiles", "tag", "{taken}", "one more=1"), "take some off"),
        (("profiles", "resolve", "claude-sonet-4-5"), "claude-sonnet-4-5"),
        (("profiles", "create", "x", "--from", SOURCE, "--tag", "nothing"), "Write KEY=VALUE"),
    ],
)
def test_what_the_control_plane_refuses(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    with account() as aws:
        made = aws.client().create_inference_profile(
            inferenceProfileName="taken",
            modelSource={"copyFrom": SOURCE},
            tags=[{"key": f"k{n}", "value": "v"} for n in range(200)],
        )["inferenceProfileArn"]
        code, err = told_by(aws, capsys, *(w.replace("{taken}", made) for w in words))
        assert code in (1, 2)
        assert told in err
        assert err.startswith("kimiya: ")
        assert err.count("\n") == 1


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("ListInferenceProfiles", ("profiles", "list")),
        ("GetInferenceProfile", ("profiles", "show", f"us.{SONNET}")),
        ("CreateInferenceProfile", ("profiles", "create", "x", "--from", SOURCE)),
        ("DeleteInferenceProfile", ("profiles", "delete", GONE, "--yes")),
        ("TagResource", ("profiles", "tag", GONE, "a=b")),
        ("UntagResource", ("profiles", "tag", GONE, "--remove", "a")),
    ],
)
def test_iam_is_told_by_the_action_to_allow(
    capsys: pytest.CaptureFixture[str], action: str, words: tuple[str, ...]
) -> None:
    with account(Policy(frozenset({action}))) as aws:
        code, err = told_by(aws, capsys, *words)
        assert code == 1
        assert f"Allow `bedrock:{action}` in the IAM policy of who runs Kimiya" in err


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def call(**_: Any) -> Any:
            raise self._error

        return call


def named(name: str) -> BotoCoreError:
    return type(name, (BotoCoreError,), {"fmt": "it failed"})()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("NoCredentialsError", "`aws configure` or `aws sso login`"),
        ("UnauthorizedSSOTokenError", "`aws sso login`"),
        ("TokenRetrievalError", "`aws sso login`"),
        ("EndpointConnectionError", "Check the network, or give --endpoint-url"),
        ("ReadTimeoutError", "Check the network"),
        ("InvalidRegionError", "Give one such as us-east-1"),
        ("ParamValidationError", "AWS takes no such call"),
    ],
)
def test_what_botocore_could_not_ask(name: str, told: str) -> None:
    control = BotoControlPlane("us-east-1")
    control._clients["bedrock"] = Failing(named(name))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(KimiyaError) as caught:
        control.profile("x")
    assert told in caught.value.message
