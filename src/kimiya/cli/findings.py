"""What ``kimiya doctor`` looks at. Nothing is changed, and no key is ever printed or sent."""

import asyncio
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from kimiya.assembly import installed_model
from kimiya.catalog.hosts import known_hosts
from kimiya.config import Config, ProviderConfig, effective_config, load_config
from kimiya.config.discovery import has_aws_credentials, region_of
from kimiya.errors import ConfigError
from kimiya.gateway.keys import KeyStore, is_loopback
from kimiya.providers import local_model

_CONNECT_S = 3.0

_EXTRAS: Mapping[str, tuple[str, str]] = {
    "local": ("xllamacpp", "the embedded model"),
    "otel": ("opentelemetry.sdk", "spans"),
    "postgres": ("asyncpg", "more than one replica"),
    "prices": ("genai_prices", "prices of models outside the catalogue"),
    "strands": ("strands", "Strands agents"),
    "train": ("torch", "training"),
}
"""Extra to the module that tells it is there, and what it is for."""

_CLIENTS: Mapping[str, str] = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
}


class Finding(Struct, frozen=True, kw_only=True):
    """One thing looked at."""

    state: Literal["ok", "missing", "wrong"]
    """``missing`` is optional and absent; ``wrong`` was asked for and does not work."""
    what: str
    detail: str
    remedy: str = ""
    is_host: bool = False
    """It answers for a host of models."""


def findings(
    config_file: str | None, *, connects: bool, env: Mapping[str, str] | None = None
) -> list[Finding]:
    """Everything, in the order a newcomer needs it."""
    env = os.environ if env is None else env
    out = [_python()]
    config = Config()
    try:
        config = load_config(config_file, env)
        where = config.file or "none, which is fine"
        out.append(Finding(state="ok", what="configuration", detail=where))
    except ConfigError as error:
        out.append(Finding(state="wrong", what="configuration", detail=error.message))
    out += _keys_found(env)
    out += _hosts(config, env, connects=connects)
    out += [_embedded_model(), *_extras(), *_clients(), _gateway_keys(config)]
    return out


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    kimiya = importlib.metadata.version("kimiya")
    return Finding(state="ok", what="kimiya", detail=f"{kimiya} on Python {version}")


def _keys_found(env: Mapping[str, str]) -> Iterator[Finding]:
    for host in known_hosts():
        if host.api_key_env is None or not host.discovered:
            continue
        if env.get(host.api_key_env, "").strip():
            yield Finding(state="ok", what=f"key for {host.name}", detail=host.api_key_env)
        else:
            yield Finding(
                state="missing",
                what=f"key for {host.name}",
                detail=f"{host.api_key_env} is not set",
                remedy=f"export {host.api_key_env}=...",
            )
    if not has_aws_credentials(env):
        yield Finding(
            state="missing",
            what="key for bedrock",
            detail="no AWS credentials",
            remedy="aws configure, or export AWS_BEARER_TOKEN_BEDROCK=...",
        )
    elif region_of(env) is None:
        yield Finding(
            state="missing",
            what="key for bedrock",
            detail="AWS credentials without a region",
            remedy="export AWS_REGION=us-east-1",
        )
    else:
        yield Finding(state="ok", what="key for bedrock", detail=f"region {region_of(env)}")


def _hosts(config: Config, env: Mapping[str, str], *, connects: bool) -> Iterator[Finding]:
    try:
        providers = effective_config(config, env, gguf=installed_model()).providers
    except ConfigError as error:
        yield Finding(state="wrong", what="hosts", detail=error.message)
        return
    for name, provider in providers.items():
        yield _CHECKS[provider.kind](f"host {name}", provider, env, connects)


