"""``kimiya keys``: who may call the gateway. Secrets are shown once, when they are made."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kimiya.cli.configured import add_config_option

if TYPE_CHECKING:
    from kimiya.gateway.keys import Key, KeyStore


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``keys``."""
    parser = subparsers.add_parser("keys", help="keys of the gateway: create, list, revoke")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and show it this once")
    create.add_argument("name", metavar="NAME", help="whose key it is")
    revoke = actions.add_parser("revoke", help="close the door to a key")
    revoke.add_argument("key_id", metavar="ID", help="as `kimiya keys list` shows it")
    for action in (create, actions.add_parser("list", help="every key, never its secret"), revoke):
        add_config_option(action)
        action.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        ConfigError: No such key, or the file cannot be used.
    """
    from kimiya.config import load_config
    from kimiya.gateway.keys import KeyStore

    store = KeyStore(Path(load_config(args.config).gateway.keys_file).expanduser())
    if args.action == "create":
        _create(store, args)
    elif args.action == "revoke":
        key = store.revoke(args.key_id)
        print(json.dumps(_row(key)) if args.json else f"{key.key_id} ({key.name}) is revoked")
    else:
        _list(store, args)
    return 0


def _create(store: "KeyStore", args: argparse.Namespace) -> None:
    key_id, secret = store.create(args.name)
    if args.json:
        print(json.dumps({"key_id": key_id, "name": args.name, "secret": secret}))
        return
    print(secret)
    print(f"This is key {key_id} for {args.name}; it is not shown again.")


def _list(store: "KeyStore", args: argparse.Namespace) -> None:
    rows = [_row(key) for key in store.list()]
    if args.json:
        print(json.dumps(rows))
        return
    if not rows:
        print("no keys: the gateway listens on loopback only. `kimiya keys create NAME` makes one")
    for row in rows:
        state = f"revoked {row['revoked_at']}" if row["revoked_at"] else "active"
        print(f"{row['key_id']}  {row['created_at']}  {state:<30}  {row['name']}")


def _row(key: "Key") -> dict[str, str | None]:
    """A key as it may be shown: without its digest."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "revoked_at": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else None,
    }
