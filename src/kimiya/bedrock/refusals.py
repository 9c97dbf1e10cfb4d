"""What the control plane's errors mean, with the remedy: IAM words name the action to allow."""

import re
from collections.abc import Mapping

from kimiya.errors import (
    ConfigError,
    InvalidRequest,
    KimiyaError,
    ProviderUnreachable,
    RateLimited,
    Unauthorized,
)
from kimiya.wire.bedrock_converse_errors import describe

_ACTION = re.compile(r"is not authorized to perform: (?P<action>[a-z]+:[A-Za-z]+)")
_REMEDIES: Mapping[str, str] = {
    "ConflictException": "Choose another name, or delete the profile of that name first",
    "ResourceNotFoundException": "`kimiya bedrock profiles list` shows what this region has;"
    " profiles of other regions are not seen from here",
    "ServiceQuotaExceededException": "Delete profiles that are no longer used, or ask for a higher"
    " quota in the Service Quotas console",
    "TooManyTagsException": "A profile takes 200 tags at most; take some off with"
    " `kimiya bedrock profiles tag ARN --remove KEY`",
}


def explain(code: str, message: str, status: int | None) -> KimiyaError:
    """The error for one of the control plane, named and with what helps."""
    found = _ACTION.search(message)
    if found is not None:
        remedy = f"Allow `{found['action']}` in the IAM policy of who runs Kimiya"
        return Unauthorized(
            f"{code}: {message.rstrip('.')}. {remedy}", status=status, code=code or None
        )
    if code in _REMEDIES:
        kind = RateLimited if code == "ServiceQuotaExceededException" else InvalidRequest
        return kind(f"{code}: {message.rstrip('.')}. {_REMEDIES[code]}", status=status, code=code)
    return describe(code, message, status)


def unreachable(error: Exception, region: str) -> KimiyaError:
    """What botocore could not even ask."""
    name = type(error).__name__
    if "Credentials" in name or "Token" in name or "SSO" in name:
        return Unauthorized(
            f"AWS credentials cannot be had: {error}. Sign in with `aws configure` or"
            " `aws sso login`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if name in ("InvalidRegionError", "NoRegionError", "InvalidEndpointConfigurationError"):
        return ConfigError(
            f"{region!r} is not an AWS region", key="region", remedy="Give one such as us-east-1"
        )
    if name == "ParamValidationError":
        return InvalidRequest(f"AWS takes no such call: {' '.join(str(error).split())}")
    return ProviderUnreachable(
        f"Bedrock's control plane in {region} cannot be reached: {error}. Check the network, or"
        " give --endpoint-url"
    )
