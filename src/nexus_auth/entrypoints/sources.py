"""Where the text of a setting comes from: the environment, the env file, and files of secrets."""

from __future__ import annotations

import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from dotenv.parser import Binding

ENV_FILE_VARIABLE: Final = "NEXUS_AUTH_ENV_FILE"

_PREFIXES: Final = ("NEXUS_AUTH_", "NEXUS_PYLON_", "NEXUS_CHAIN_")
# Not settings of the table: read by the development Pylon, by tests.
_OTHER_NAMES: Final = (
    *("NEXUS_PYLON_DEV_TOKEN", "NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN"),
    "NEXUS_AUTH_REQUIRE_REAL",
)
_PUBLICATION: Final = "NEXUS_AUTH_PUBLISH_"
"""How the names begin that a command of `generate -publish-with` finds, for itself."""
_SERVICE_HOST: Final = "_SERVICE_HOST"
_MAX_SECRET_FILE_BYTES: Final = 16 * 1024
_MAX_ENV_FILE_CHARACTERS: Final = 1024 * 1024
"""Far more than any program's settings. An endless file must not fill the memory."""

_UNSEEN: Final = re.compile(r"[^!-~\u2010-\u2015\u2212]")
"""All but printable ASCII and the other dashes: white space, zero-width and control characters."""

_SHOWN: Final = re.compile(
    r".*?" + r"[^ -~]*".join("nexus") + r"(?:[\w.-]|[^ -~\s])*", re.IGNORECASE | re.DOTALL
)
"""A name up to what may separate it from a value, which may be a secret."""


@dataclass(frozen=True, slots=True)
class Found:
    """The text of a setting.

    Attributes:
        text: The text.
        origin: The words that say where it came from.
        is_implicit: Whether only the `.env` of the working directory says so. It is read because
            it is there, and may have come with the folder.
    """

    text: str
    origin: str
    is_implicit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The variables of the environment and of the env file. An empty value means unset."""

    environ: Mapping[str, str]
    env_file: Mapping[str, str]
    env_file_name: str
    is_implicit: bool
    known: frozenset[str]

    @classmethod
    def load(cls, environ: Mapping[str, str], settings: Mapping[str, bool]) -> Self:
        """Reads the env file: the one that the environment names, else `.env` where it exists.

        Args:
            environ: The environment.
            settings: The name of every setting, and whether it is a secret.

        Raises:
            ConfigurationError: When the file cannot be read, or another user could have chosen
                what `.env` says; when a name of ours is written so that no setting is read.
        """
        secrets = (f"{name}_FILE" for name, is_secret in settings.items() if is_secret)
        known = frozenset({*settings, *secrets, *_OTHER_NAMES})
        named = environ.get(ENV_FILE_VARIABLE)
        path = Path(named or ".env")
        try:
            is_file, problem = path.is_file(), "no such file"
        except OSError as exc:
            # Started with another user's working directory (sudo -u): its file is not meant.
            is_file, problem = False, exc.strerror or "not readable"
        if named and not is_file:
            raise ConfigurationError(
                setting=ENV_FILE_VARIABLE, source="environment", problem=f"{named!r}: {problem}"
            )
        variables = _load_env_file(path, known, is_implicit=not named) if is_file else {}
        known |= {ENV_FILE_VARIABLE}  # has no meaning in the file itself
        for name in environ.keys() - known:
            meant = _fold(name)
            if meant in known:
                raise ConfigurationError(
                    setting=meant, source="environment", problem=f"{name!a} is another name"
                )
        return cls(
            environ=environ,
            env_file=variables,
            env_file_name=str(path),
            is_implicit=not named,
            known=known,
        )

    def find(self, name: str, *, is_secret: bool) -> Found | None:
        """Finds the text of a setting; None where it is unset.

        Args:
            name: The environment variable.
            is_secret: Whether `NAME_FILE` may hold the path of a file with the value.

        Raises:
            ConfigurationError: When that file cannot be read or is empty.
        """
        read = (
            (self.environ, "environment", False),
            (self.env_file, self.env_file_name, self.is_implicit),
        )
        for values, origin, is_implicit in read:
            if values.get(name):
                return Found(values[name], origin, is_implicit)
            path = values.get(f"{name}_FILE") if is_secret else None
            if path:
                text = _load_secret(name, path, origin)
                # A path is no secret: who writes `.env` may not be able to read what it names.
                is_beside = is_implicit and Path(path).resolve().is_relative_to(Path.cwd())
                return Found(text, f"{path}, named by {origin}", is_beside)
        return None

    def unknown_names(self) -> Iterator[str]:
        """A line for each variable with our prefixes that no setting has: most likely misspelt.

        Only of the environment, which other programs share. In an env file it is an error.
        """
        for name in sorted(self.environ.keys() - self.known - {*_service_links(self.environ)}):
            if _fold(name).startswith(_PREFIXES) and not name.startswith(_PUBLICATION):
                nearest = _find_nearest(name, self.known)
                hint = f"; did you mean {nearest}?" if nearest else ""
                yield f"{ascii(name)[1:-1]} is not a setting{hint}"


def _fold(name: str) -> str:
    """A name as a reader sees it: without quotation marks and what is invisible, one kind of dash.

    Zero-width characters, non-breaking spaces and letters of full width come with text that is
    copied from a page.
    """
    seen = _UNSEEN.sub("", unicodedata.normalize("NFKD", name).upper())
    return re.sub("[^A-Z0-9]+", "_", seen).strip("_")


def _find_nearest(name: str, known: frozenset[str]) -> str | None:
    """The setting that was probably meant; None where no name is like it."""
    import difflib

    folded = _fold(name)
    folded = folded[max(0, *(folded.find(prefix) for prefix in _PREFIXES)) :]
    begun = [each for each in known if folded.startswith(each)]
    if begun:
        return max(begun, key=len)
    return next(iter(difflib.get_close_matches(folded, sorted(known), n=1)), None)


def _service_links(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that Kubernetes makes by itself for a Service that is called like us.

    For a Service `nexus-auth` they are NEXUS_AUTH_SERVICE_HOST, NEXUS_AUTH_PORT and several more.
    """
    services = [
        name.removesuffix(_SERVICE_HOST) for name in environ if name.endswith(_SERVICE_HOST)
    ]
    begins = tuple(f"{service}_{kind}" for service in services for kind in ("SERVICE_", "PORT"))
    return (name for name in environ if name.startswith(begins))


