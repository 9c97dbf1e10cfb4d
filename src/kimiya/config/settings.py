"""What can be configured, one frozen struct for each table of ``kimiya.toml``.

Every field has a default that is safe on a laptop, so that an empty file, or none, works. Secrets
are never fields: a provider names the environment variable that holds its key.
"""

from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from kimiya.catalog.card import DialectName
from kimiya.core.exchange import Mode
from kimiya.errors import ConfigError

ProviderKind: TypeAlias = Literal["openai", "anthropic", "bedrock", "local", "nano", "simulated"]


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[gateway]``: the address clients point at."""

    host: str = "127.0.0.1"
    """Any other than loopback needs a key made by ``kimiya keys create``."""
    port: int = 8484
    """0 lets the system choose."""
    workers: int = 1
    """Processes; one per core for throughput."""
    keys_file: str = "~/.config/kimiya/keys.json"
    """Where keys are kept, hashed."""
    max_body_bytes: int = 32 * 1024 * 1024
    max_streams: int = 512
    """Calls in flight at once; one more is told to come back."""
    drain_s: float = 30.0
    """Seconds open calls get after SIGTERM."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = False
    """One line for every call."""


class TimeoutsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[providers.NAME.timeouts]``: how long each phase of a call may take, in seconds."""

    connect_s: float = 10.0
    head_s: float = 600.0
    """To the first byte of the answer: a whole reply comes only when the model is done."""
    idle_s: float = 120.0
    """Between two pieces of a stream."""
    total_s: float | None = None


class ProviderConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[providers.NAME]``: one host of models and how to reach it."""

    kind: ProviderKind
    host: str | None = None
    """Whose rows of the catalogue hold here: ``moonshot``, ``vllm``, ``sglang`` and so on. Known
    from ``base_url`` for public hosts; else the provider's own name."""
    base_url: str | None = None
    api_key_env: str | None = None
    """The environment variable that holds the key."""
    headers: Mapping[str, str] = {}
    """Sent with every call; never credentials."""
    dialect: DialectName | None = None
    """Which one to speak, where the host speaks several."""
    region: str | None = None
    """For Bedrock; else ``AWS_REGION``."""
    endpoint_url: str | None = None
    """For Bedrock: another address than the region's own."""
    control_endpoint_url: str | None = None
    """For Bedrock: another address of its control plane; a loopback ``endpoint_url`` is both."""
    data_residency: Literal["region", "geography", "global"] | None = None
    """For Bedrock: where a call may be answered. Unset takes ids as written, and seeks a profile
    for a bare id within the region's geography only."""
    base_models: Mapping[str, str] = {}
    """For Bedrock: ARN of an application inference profile to the model behind it."""
    script: str | None = None
    """For ``simulated``: the file of scripted replies."""
    seed: int = 0
    """For ``simulated``: of its faults."""
    model_path: str | None = None
    """For ``local``: a GGUF file, none means the embedded model. For ``nano``: a folder that
    ``kimiya train`` wrote."""
    slots: int = 2
    """For ``local``: replies made at once."""
    context_tokens: int | None = None
    """For ``local``: window of each slot."""
    proxy: str | None = None
    ca_file: str | None = None
    """PEM file of a private certificate authority."""
    timeouts: TimeoutsConfig = TimeoutsConfig()

    def api_key(self, env: Mapping[str, str]) -> str | None:
        """The key, from the variable ``api_key_env`` names; ``None`` where none is named.

        Raises:
            ConfigError: The variable is not set, or empty.
        """
        if self.api_key_env is None:
            return None
        key = env.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"the variable {self.api_key_env} is not set",
                key="api_key_env",
                remedy=f"export {self.api_key_env}=... or take the line out if the host asks for"
                " no key",
            )
        return key


class RouteConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[routes.NAME]``: what a model name stands for; ``*`` in the name matches anything."""

    targets: tuple[str, ...]
    """``provider:model`` each, in the order they are tried."""
    retries: int = 2
    """Repeats at one target before the next is tried."""


class LedgerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[ledger]``: where what calls cost is kept."""

    enabled: bool = True
    path: str = "~/.local/share/kimiya/ledger.db"
    """SQLite file, for one gateway on one machine."""
    postgres_env: str | None = None
    """The variable that holds a PostgreSQL address (``postgresql://...``), for several replicas."""
    spool: str = "~/.local/share/kimiya/spool"
    """Folder where records wait for the store; on a local disk."""
    when_full: Literal["refuse", "go_on"] = "go_on"
    """What becomes of calls while the store is away and the spool is full."""
    when_away: Literal["refuse", "go_on"] = "refuse"
    """What becomes of calls under a budget while its counters cannot be reached."""
    emf: str | None = None
    """File that gets a line of CloudWatch's embedded metric format for every call, ``-`` for
    stdout; none writes none."""
    emf_namespace: str = "Kimiya"
    emf_tags: tuple[str, ...] = ()
    """Tags that become dimensions in CloudWatch."""


class CachingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[caching]``: prompt caching."""

    plan: bool = True
    """Place breakpoints where the expected saving is positive; a client's own are always kept."""
    mends: bool = False
    """Sort tools by name, and the keys of their schemas, so that one set makes one prefix."""


class BudgetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[budgets.NAME]``: the most that may be spent in a period."""

    usd: Decimal | None = None
    tokens: int | None = None
    requests: int | None = None
    period: Literal["day", "week", "month", "run"] = "month"
    """Calendar periods in UTC."""
    per: tuple[str, ...] = ()
    """Whom it binds: ``key``, ``user``, ``conversation``, ``run`` or ``tag:NAME``, each alone
    (every value has a counter of its own) or with ``=VALUE``; all must match."""
    soft_share: Decimal | None = None
    """Share of the limit from which calls carry a warning, such as 0.8."""
    unpriced: Literal["refuse", "pass"] = "refuse"
    """What becomes of a call without a known price under a limit in dollars."""


class LimitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits.KEY_ID]``: how fast a key may call; ``*`` holds for keys not named."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class TamingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[taming]``: what happens to replies before clients see them."""

    hold_reasoning: Literal["never", "with_tools", "always"] = "with_tools"
    """When a stream's reasoning waits for the first text or call. A turn that breaks can be asked
    again only while the client has seen nothing of it; ``never`` shows reasoning as it comes."""
    prose: Mapping[str, Mapping[str, Any]] = {}
    """``[taming.prose.TOOL]``: how a tool's argument looks when the model types it into the chat
    instead of calling; see ``docs/taming.md``."""


class DefaultsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[defaults]``: what holds where nobody says otherwise."""

    model: str | None = None
    """For ``kimiya chat``; none takes the first that can be reached."""
    mode: Mode | None = None
    """``instant`` or ``thinking``; none leaves it to the host."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of ``kimiya.toml``, environment included."""

    gateway: GatewayConfig = GatewayConfig()
    providers: Mapping[str, ProviderConfig] = {}
    routes: Mapping[str, RouteConfig] = {}
    models: tuple[Mapping[str, Any], ...] = ()
    """Rows for ``Catalog.load``; see ``overrides``."""
    taming: TamingConfig = TamingConfig()
    caching: CachingConfig = CachingConfig()
    ledger: LedgerConfig = LedgerConfig()
    budgets: Mapping[str, BudgetConfig] = {}
    limits: Mapping[str, LimitConfig] = {}
    defaults: DefaultsConfig = DefaultsConfig()
    file: str | None = None
    """The file it was read from; ``None`` where there was none."""

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What ``Catalog.load`` takes."""
        return {"models": self.models} if self.models else {}

    def route_for(self, model: str) -> RouteConfig | None:
        """The route of a model name: the one so called, else the longest pattern that matches.

        >>> config = Config(routes={"claude-*": RouteConfig(targets=("moonshot:kimi-k2.6",))})
        >>> config.route_for("claude-haiku-4-5").targets
        ('moonshot:kimi-k2.6',)
        """
        exact = self.routes.get(model)
        if exact is not None:
            return exact
        fitting = [name for name in self.routes if "*" in name and _fits(model, name)]
        return self.routes[max(fitting, key=len)] if fitting else None


def _fits(model: str, pattern: str) -> bool:
    """Only ``*`` is special; brackets and question marks mean themselves."""
    escaped = "".join(f"[{c}]" if c in "[?" else c for c in pattern)
    return fnmatchcase(model, escaped)
