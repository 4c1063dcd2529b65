"""`nexus-auth config show`: the effective settings and where each came from."""

from __future__ import annotations

import argparse

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch
from nexus_auth.entrypoints.settings import (
    Setting,
    Settings,
    add_flags,
    all_settings,
    load_from,
    warn_of_unknown,
)
from nexus_auth.entrypoints.terminal import as_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = "exit codes: 0 shown; 2 wrong usage or configuration"
    parser.add_argument("action", choices=("show",), help="show: print every effective value")
    add_switch(parser, "json", "print JSON")
    add_flags(parser, (setting.attribute for setting in all_settings()))


def execute(args: argparse.Namespace) -> int:
    """Prints the settings; secrets are never shown, only whether they are set."""
    settings = load_from(args)
    rows = [
        {
            "name": setting.name,
            "value": _shown(setting, settings),
            "origin": settings.origins[setting.attribute],
        }
        for setting in all_settings()
    ]
    if args.json:
        print(as_json({"settings": rows, "unknown": settings.unknown}))
        return exit_codes.DONE
    width = max(len(row["name"]) for row in rows)
    value_width = max(len(row["value"]) for row in rows)
    for row in rows:
        print(f"{row['name']:{width}}  {row['value']:{value_width}}  {row['origin']}")
    warn_of_unknown(settings)
    return exit_codes.DONE


def _shown(setting: Setting, settings: Settings) -> str:
    value = getattr(settings, setting.attribute)
    if setting.secret:
        return (setting.default or "(unset)") if value is None else "(set, hidden)"
    if value is None and not setting.default:
        return "(unset)"
    return setting.write(value)