def _http_host(
    what: str, provider: ProviderConfig, env: Mapping[str, str], connects: bool
) -> Finding:
    try:
        provider.api_key(env)
    except ConfigError as error:
        return Finding(
            state="wrong",
            what=what,
            detail=f"{provider.api_key_env} is not set",
            remedy=error.remedy or "",
        )
    address = provider.base_url or ""
    if connects and (trouble := _trouble(address)):
        return Finding(
            state="wrong",
            what=what,
            detail=f"{address} does not answer ({trouble})",
            remedy="start it, or correct base_url",
        )
    return Finding(state="ok", what=what, detail=address, is_host=True)


def _bedrock_host(
    what: str, provider: ProviderConfig, env: Mapping[str, str], connects: bool
) -> Finding:
    if not has_aws_credentials(env):
        # botocore may still find some on the machine itself (an instance role); nothing is asked.
        return Finding(
            state="wrong", what=what, detail="no AWS credentials found", remedy="aws configure"
        )
    detail = provider.endpoint_url or f"region {provider.region}"
    return Finding(state="ok", what=what, detail=detail, is_host=True)


def _local_host(
    what: str, provider: ProviderConfig, env: Mapping[str, str], connects: bool
) -> Finding:
    path = Path(provider.model_path).expanduser() if provider.model_path else installed_model()
    if path is None or not path.is_file():
        return Finding(
            state="wrong", what=what, detail="no model file", remedy="kimiya local install"
        )
    return Finding(state="ok", what=what, detail=str(path), is_host=True)


def _simulated_host(
    what: str, provider: ProviderConfig, env: Mapping[str, str], connects: bool
) -> Finding:
    script = provider.script or ""
    if not Path(script).expanduser().is_file():
        return Finding(
            state="wrong", what=what, detail=f"no file {script}", remedy="correct `script`"
        )
    return Finding(state="ok", what=what, detail=script, is_host=True)


_Check = Callable[[str, ProviderConfig, Mapping[str, str], bool], Finding]
_CHECKS: Mapping[str, _Check] = {
    "openai": _http_host,
    "anthropic": _http_host,
    "bedrock": _bedrock_host,
    "local": _local_host,
    "simulated": _simulated_host,
}


def _trouble(address: str) -> str | None:
    """Why no connection can be opened; ``None`` where one can. Nothing is sent."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)

    async def knock() -> None:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
        await writer.wait_closed()

    try:
        asyncio.run(knock())
    except TimeoutError:
        return f"no connection within {_CONNECT_S:g} s"
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None


def _embedded_model() -> Finding:
    if local_model.is_installed():
        return Finding(state="ok", what="embedded model", detail=str(local_model.model_path()))
    return Finding(
        state="missing",
        what="embedded model",
        detail="not installed (98 MB)",
        remedy="kimiya local install",
    )


def _extras() -> Iterator[Finding]:
    for extra, (module, purpose) in _EXTRAS.items():
        if _is_there(module):
            yield Finding(state="ok", what=f"extra {extra}", detail=purpose)
        else:
            yield Finding(
                state="missing",
                what=f"extra {extra}",
                detail=purpose,
                remedy=f"pip install 'kimiya[{extra}]'",
            )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


def _clients() -> Iterator[Finding]:
    has_npm = shutil.which("npm") is not None
    for name, command in _CLIENTS.items():
        found = shutil.which(name)
        if found:
            yield Finding(state="ok", what=f"client {name}", detail=found)
        else:
            remedy = command if has_npm else f"install Node.js, then {command}"
            yield Finding(
                state="missing", what=f"client {name}", detail="not on the path", remedy=remedy
            )


def _gateway_keys(config: Config) -> Finding:
    gateway = config.gateway
    try:
        count = sum(key.is_active for key in KeyStore(Path(gateway.keys_file).expanduser()).list())
    except ConfigError as error:
        return Finding(state="wrong", what="gateway keys", detail=error.message)
    if count:
        return Finding(state="ok", what="gateway keys", detail=f"{count} active")
    if is_loopback(gateway.host):
        return Finding(state="ok", what="gateway keys", detail="none: it listens on loopback only")
    return Finding(
        state="wrong",
        what="gateway keys",
        detail=f"none, but gateway.host is {gateway.host}",
        remedy="kimiya keys create NAME",
    )
