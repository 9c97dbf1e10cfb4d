"""Signatures agree with botocore's for whatever is sent."""

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimiya.providers.sigv4 import AwsKeys, Outgoing, Scope, sign

LAW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No limit on time: what a law says does not depend on how busy the machine is."""

words = st.text("abcXYZ019-_.", min_size=1, max_size=20)
segments = st.text("aZ0-_.~:/ +%é", min_size=1, max_size=20).map(lambda text: quote(text, safe=""))
headers = st.dictionaries(
    st.sampled_from(["content-type", "x-amz-target", "x-custom", "accept"]),
    st.text("abc ;=/*", max_size=12),
)


@LAW
@given(
    method=st.sampled_from(["GET", "POST"]),
    path=st.lists(segments, max_size=4),
    query=st.lists(st.tuples(segments, segments), max_size=3, unique=True),
    host=st.sampled_from(
        [
            "https://bedrock-runtime.us-east-1.amazonaws.com",
            "http://127.0.0.1:8080",
            "https://[::1]:9",
            "https://h:443",
        ]
    ),
    body=st.binary(max_size=100),
    given_headers=headers,
    keys=st.builds(AwsKeys, words, words, st.none() | words),
    scope=st.builds(Scope, words, words),
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),
)
def test_agrees_with_botocore(
    method: str, path: list[str], query: list[tuple[str, str]], host: str, body: bytes,
    given_headers: dict[str, str], keys: AwsKeys, scope: Scope, moment: datetime,
) -> None:  # fmt: skip
    url = f"{host}/{'/'.join(path)}"
    if query:
        url += "?" + "&".join(f"{name}={value}" for name, value in query)
    request = AWSRequest(method, url, given_headers, body)
    credentials = Credentials(keys.access_key, keys.secret_key, keys.session_token)
    with patch.object(auth, "get_current_datetime", lambda *_: moment):
        auth.SigV4Auth(credentials, scope.service, scope.region).add_auth(request)

    signed = sign(
        Outgoing(method, url, body, given_headers), keys, scope, moment.replace(tzinfo=UTC)
    )

    expected = {name.lower(): value for name, value in request.headers.items()}
    assert signed == expected


def test_secrets_do_not_show() -> None:
    keys = AwsKeys("AKIAABCDEFGHIJKLMNOP", "very-secret", "also-secret")
    assert repr(keys) == "AwsKeys(AKIA...)"