def _load_secret(name: str, path: str, origin: str) -> str:
    try:
        # A pipe that was read at the start has no writer when it is read again.
        text = load_bytes(Path(path), _MAX_SECRET_FILE_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else "not ASCII text"
    else:
        if text:
            return text
        # An empty text is no secret, and a file that was named does not mean "not given".
        problem = "it is empty"
    raise ConfigurationError(setting=f"{name}_FILE", source=origin, problem=f"{path!r}: {problem}")


def _load_env_file(path: Path, known: frozenset[str], *, is_implicit: bool) -> dict[str, str]:
    """Reads the settings in an env file, and leaves what other programs have there alone."""
    # Imported only where there is a file to read.
    from dotenv.parser import parse_stream

    def wrong(problem: str) -> ConfigurationError:
        return ConfigurationError(setting=str(path.absolute()), problem=problem)

    try:
        # A FIFO that was placed here must not block the program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8-sig") as file:  # noqa: PTH123 - a descriptor.
            distrust = _find_distrust(path, os.fstat(file.fileno())) if is_implicit else None
            text = file.read(_MAX_ENV_FILE_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as exc:
        raise wrong(f"not readable: {exc}") from None
    if len(text) > _MAX_ENV_FILE_CHARACTERS:
        raise wrong(f"longer than {_MAX_ENV_FILE_CHARACTERS} characters; no file of settings")
    if distrust is not None:
        if any(_is_of_ours(line) for line in text.splitlines()):
            raise wrong(distrust)
        return {}
    values = {}
    for binding in parse_stream(io.StringIO(text)):
        for problem in _find_problems(binding, known):
            raise wrong(problem)
        if binding.key in known and binding.value is not None:
            values[binding.key] = binding.value
    return values


def _find_distrust(path: Path, opened: os.stat_result) -> str | None:
    """Why another user may have chosen what a file says, and what to do; None where none may.

    The name itself may be another user's symbolic link, and who may write its folder can put
    another file in its place.
    """
    path, folder = path.absolute(), path.absolute().parent
    for place, found in ((path, opened), (path, path.lstat()), (folder, folder.stat())):
        is_ours = found.st_uid in {0, os.geteuid()}
        others = stat.S_IWOTH if _has_group_of_its_own(found) else stat.S_IWOTH | stat.S_IWGRP
        # A link's mode means nothing, and in a sticky folder only the owner of a file replaces it.
        is_sticky = place == folder and found.st_mode & stat.S_ISVTX
        is_writable = found.st_mode & others and not stat.S_ISLNK(found.st_mode) and not is_sticky
        if not is_ours or is_writable:
            return (
                f"{place} has owner {found.st_uid} and mode {stat.S_IMODE(found.st_mode):04o}: "
                "another user can choose what the settings are. Own it and take the right away "
                f"(chmod go-w {place}), or set {ENV_FILE_VARIABLE}={path} if you trust it"
            )
    return None


def _has_group_of_its_own(found: os.stat_result) -> bool:
    """Whether a file's group is that of its owner alone, for which the usual umask is 002.

    As `pam_umask` has it: the same number, and not root's, which others may be in.
    """
    if found.st_gid != found.st_uid or not found.st_uid:
        return False
    import grp

    try:
        return not grp.getgrgid(found.st_gid).gr_mem
    except KeyError:
        return False


def _name_part(line: str) -> str:
    """What stands in a line before its value and its comment."""
    return re.split("[=#]", line.strip().lstrip("="), maxsplit=1)[0]


def _is_of_ours(line: str) -> bool:
    return any(prefix in _fold(_name_part(line)) for prefix in _PREFIXES)


def _find_problems(binding: Binding, known: frozenset[str]) -> Iterator[str]:
    """Each line of a statement where a name of ours stands and no setting is read, and why not.

    A setting that is silently unset may be the one that keeps callers out. What may hold a secret
    is not repeated.
    """
    is_setting = binding.key in known
    for offset, line in enumerate(binding.original.string.split("\n")):
        number = binding.original.line + offset
        # Some editors show as two lines what other characters separate.
        for part in line.splitlines():
            is_within = binding.error and any(prefix in part for prefix in _PREFIXES)
            if not is_within and not _is_of_ours(part):
                continue
            nearest = _find_nearest(part if is_within else _name_part(part), known)
            if binding.error:
                yield f"line {number} cannot be read; expected {nearest or 'NAME'}=VALUE"
            elif not is_setting:
                match = _SHOWN.match(_name_part(part))
                shown = match[0] if match else nearest or ""
                hint = f"; did you mean {nearest}?" if nearest else ""
                if shown == nearest:  # in a value that began before it, or with no `=`
                    hint = f" here; expected {nearest}=VALUE in a line of its own"
                yield f"line {number}: {shown!a} is not a setting{hint}"
            elif binding.value is None:
                yield f"line {number}: {binding.key} has no value; expected {binding.key}=VALUE"
            is_setting = False  # a further line of the statement is within a quoted value
