"""The whole answer to "what do I write?": a name, id or ARN to what a region accepts, and why.

Where ``resolver`` learns by being refused, on the path of calls, this asks the control plane
outright and raises where it may not: it is for people at a terminal.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from kimiya.bedrock.control import ControlPlane
from kimiya.bedrock.model_id import (
    GLOBAL,
    is_application_profile,
    name_in,
    region_in,
    split_prefix,
)
from kimiya.bedrock.profiles import Profile, ways_to
from kimiya.bedrock.residency import Residency
from kimiya.catalog.card import ModelCard
from kimiya.catalog.catalog import Catalog
from kimiya.errors import InvalidRequest, UnknownModel

HOST = "bedrock"


class Resolution(Struct, frozen=True, kw_only=True):
    """What a written name comes to in one region."""

    written: str
    region: str
    model_id: str
    """What to call with."""
    base_model: str
    """The model's own id."""
    why: str
    """One clause: how it was found."""
    card: ModelCard | None = None
    """What holds for it, priced for the way taken; ``None`` where the catalogue has no such."""
    profile: Profile | None = None
    """``None`` where the model is called in its region, by its own id."""


class Wish(Struct, frozen=True):
    """What is wanted of a resolution, besides the name."""

    residency: Residency | None = None
    base_models: Mapping[str, str] = {}
    """Application profile ARN to model: wins over what AWS says."""


def resolve(
    written: str, control: ControlPlane, catalog: Catalog, wish: Wish | None = None
) -> Resolution:
    """Resolve one name.

    Raises:
        UnknownModel: It is no id, and no name of the catalogue's.
        InvalidRequest: The region, or the residency, has no way to it.
        KimiyaError: The control plane cannot be asked.
    """
    wish = wish or Wish()
    there = region_in(written)
    if there and there != control.region:
        raise InvalidRequest(
            f"{written} lies in {there}, and {control.region} was asked. Ask with --region {there}"
        )
    if is_application_profile(written):
        return _application(written, control, catalog, wish)
    model_id = _model_id(name_in(written), catalog)
    prefix, base = split_prefix(model_id)
    listed = control.profiles("system")
    own = next((profile for profile in listed if profile.profile_id == model_id), None)
    is_name = model_id != name_in(written)
    if own is not None and (not own.is_global or wish.residency in (None, GLOBAL)):
        if wish.residency != "region":
            why = "the catalogue's id of that name" if is_name else "as written"
            return _made(written, control, catalog, own, why)
    elif prefix and prefix != GLOBAL and not is_name:
        raise _nowhere(base, listed, control.region, wish)
    if (not prefix or wish.residency == "region") and control.is_on_demand(base):
        card = catalog.find(HOST, base)
        return Resolution(
            written=written,
            region=control.region,
            model_id=base,
            base_model=base,
            why="called on demand in this region",
            card=card,
        )
    ways: Sequence[Profile] = ()
    if wish.residency != "region":
        allows_global = wish.residency == GLOBAL
        ways = ways_to(base, listed, control.region, allows_global=allows_global)
    if not ways:
        raise _nowhere(base, listed, control.region, wish)
    return _made(written, control, catalog, ways[0], "the nearest profile that has it")


def source_arn(found: Resolution, partition: str = "aws") -> str:
    """What an application profile of it is copied from."""
    if found.profile is not None:
        return found.profile.arn
    return f"arn:{partition}:bedrock:{found.region}::foundation-model/{found.base_model}"


def _model_id(written: str, catalog: Catalog) -> str:
    """The id behind a name; what begins with a vendor's word is an id, and stays as it is."""
    try:
        cards = catalog.named(written)
    except UnknownModel:
        if "." in written and written.partition(".")[0].replace("-", "").isalpha():
            return written
        raise
    own = next((card for card in cards if card.host == HOST), None)
    if own is None:
        raise UnknownModel(f"{HOST}/{written}", catalog.nearest(written))
    return own.model_id


def _application(written: str, control: ControlPlane, catalog: Catalog, wish: Wish) -> Resolution:
    told = wish.base_models.get(written)
    profile = None if told is not None else control.profile(written)
    like = told or (profile.equivalent if profile is not None else "")
    return Resolution(
        written=written,
        region=control.region,
        model_id=written,
        base_model=split_prefix(like)[1],
        why="base_models in kimiya.toml says so" if told else "AWS says so",
        card=catalog.find(HOST, like),
        profile=profile,
    )


def _made(
    written: str, control: ControlPlane, catalog: Catalog, profile: Profile, why: str
) -> Resolution:
    return Resolution(
        written=written,
        region=control.region,
        model_id=profile.callable_id,
        base_model=profile.base_model,
        why=why,
        card=catalog.find(HOST, profile.profile_id),
        profile=profile,
    )


def _nowhere(base: str, listed: Sequence[Profile], region: str, wish: Wish) -> InvalidRequest:
    there = [p.profile_id for p in listed if split_prefix(p.profile_id)[1] == base]
    if not there:
        return InvalidRequest(f"{region} has neither {base} nor a profile of it; ask in another")
    if wish.residency == "region":
        return InvalidRequest(
            f'{region} serves {base} through profiles only, which data_residency = "region" does'
            f" not allow: {', '.join(there)}"
        )
    return InvalidRequest(
        f"{region} serves {base} only as {', '.join(there)}. Write one of these, or set"
        ' data_residency = "global" for the provider where that is what you want'
    )
