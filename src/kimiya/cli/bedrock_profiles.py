"""What ``kimiya bedrock profiles`` does, one function for each action, and how it is shown."""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from kimiya.errors import ConfigError, KimiyaError

if TYPE_CHECKING:
    from kimiya.bedrock.profiles import Profile
    from kimiya.bedrock.resolution import Resolution
    from kimiya.cli.bedrock import Place

_AT_ONCE = 8


def list_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Print profiles of every region meant; a region that refuses does not hide the others."""
    regions = _known_regions() if args.all_regions else place.regions()

    def ask(region: str) -> "list[Profile] | KimiyaError":
        control = place.control(region)
        kinds = (args.type,) if args.type else ("system", "application")
        try:
            return [profile for kind in kinds for profile in control.profiles(kind)]
        except KimiyaError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(ask, regions))
    found: list[Profile] = []
    refused: list[KimiyaError] = []
    for region, answer in zip(regions, answers, strict=True):
        if isinstance(answer, KimiyaError):
            refused.append(answer)
            if len(regions) > 1:
                print(f"kimiya: {region}: {answer.message}", file=sys.stderr)
        else:
            found += answer
    if refused and len(refused) == len(regions):
        raise refused[0]
    word = (args.model or "").casefold()
    _print([p for p in found if word in f"{p.base_model} {p.profile_id}".casefold()], args)
    return 0


def show_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Print one profile."""
    profile = place.control(default=_region_of(args.profile)).profile(args.profile)
    if args.json:
        print(json.dumps(_row(profile)))
        return 0
    for name, value in _row(profile).items():
        if value:
            print(f"{name:<13} {_words(value)}")
    return 0


def create_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Make an application profile in every region meant, and print the ARNs."""
    from kimiya.bedrock.control import checked_tags

    tags = checked_tags(args.tag)
    made: list[dict[str, str]] = []
    for region in place.regions(_region_of(args.model)):
        control = place.control(region)
        source = args.model
        if not source.startswith("arn:"):
            from kimiya.bedrock.resolution import source_arn

            source = source_arn(_resolved(place, args, region), _partition(region))
        arn = control.create(args.name, source, tags=tags, description=args.description)
        made.append({"region": region, "arn": arn, "source": source})
    print(json.dumps(made) if args.json else "\n".join(row["arn"] for row in made))
    return 0


def tag_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Set and remove tags, and print what is left."""
    from kimiya.bedrock.control import checked_tags

    tags = checked_tags(args.tag)
    if not (tags or args.remove):
        raise ConfigError("no tag is given", remedy="Write KEY=VALUE, or --remove KEY")
    control = place.control(default=_region_of(args.profile))
    if tags:
        control.tag(args.profile, tags)
    if args.remove:
        control.untag(args.profile, args.remove)
    left = control.tags(args.profile)
    print(json.dumps(left) if args.json else _words(left) or "no tags")
    return 0


def delete_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Delete one, once it is clear that this is meant."""
    if not args.yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                f"{args.profile} would be deleted for good",
                key="--yes",
                remedy="Say --yes to do so",
            )
        answer = input(f"Delete {args.profile}? What calls it will fail. [y/N] ")
        if answer.strip().casefold() not in ("y", "yes"):
            print("kept")
            return 1
    place.control(default=_region_of(args.profile)).delete(args.profile)
    gone = json.dumps({"deleted": args.profile})
    print(gone if args.json else f"{args.profile} is deleted")
    return 0


def resolve_profiles(place: "Place", args: argparse.Namespace) -> int:
    """Print what a region accepts for a name, and what holds for it."""
    regions = place.regions(_region_of(args.model))
    found = _resolved(place, args, regions[0])
    row = _resolution_row(found)
    if args.json:
        print(json.dumps(row))
        return 0
    print(found.model_id)
    for name, value in row.items():
        if value and name not in ("written", "model_id"):
            print(f"  {name:<9} {_words(value)}")
    return 0


def _resolved(place: "Place", args: argparse.Namespace, region: str) -> "Resolution":
    from kimiya.bedrock.resolution import Wish, resolve
    from kimiya.catalog.catalog import Catalog
    from kimiya.config import load_config

    settings = place.settings
    residency = getattr(args, "residency", None)
    if residency is None and settings is not None:
        residency = settings.data_residency
    wish = Wish(residency, settings.base_models if settings is not None else {})
    catalog = Catalog.load(load_config(args.config).overrides)
    return resolve(args.model, place.control(region), catalog, wish)


def _region_of(identifier: str) -> str | None:
    """The region an ARN names, so that nobody need type it."""
    from kimiya.bedrock.model_id import region_in

    return region_in(identifier) or None


def _known_regions() -> list[str]:
    from importlib import import_module

    session: Any = import_module("botocore.session").Session()
    return sorted(session.get_available_regions("bedrock"))


def _partition(region: str) -> str:
    if region.startswith("us-gov-"):
        return "aws-us-gov"
    return "aws-cn" if region.startswith("cn-") else "aws"


def _print(profiles: "list[Profile]", args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps([_row(profile) for profile in profiles]))
        return
    if not profiles:
        print("no such profiles")
    for region in dict.fromkeys(profile.region for profile in profiles):
        print(region)
        for profile in profiles:
            if profile.region == region:
                model = (
                    "" if profile.kind == "system" else f"  {profile.name}: {profile.base_model}"
                )
                where = ", ".join(place or "everywhere" for place in profile.regions)
                print(f"  {profile.callable_id}{model}\n      {profile.kind}, answers in {where}")


def _row(profile: "Profile") -> dict[str, Any]:
    return {
        "id": profile.profile_id,
        "arn": profile.arn,
        "name": profile.name,
        "type": profile.kind,
        "status": profile.status,
        "region": profile.region,
        "model": profile.base_model,
        "answers_in": [place or "everywhere" for place in profile.regions],
        "description": profile.description,
        "created_at": profile.created_at.isoformat() if profile.created_at else None,
        "tags": dict(profile.tags or {}),
    }


def _resolution_row(found: "Resolution") -> dict[str, Any]:
    card = found.card
    price = card.price_on(datetime.now(UTC).date()) if card is not None else None
    where = found.profile.regions if found.profile is not None else (found.region,)
    return {
        "written": found.written,
        "model_id": found.model_id,
        "model": card.name if card is not None else "not in the catalogue",
        "behind": found.base_model,
        "answers": ", ".join(place or "everywhere" for place in where),
        "caching": _caching(card.cache) if card is not None else "unknown",
        "price": "unpriced"
        if price is None
        else f"${price.input_usd_per_mtok:f} in, ${price.output_usd_per_mtok:f} out per Mtok",
        "tags": dict((found.profile.tags or {}) if found.profile is not None else {}),
        "why": found.why,
    }


def _caching(rule: Any) -> str:
    if rule.kind != "explicit":
        return str(rule.kind)
    least = f"from {rule.min_tokens} tokens, " if rule.min_tokens else ""
    return f"explicit, {least}{rule.max_breakpoints} points, {' or '.join(rule.ttls)}"


def _words(value: object) -> str:
    if isinstance(value, dict):
        pairs: dict[str, str] = msgspec.convert(value, dict[str, str])
        return ", ".join(f"{key}={word}" for key, word in pairs.items())
    if isinstance(value, list):
        return ", ".join(msgspec.convert(value, list[str]))
    return str(value)
