"""Who calls Bedrock: a bearer key, or keys from botocore's chain, found when first needed.

The chain may read files, run programs or ask an instance's metadata service, so it runs on a thread
of its own, never on the event loop; temporary keys are renewed there too, in time.
"""

import asyncio
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from kimiya.errors import Unauthorized
from kimiya.providers.sigv4 import AwsKeys

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"


class BearerToken(Struct, frozen=True):
    """A Bedrock API key, sent as it is."""

    token: str

    def __repr__(self) -> str:
        """Nothing of the token."""
        return "BearerToken(...)"


class CredentialSource(Protocol):
    """Where credentials come from."""

    async def current(self) -> AwsKeys | BearerToken:
        """Credentials valid now; called before every request, so it must be quick.

        Raises:
            Unauthorized: There are none.
        """
        ...


class FixedCredentials:
    """Credentials given outright."""

    def __init__(self, credentials: AwsKeys | BearerToken) -> None:
        self._credentials = credentials

    async def current(self) -> AwsKeys | BearerToken:
        """Always the same."""
        return self._credentials


class BotocoreCredentials:
    """As AWS SDKs decide: the bearer key if the environment has one, else botocore's chain.

    The chain is environment, shared files, SSO, processes, containers and instances.

    Args:
        profile: Name of a profile in the shared files, which then wins over a bearer key; ``None``
            takes the default.
    """

    def __init__(self, profile: str | None = None) -> None:
        self._profile = profile
        self._found: Any = None
        self._keys: AwsKeys | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> AwsKeys | BearerToken:
        """The bearer key, or keys of the chain, renewed where they are about to expire."""
        token = os.environ.get(BEARER_VARIABLE, "").strip()
        if token and self._profile is None:
            return BearerToken(token)
        if self._keys is None or self._is_stale():
            async with self._lock:
                if self._keys is None or self._is_stale():
                    self._keys = await asyncio.to_thread(self._resolve)
        return self._keys

    def _is_stale(self) -> bool:
        needs = getattr(self._found, "refresh_needed", None)
        return bool(needs and needs())

    def _resolve(self) -> AwsKeys:
        # botocore is slow to load and has no types, so it is met here and nowhere else.
        session: Any = import_module("botocore.session")
        errors: Any = import_module("botocore.exceptions")
        try:
            if self._found is None:
                self._found = session.Session(profile=self._profile).get_credentials()
            if self._found is None:
                raise Unauthorized(_NO_CREDENTIALS)
            frozen = self._found.get_frozen_credentials()
        except errors.BotoCoreError as error:
            raise Unauthorized(f"AWS credentials cannot be had: {error}") from error
        if not frozen.access_key or not frozen.secret_key:
            raise Unauthorized(_NO_CREDENTIALS)
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token or None)


_NO_CREDENTIALS = (
    f"no AWS credentials were found; set {BEARER_VARIABLE}, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or sign in with `aws configure` or `aws sso login`"
)


if TYPE_CHECKING:
    _fixed: CredentialSource = FixedCredentials(BearerToken(""))
    _chain: CredentialSource = BotocoreCredentials()
