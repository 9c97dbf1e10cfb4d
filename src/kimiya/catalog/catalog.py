"""The catalogue: every card, found by host and id, by name, or by alias.

Invariants:

* One card stands for one host and model id. Overrides change cards before anything reads them.
* An alias may stand on several cards; ``named`` gives all of them, current ones first, and who
  calls it picks those it has a provider for.
* Ids with a routing prefix (``us.anthropic...``) and ARNs that end in one find the card of the
  model behind them, with the prices of that prefix.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, cast

from msgspec import structs

from kimiya.catalog.card import (
    CacheRule,
    DialectName,
    ModelCard,
    Price,
    RawRow,
    Source,
    ThinkingSwitch,
)
from kimiya.catalog.rows import card_of, gathered
from kimiya.core.nearest import nearest
from kimiya.errors import ConfigError, UnknownModel

_FILES = ("moonshot", "anthropic", "bedrock", "selfhosted", "local")
"""Also the order in which cards of one name are given."""

_PREFIX = re.compile(r"^(?P<prefix>[a-z][a-z-]{1,7})\.(?=[a-z0-9-]+\.)")
"""A routing prefix: a short word before ``vendor.model``. The set of them is open."""


class Catalog:
    """Every card there is. Built by ``load``; never changes."""

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self._cards = tuple(cards)
        self._by_id = {(card.host, card.model_id): card for card in cards}
        self._by_base = {
            (card.host, _split(card.model_id)[1]): card
            for card in cards
            if card.profile_price_factors
        }
        self._by_name: dict[str, list[ModelCard]] = {}
        for card in sorted(cards, key=lambda c: c.status != "current"):
            words = dict.fromkeys(
                word.casefold()
                for word in (card.name, *card.aliases, f"{card.host}/{card.model_id}")
            )
            for word in words:
                self._by_name.setdefault(word, []).append(card)

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None) -> "Catalog":
        """The rows of this package with the user's on top.

        Args:
            overrides: ``{"models": [row, ...]}``, the shape of the data files: new rows, or fields
                of known ones by ``host`` and ``model_id``.

        Raises:
            ConfigError: A row does not fit, with its key (``models[0].context_tokens``).
        """
        if not overrides or not overrides.get("models"):
            return _shipped()
        rows = [*_shipped_rows(), *_override_rows(overrides)]
        return cls([card_of(place, row) for place, row in gathered(rows).values()])

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Every card, in the order of the data files, the user's own last."""
        return self._cards

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host some card stands for."""
        return tuple(dict.fromkeys(card.host for card in self._cards))

    @property
    def names(self) -> tuple[str, ...]:
        """Every name and alias, sorted."""
        return tuple(sorted({w for card in self._cards for w in (card.name, *card.aliases)}))

    def find(self, host: str, model_id: str) -> ModelCard | None:
        """The card of a model at a host, by the host's own id; else by our name of it.

        An id with another routing prefix than the row's, or an ARN ending in one, finds the row
        too; the card then carries the id as given and the prices of that prefix.
        """
        exact = self._by_id.get((host, model_id))
        if exact is not None:
            return exact
        return self._behind_prefix(host, model_id) or next(
            (card for card in self._by_name.get(model_id.casefold(), ()) if card.host == host),
            None,
        )

    def named(self, name: str) -> tuple[ModelCard, ...]:
        """Every card of this name, alias, or ``host/model_id``; current ones first.

        Raises:
            UnknownModel: With the nearest names.
        """
        found = self._by_name.get(name.casefold())
        if found:
            return tuple(found)
        host, slash, model_id = name.partition("/")
        card = self.find(host, model_id) if slash else None
        if card is None:
            raise UnknownModel(name, self.nearest(name))
        return (card,)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Names and aliases that look like ``name``."""
        return nearest(name, self.names)

    def _behind_prefix(self, host: str, model_id: str) -> ModelCard | None:
        tail = model_id.rpartition("/")[2] if model_id.startswith("arn:") else model_id
        prefix, base = _split(tail)
        card = self._by_base.get((host, base))
        if card is None:
            return None
        factors = card.profile_price_factors
        factor = factors.get(prefix, factors.get("*"))
        prices = () if factor is None else tuple(_times(price, factor) for price in card.prices)
        return structs.replace(card, model_id=model_id, prices=prices)


def unknown_card(host: str, model_id: str, dialect: DialectName) -> ModelCard:
    """A card for a model nobody has described: it forbids nothing, knows nothing, has no price.

    Its replies are tamed all the same: a label is not the model (Kimi's markers have arrived under
    other names), and taming changes nothing of a well-formed reply. Cache marks are kept only where
    the dialect has its own field for them and hosts ignore what they do not use; on Bedrock a model
    that takes none refuses the whole call.
    """
    switch = ThinkingSwitch(form="native", modes=("instant", "thinking"), default="instant")
    template = next((card for card in _shipped().cards if card.host == host), None)
    if template is not None and template.thinking.form == "chat_template_kwargs":
        # An engine switches thinking in one way, whatever model it serves under whatever name.
        switch = structs.replace(switch, form="chat_template_kwargs")
    source = Source(url="none: not in the catalogue", checked=date(1970, 1, 1))
    explicit = dialect == "anthropic_messages"
    return ModelCard(
        name=model_id,
        host=host,
        model_id=model_id,
        dialects=(dialect,),
        has_vision=True,
        has_video=True,
        structured_outputs="json_schema",
        thinking=switch,
        reasoning_field=template.reasoning_field if template else "reasoning_content",
        call_format="kimi_k2",
        cache=CacheRule(
            kind="explicit" if explicit else "none",
            max_breakpoints=4 if explicit else 0,
            ttls=("5m", "1h") if explicit else (),
            places=("tools", "system", "messages") if explicit else (),
            source=source,
        ),
        notes="Not in the catalogue; describe it under [[models]] in kimiya.toml.",
        source=source,
    )


def _split(model_id: str) -> tuple[str, str]:
    """The routing prefix (``""`` where there is none) and the id behind it."""
    found = _PREFIX.match(model_id)
    return (found["prefix"], model_id[found.end() :]) if found else ("", model_id)


def _times(price: Price, factor: Any) -> Price:
    changed = {
        name: value * factor
        for name in price.__struct_fields__
        if name.endswith("_usd_per_mtok") and (value := getattr(price, name)) is not None
    }
    return structs.replace(price, **changed)


def _override_rows(overrides: Mapping[str, Any]) -> list[tuple[str, RawRow]]:
    rows = overrides["models"]
    if not isinstance(rows, list | tuple) or not all(
        isinstance(row, Mapping) for row in cast("Sequence[object]", rows)
    ):
        raise ConfigError(
            "models must be a list of tables", key="models", remedy="Write each as [[models]]"
        )
    return [(f"models[{number}]", row) for number, row in enumerate(cast("list[RawRow]", rows))]


@cache
def _shipped_rows() -> tuple[tuple[str, RawRow], ...]:
    folder = resources.files("kimiya.catalog") / "data"
    rows: list[tuple[str, RawRow]] = []
    for stem in _FILES:
        text = (folder / f"{stem}.toml").read_text(encoding="utf-8")
        table = tomllib.loads(text)
        rows += [(f"{stem}.toml models[{n}]", row) for n, row in enumerate(table["models"])]
    return tuple(rows)


@cache
def _shipped() -> Catalog:
    """Read once: the files are part of the package and every value is frozen."""
    return Catalog([card_of(place, row) for place, row in gathered(_shipped_rows()).values()])
