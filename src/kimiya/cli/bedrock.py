"""``kimiya bedrock``: inference profiles of one or many regions, and a CloudWatch dashboard."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from kimiya.cli.configured import add_config_option
from kimiya.errors import ConfigError

if TYPE_CHECKING:
    from kimiya.bedrock.control import BotoControlPlane
    from kimiya.config.settings import ProviderConfig


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``bedrock``."""
    parser = subparsers.add_parser("bedrock", help="inference profiles, and a CloudWatch dashboard")
    rooms = parser.add_subparsers(dest="room", metavar="WHAT", required=True)
    profiles = rooms.add_parser("profiles", help="list, show, create, tag, delete, resolve")
    actions = profiles.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_reading(actions)
    _add_writing(actions)
    _add_dashboard(rooms)
    parser.set_defaults(run=run)


def _add_reading(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    listing = actions.add_parser("list", help="profiles there are")
    listing.add_argument("--type", choices=("system", "application"), help="only these")
    listing.add_argument("--model", metavar="TEXT", help="only models whose id holds this")
    listing.add_argument(
        "--all-regions", action="store_true", help="every region Bedrock is known in"
    )
    _add_place(listing, many=True)
    show = actions.add_parser("show", help="one profile, with its tags")
    show.add_argument("profile", metavar="ID", help="id or ARN")
    _add_place(show)
    resolving = actions.add_parser("resolve", help="what a region accepts for a name, id or ARN")
    resolving.add_argument("model", metavar="MODEL", help="claude-sonnet-4-5, an id, an ARN")
    resolving.add_argument(
        "--residency", choices=("region", "geography", "global"), help="instead of the configured"
    )
    _add_place(resolving)


def _add_writing(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    create = actions.add_parser("create", help="make an application profile")
    create.add_argument("name", metavar="NAME", help="at most 64 letters, digits, spaces, - and _")
    create.add_argument(
        "--from", dest="model", required=True, metavar="MODEL", help="a name, an id or an ARN"
    )
    create.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as department=risk, project=slides, cost-center=42",
    )
    create.add_argument("--description", metavar="TEXT")
    _add_place(create, many=True)
    tag = actions.add_parser("tag", help="set or remove tags of a profile")
    tag.add_argument("profile", metavar="ARN")
    tag.add_argument("tag", nargs="*", metavar="KEY=VALUE")
    tag.add_argument("--remove", action="append", default=[], metavar="KEY")
    _add_place(tag)
    delete = actions.add_parser("delete", help="delete an application profile")
    delete.add_argument("profile", metavar="ARN")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    _add_place(delete)


def _add_dashboard(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    dashboard = rooms.add_parser(
        "dashboard", help="a CloudWatch dashboard of Kimiya's and Bedrock's metrics"
    )
    dashboard.add_argument("--name", default="kimiya", help="of the dashboard (kimiya)")
    dashboard.add_argument("--namespace", default=None, help="of Kimiya's metrics (Kimiya)")
    dashboard.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="ID",
        help="models to show; otherwise those that were called",
    )
    dashboard.add_argument("--apply", action="store_true", help="put it into CloudWatch")
    _add_place(dashboard)


def _add_place(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    parser.add_argument(
        "--region",
        action="append",
        metavar="REGION",
        help="else the configured provider's, else AWS_REGION" + ("; may be repeated" * many),
    )
    parser.add_argument("--provider", metavar="NAME", help="of kind bedrock, in kimiya.toml")
    parser.add_argument("--endpoint-url", metavar="URL", help="another address of AWS")
    parser.add_argument("--profile-name", metavar="NAME", help="of the shared AWS files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


class Place:
    """Where a command works: the configured provider, with what was typed on top."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.settings = _settings(args)

    def regions(self, default: str | None = None) -> list[str]:
        """The regions meant.

        Raises:
            ConfigError: Nobody says which.
        """
        from kimiya.config.discovery import region_of

        typed: list[str] | None = self._args.region
        configured = self.settings.region if self.settings is not None else None
        found = typed or [default or configured or region_of(os.environ) or ""]
        if not found[0]:
            raise ConfigError(
                "no AWS region is known", key="--region", remedy="Give one, or set AWS_REGION"
            )
        return list(dict.fromkeys(found))

    def control(self, region: str | None = None, default: str | None = None) -> "BotoControlPlane":
        """The control plane of a region; without one, of the only one meant.

        Raises:
            ConfigError: Several were given where one is meant.
        """
        from kimiya.bedrock.control import BotoControlPlane
        from kimiya.bedrock.resolver import control_address

        if region is None:
            regions = self.regions(default)
            if len(regions) > 1:
                raise ConfigError("one region is meant here", key="--region", remedy="Give one")
            region = regions[0]
        address = self._args.endpoint_url
        if address is None and self.settings is not None:
            address = control_address(self.settings)
        return BotoControlPlane(region, address, self._args.profile_name)


def _settings(args: argparse.Namespace) -> "ProviderConfig | None":
    from kimiya.config import load_config

    providers = load_config(args.config).providers
    fitting = {name: p for name, p in providers.items() if p.kind == "bedrock"}
    if args.provider is None:
        return next(iter(fitting.values()), None)
    if args.provider not in fitting:
        raise ConfigError(
            f"there is no provider {args.provider!r} of kind bedrock",
            key="--provider",
            remedy=f"Configured: {', '.join(fitting) or 'none'}",
        )
    return fitting[args.provider]


def run(args: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        ConfigError: What was typed cannot be used.
        KimiyaError: AWS refuses, or cannot be reached.
    """
    place = Place(args)
    if args.room == "dashboard":
        return _dashboard(place, args)
    from kimiya.cli import bedrock_profiles

    action = getattr(bedrock_profiles, f"{args.action}_profiles")
    code: int = action(place, args)
    return code


def _dashboard(place: Place, args: argparse.Namespace) -> int:
    from kimiya.bedrock.dashboard import dashboard
    from kimiya.bedrock.metrics import NAMESPACE

    control = place.control()
    body = dashboard(control.region, namespace=args.namespace or NAMESPACE, models=args.model)
    if not args.apply:
        print(json.dumps(body, indent=2))
        return 0
    control.put_dashboard(args.name, json.dumps(body))
    print(
        f"https://{control.region}.console.aws.amazon.com/cloudwatch/home"
        f"?region={control.region}#dashboards/dashboard/{args.name}"
    )
    print(f"{args.name} is in CloudWatch, {control.region}", file=sys.stderr)
    return 0
