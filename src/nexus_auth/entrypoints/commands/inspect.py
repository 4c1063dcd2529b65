"""`nexus-auth inspect CERT`: what is in a certificate, offline."""

from __future__ import annotations

import argparse
import sys

from nexus_auth.domain.decision import Denied
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch
from nexus_auth.entrypoints.terminal import as_json, painted

_EPILOG = """\
No request is sent, so this cannot say whether the hotkey is registered:
see nexus-auth verify.

examples:
  nexus-auth inspect certs/client.crt
  nexus-auth inspect --json certs/client.crt
  openssl s_client -connect 203.0.113.7:8443 </dev/null | openssl x509 |
      nexus-auth inspect -

exit codes: 0 it was shown; 1 it is no certificate, or could not be read;
            2 wrong usage
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("certificate", metavar="CERT", help="a PEM or DER file; - reads stdin")
    add_switch(parser, "json", "print JSON")
    parser.epilog = _EPILOG


def execute(args: argparse.Namespace) -> int:
    """Shows one certificate."""
    from nexus_auth.adapters.clock import utc_now
    from nexus_auth.entrypoints import description

    data = description.load_certificate(args.certificate)
    try:
        described = description.build_description(data, utc_now())
    except CertificateRejected as exc:
        denial = Denied(reason=exc.reason, detail=exc.detail)
        if args.json:
            print(as_json({"refusal": description.denial_as_json(denial)}))
        else:
            print(_verdict(denial))
        return exit_codes.FAILED
    if args.json:
        print(as_json(described.document))
    else:
        print("\n".join([*described.lines, "", _verdict(described.denial)]))
    return exit_codes.DONE


def _verdict(denial: Denied | None) -> str:
    if denial is None:
        word = painted("nothing speaks against it", "green", sys.stdout)
        return f"{word}: whether it gets in depends on the registered key and the access policy"
    word = painted("would be denied", "red", sys.stdout)
    return f"{word}: {denial.reason.value} ({denial.detail})"
